"""What a token mixer costs in `mmatm.MetaFormer`: parameters, FLOPs, time, memory, and how time grows with pixels."""

import importlib
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmatm.apis.export import export_onnx
from mmatm.benchmark.measure import peak_memory, time_all
from mmatm.build import build_model
from mmatm.errors import InputError
from mmatm.models import MetaFormer
from mmatm.registry import TOKEN_MIXERS

ARCH = 's12'
SHAPES = {'224x224': (224, 224), '512x512': (512, 512), '800x1344': (800, 1344)}
# What is timed: column -> size of the network, height and width of its images.
TIMES = {'s12 224x224': ('s12', 224, 224), 's12 512x512': ('s12', 512, 512), 'mini 512x512': ('mini', 512, 512)}
TRAINED = ('s12', 512, 512)  # whose training step's memory is measured

# The exponent: one mixer of stage 0, on maps of 4x4 pixels a token.
CHANNELS = 64
SIDES = (128, 192, 256, 384, 512, 768, 1024)


def static(mixer: str) -> dict[str, Any]:
    """What is counted: `params` of the backbone, `size_bound` of them, and `flops` by `SHAPES`.

    A parameter is bound to a size if its shape depends on the size of the images that the network is built for.
    """
    from mmatm.analysis.flops import count

    with torch.device('meta'):
        own, other = (dict(MetaFormer(ARCH, token_mixer=mixer, image_size=n).named_parameters()) for n in (224, 448))
    backbone = dict(type='mmatm.MetaFormer', arch=ARCH, token_mixer=mixer)
    head = dict(type='LinearClsHead', num_classes=2, in_channels=MetaFormer.SIZES[ARCH]['channels'][-1])
    neck = dict(type='GlobalAveragePooling')
    model = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    cfg = Config(dict(default_scope='mmpretrain', model=model))
    return dict(
        params=sum(p.numel() for p in own.values()),
        size_bound=sum(p.numel() for name, p in own.items() if p.shape != other[name].shape),
        flops={name: count(cfg, shape)['backbone'].flops for name, shape in SHAPES.items()},
    )


def measure(mixers: Sequence[str], device: str, seconds: float) -> dict[str, dict[str, Any]]:
    """What is measured, by mixer: `ms` by `TIMES`, `peak_mib` of a training step, `exponent`.

    Args:
        mixers: Names; they are timed in turn.
        device: ``'cpu'`` or ``'cuda'``.
        seconds: For each of `TIMES` and each mixer; each is run 5 times at least.
    """
    found: dict[str, dict[str, Any]] = {mixer: dict(ms={}) for mixer in mixers}
    for column, what in TIMES.items():
        runs = {mixer: prepare(mixer, what, False, device) for mixer in mixers}
        for mixer, times in time_all(runs, seconds * len(mixers), device).items():
            found[mixer]['ms'][column] = times['median_ms']
        del runs
    for mixer in mixers:
        home = TOKEN_MIXERS.get(mixer).__module__  # which another process has to import
        found[mixer]['peak_mib'] = peak_memory(device, prepare, mixer, TRAINED, True, device, home)
    for mixer, growth in measure_growth(mixers, device, seconds / 4).items():
        found[mixer].update(growth)
    return found


def measure_growth(mixers: Sequence[str], device: str, seconds: float) -> dict[str, dict[str, Any]]:
    """How the time of one mixer grows with the side of the image: `one_ms` by `SIDES`, and `exponent`."""
    found: dict[str, dict[str, Any]] = {mixer: dict(one_ms={}) for mixer in mixers}
    for side in SIDES:
        runs = {mixer: _prepare_one(mixer, side // 4, device) for mixer in mixers}
        for mixer, times in time_all(runs, seconds * len(mixers), device).items():
            found[mixer]['one_ms'][str(side)] = times['median_ms']
    for entry in found.values():
        entry['exponent'] = exponent(entry['one_ms'])
    return found


def prepare(
    mixer: str, what: tuple[str, int, int], training: bool, device: str, home: str | None = None
) -> Callable[[], None]:
    """A function that runs a network once on one image: a forward pass, or a training step without an optimizer.

    Args:
        mixer: Its name.
        what: As in `TIMES`.
        training: Whether it is a training step.
        device: ``'cpu'`` or ``'cuda'``.
        home: The module that registers the mixer, where it may not be imported yet.
    """
    if home is not None:
        importlib.import_module(home)
    arch, *shape = what
    torch.manual_seed(0)
    model = MetaFormer(arch, token_mixer=mixer).to(device).train(training)
    images = torch.randn(1, 3, *shape, device=device)

    def run() -> None:
        with torch.set_grad_enabled(training):
            maps = model(images)
        if training:
            torch.autograd.backward(maps, [torch.ones_like(y) for y in maps])
            model.zero_grad()

    return run


def _prepare_one(mixer: str, side: int, device: str) -> Callable[[], None]:
    torch.manual_seed(0)
    arch = dict(depths=[1, 1, 1, 1], channels=[CHANNELS] * 4, mlp_ratios=[1, 1, 1, 1])
    module: nn.Module = MetaFormer(arch, token_mixer=mixer, out_indices=(0,)).stages[0].blocks[0].mixer
    module.to(device).eval()
    x = torch.randn(1, CHANNELS, side, side, device=device)

    @torch.no_grad()
    def run() -> None:
        module(x)

    return run


def exponent(times: dict[str, float]) -> float:
    """p of time ~ pixels^p: the slope of log(time) by log(pixels), by least squares."""
    points = [(2 * math.log(int(side)), math.log(ms)) for side, ms in times.items()]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def export_deviation(mixer: str, config: Path) -> float | str:
    """The largest deviation of ONNX Runtime from PyTorch at three sizes, of a small segmentor; or why it has none."""
    cfg = Config.fromfile(config)
    cfg.model.backbone.token_mixer = mixer
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with tempfile.TemporaryDirectory() as folder:
        try:
            exported = export_onnx(model, Path(folder) / 'model.onnx', (96, 96))
        except InputError as error:
            return str(error)
    return max(check.deviation for check in exported.checks)


def known_mixers() -> list[str]:
    """All that are registered."""
    TOKEN_MIXERS.import_from_location()
    return list(TOKEN_MIXERS.module_dict)
