"""What the tests of the contract know of each backbone: a tiny arch, golden numbers, published counts."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golden.fill_mixers import fill
from mini import MINI
from mmatm.models import Backbone, backbones

FOLDER = Path(__file__).parents[1] / 'golden'


@dataclass(frozen=True)
class Family:
    """Of a backbone.

    Attributes:
        tiny: The smallest arch that has all of its parts.
        counts: Parameters of the pyramid, by published size.
        classifiers: Parameters of the classifier with 1000 classes, by published size.
        golden: The file with golden numbers, of the layout of the mixers' files.
        to_arch: An arch of that file, and the size of images -> this project's.
        classifier_options: Of the backbone of its ImageNet classifier.
    """

    tiny: dict[str, Any]
    counts: dict[str, int]
    classifiers: dict[str, int] = field(default_factory=dict)
    golden: str | None = None
    to_arch: Callable[[dict], dict] | None = None
    classifier_options: dict[str, Any] = field(default_factory=dict)

    def numbers(self) -> dict[str, Any]:
        return json.loads((FOLDER / self.golden).read_text())


FAMILIES = {
    'ATMNet': Family(
        MINI,
        {'xt': 15_349_128 - 513_000 + 1024, 't': 27_152_232 - 513_000 + 1024},
        {'xt': 15_349_128, 't': 27_152_232, 's': 38_631_448, 'b': 52_154_792, 'l': 76_238_032},
    ),
    'CASViT': Family(
        dict(depths=[1, 2, 2, 1], channels=[8, 12, 16, 20], mlp_ratios=[2, 2, 2, 2]),
        {'xs': 2_759_132, 's': 5_250_704, 'm': 11_652_224, 't': 20_738_080},
        # With one head of the two that its authors count.
        {'xs': 2_979_700, 's': 5_507_224, 'm': 12_036_520, 't': 21_250_120},
        'casvit/casvit.json',
        lambda arch, size: dict(
            depths=arch['layers'], channels=arch['embed_dims'], mlp_ratios=[arch['mlp_ratios']] * 4
        ),
    ),
    'RIFormer': Family(
        dict(depths=[1, 2, 2, 1], channels=[8, 12, 16, 20], mlp_ratios=[2, 2, 2, 2], layer_scale=0.5),
        {'s12': 11_409_856, 's24': 20_890_304, 's36': 30_370_752, 'm36': 55_431_360, 'm48': 72_741_120},
    ),
    'TransXNet': Family(
        dict(
            depths=[1, 2, 2, 1],
            channels=[8, 12, 16, 24],
            num_heads=[1, 1, 2, 3],
            num_banks=[2, 2, 3, 2],
            sr_ratios=[8, 4, 2, 1],
            mlp_ratios=[2, 2, 2, 2],
            image_size=64,
        ),
        {'t': 12_386_544, 's': 26_352_092, 'b': 47_337_130},
        {'t': 12_834_808, 's': 26_864_068, 'b': 48_009_002},
        'transxnet/transxnet.json',
        lambda arch, size: dict(
            depths=arch['layers'],
            channels=arch['embed_dims'],
            num_heads=arch['num_heads'],
            num_banks=arch['num_groups'],
            sr_ratios=arch['sr_ratio'],
            mlp_ratios=arch['mlp_ratios'],
            image_size=size,
        ),
    ),
    'FFNet': Family(
        dict(
            depths=[1, 2, 2, 1],
            channels=[8, 16, 16, 32],
            stem_channels=4,
            mlp_ratios=[2, 2, 2, 2],
            mixer_kernels=[3, 3, 7, 7],
            mlp_kernels=[3, 7, 3, 7],
            layer_scale=True,
        ),
        {'1': 13_135_776, '2': 26_504_640, '3': 48_050_240, '4': 78_845_760},
        {'1': 13_775_656, '2': 27_208_408, '3': 48_817_896, '4': 79_868_968},
        'ffnet/ffnet.json',
        lambda arch, size: dict(
            depths=arch['depth'],
            channels=arch['embed_dim'],
            stem_channels=arch['in_dim'],
            mlp_ratios=arch['expansion_ratios'],
            mixer_kernels=arch['kernel_sizes1'],
            mlp_kernels=arch['kernel_sizes'],
            layer_scale=arch['use_layer_scale'],
        ),
        dict(out_norms=False),
    ),
}  # fmt: skip

# Those that are registered by this project; each has to be in the list above.
OWN = {name: kind for name, kind in backbones().items() if kind.__module__.startswith('mmatm.')}


def each_backbone(function: Callable) -> Callable:
    """Runs a test with the name of every backbone, `name`."""
    return pytest.mark.parametrize('name', list(OWN))(function)


def tiny(name: str, **options: Any) -> Backbone:
    """A tiny network without drop path, its batch norms with statistics of their own, its scales and gates at work."""
    model = OWN[name](FAMILIES[name].tiny, **{'drop_path_rate': 0.0, **options})
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    for key, parameter in model.named_parameters():
        if re.search(r'stages\.\d\.bias$|scale[12](\.weight)?$', key):
            nn.init.uniform_(parameter, 0.5, 1.0, generator=generator)
    return model


def golden_weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The values that golden numbers were computed for, under the authors' names."""
    return {name: torch.from_numpy(value) for name, value in fill(shapes).items()}
