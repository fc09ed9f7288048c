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
from mmatm.models import Backbone, ConvPooling, NormedPooling, PooledMlp, backbones

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
        pyramid_options: Of the published pyramid whose names and shapes are known.
        options: Of the network with golden numbers, and of the tiny one.
        neck: Makes the neck of its ImageNet classifier, from the channels of the last stage and the size's name.
        mixing_stages: Those with token mixers.
    """

    tiny: dict[str, Any]
    counts: dict[str, int]
    classifiers: dict[str, int] = field(default_factory=dict)
    golden: str | None = None
    to_arch: Callable[[dict], dict] | None = None
    classifier_options: dict[str, Any] = field(default_factory=dict)
    pyramid_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    neck: Callable[[int, str], nn.Module] | None = None
    mixing_stages: tuple[int, ...] = (0, 1, 2, 3)

    def numbers(self) -> dict[str, Any]:
        return json.loads((FOLDER / self.golden).read_text())


def _dfformer(arch: dict[str, Any]) -> dict[str, Any]:
    return dict(depths=arch['depths'], channels=arch['dims'], mlp_ratios=[4, 4, 4, 4], num_filters=4)


def _affnet(arch: dict[str, Any]) -> dict[str, Any]:
    stages = [arch[f'layer{i}'] for i in (2, 3, 4, 5)]
    return dict(
        depths=[stages[0]['num_blocks'], *(stage['transformer_blocks'] for stage in stages[1:])],
        channels=[stage['out_channels'] for stage in stages],
        stem_channels=arch['layer1']['out_channels'],
        expansion=arch['layer1']['expand_ratio'],
        act={'swish': 'silu', 'relu': 'relu'}[arch['options']['activation']],
        attn_norm={'layer_norm_2d': 'group_norm', 'layer_norm': 'layer_norm'}[arch['options']['attn_norm_layer']],
    )


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
        neck=lambda channels, size: NormedPooling(channels),
    ),
    'DFFormer': Family(
        dict(depths=[1, 2, 2, 1], channels=[8, 12, 16, 24], mlp_ratios=[2, 2, 2, 2], num_filters=3),
        {'s18': 27_221_676, 's36': 42_507_960, 'm36': 61_678_392, 'b36': 109_549_624},
        {'s18': 30_324_372, 's36': 45_610_656, 'm36': 65_316_064, 'b36': 114_989_344},
        'dfformer/dfformer.json',
        lambda arch, size: _dfformer(arch),
        dict(out_norms=False),
        dict(bank_size=512),
        dict(bank_size=64),
        lambda channels, size: PooledMlp(channels, 4 * channels),
    ),
    'CDFFormer': Family(
        dict(depths=[1, 2, 2, 1], channels=[8, 12, 16, 24], mlp_ratios=[2, 2, 2, 2], num_filters=3),
        {'s18': 27_090_816, 's36': 42_127_962, 'm36': 60_795_546, 'b36': 107_928_922},
        {'s18': 30_193_512, 's36': 45_230_658, 'm36': 64_433_218, 'b36': 113_368_642},
        'cdfformer/cdfformer.json',
        lambda arch, size: _dfformer(arch),
        dict(out_norms=False),
        dict(bank_size=512),
        dict(bank_size=64),
        lambda channels, size: PooledMlp(channels, 4 * channels),
    ),
    'AFFNet': Family(
        dict(
            depths=[3, 1, 2, 1],
            channels=[12, 16, 24, 32],
            stem_channels=8,
            expansion=2,
            act='silu',
            attn_norm='group_norm',
        ),
        {'et': 775_168, 't': 1_736_240, 'base': 4_298_576},
        {'et': 1_436_264, 't': 2_654_232, 'base': 5_568_696},
        'affnet/affnet.json',
        lambda arch, size: _affnet(arch),
        neck=lambda channels, size: ConvPooling(channels, min(4 * channels, 960)),
        mixing_stages=(1, 2, 3),
    ),
    'MetaFormer': Family(
        dict(depths=[1, 2, 2, 1], channels=[8, 12, 16, 24], mlp_ratios=[2, 2, 2, 2]),
        {'s12': 11_396_544},
        options=dict(token_mixer='depthwise'),
    ),
    'DSM': Family(
        dict(depths=[1, 2, 2, 1], channels=[8, 12, 16, 24], mlp_ratios=[2, 2, 2, 2], num_bands=4),
        {},
    ),
}  # fmt: skip

# Those that are registered by this project; each has to be in the list above.
OWN = {name: kind for name, kind in backbones().items() if kind.__module__.startswith('mmatm.')}


def each_backbone(function: Callable) -> Callable:
    """Runs a test with the name of every backbone, `name`."""
    return pytest.mark.parametrize('name', list(OWN))(function)


def bare(name: str, **options: Any) -> Backbone:
    """A tiny network as its constructor leaves it."""
    return OWN[name](FAMILIES[name].tiny, **FAMILIES[name].options, **options)


def tiny(name: str, **options: Any) -> Backbone:
    """A tiny network without drop path, its batch norms with statistics of their own, its scales and gates at work."""
    model = bare(name, **{'drop_path_rate': 0.0, **options})
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    for key, parameter in model.named_parameters():
        if re.search(r'stages\.\d\.bias$|scale[12](\.weight)?$', key):
            nn.init.uniform_(parameter, 0.5, 1.0, generator=generator)
        elif re.search(r'selector\.fc[12]\.weight$', key):  # so that the shares differ
            nn.init.normal_(parameter, 0.0, 1.0, generator=generator)
    return model


def golden_weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The values that golden numbers were computed for, under the authors' names."""
    return {name: torch.from_numpy(value) for name, value in fill(shapes).items()}
