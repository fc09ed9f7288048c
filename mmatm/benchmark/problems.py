"""What is measured: the problems, and the ways to solve each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from mmatm.build import build_module
from mmatm.models import ATMNet
from mmatm.models.active_token_mixer import ActiveTokenMixer
from mmatm.ops import axial_sample_stacked

from .authors_operations import use_authors_operations, use_pytorch_convolutions
from .authors_spectral_operations import use_authors_spectral_operations
from .deform_conv_baseline import sample_and_project, use_deform_conv
from .report import AUTHORS, PLAIN

LEVELS = ('operation', 'mixer', 'backbone')
# What the ratios and the levels of one operation and one mixer are about.
ATMNET = 'mmatm.ATMNet'
# Backbones of the toolboxes, each with four maps, as a detector needs them.
PEERS: dict[str, dict[str, Any]] = {
    'Swin-T': dict(type='mmpretrain.SwinTransformer', arch='tiny', drop_path_rate=0.1, out_indices=(0, 1, 2, 3)),
    'ConvNeXt-T': dict(
        type='mmpretrain.ConvNeXt',
        arch='tiny',
        drop_path_rate=0.1,
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
    ),
    'ResNet-50': dict(type='mmpretrain.ResNet', depth=50, out_indices=(0, 1, 2, 3)),
    'PVTv2-B2': dict(
        type='mmdet.PyramidVisionTransformerV2', embed_dims=64, num_layers=[3, 4, 6, 3], drop_path_rate=0.1
    ),
}
# Of backbones whose operations their authors wrote in another way: what it is called, and what turns a model into it.
BASELINES: dict[str, tuple[str, Callable[[nn.Module], nn.Module]]] = {
    ATMNET: ('DeformConv baseline', use_deform_conv),
    'mmatm.TransXNet': (AUTHORS, use_authors_operations),
    'mmatm.CASViT': (AUTHORS, use_pytorch_convolutions),
    'mmatm.FFNet': (AUTHORS, use_pytorch_convolutions),
    'mmatm.DFFormer': (AUTHORS, use_authors_spectral_operations),
    'mmatm.CDFFormer': (AUTHORS, use_authors_spectral_operations),
    'mmatm.AFFNet': (AUTHORS, use_authors_spectral_operations),
    'mmatm.DSM': (PLAIN, use_authors_spectral_operations),
}
FUSED = 'mmatm fused'
_SPREAD = 3.0  # standard deviation of the offsets, in tokens


@dataclass(frozen=True)
class Problem:
    """One thing to compute, on images of one size, in all the ways that can be compared.

    Attributes:
        level: ``'operation'`` (ATMNet's axial sampling), ``'mixer'`` (one Active Token Mixer) or ``'backbone'``.
        arch: A named size of the backbone.
        batch: Images at once.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        training: Forward and backward, else forward only, without gradients.
        stage: The stage of an operation or a mixer, from 0.
        backbone: The backbone's `type`; ATMNet's at the other levels.
        peers: Whether backbones of the toolboxes are measured beside it.
        only: Names of ways to measure beside this project's own; all if there are none.
    """

    level: str
    arch: str
    batch: int
    height: int
    width: int
    training: bool
    stage: int | None = None
    backbone: str = ATMNET
    peers: bool = True
    only: tuple[str, ...] = ()

    @property
    def ways(self) -> tuple[str, ...]:
        """Names for `prepare`; the first is what the others are compared with."""
        base, *others = self._all_ways()
        return base, *(way for way in others if not self.only or way in self.only)

    def _all_ways(self) -> tuple[str, ...]:
        if self.level == 'operation':
            return 'mmatm', 'mmatm with FC', 'DeformConv baseline', 'copy'
        if self.level == 'mixer':
            return 'mmatm', 'DeformConv baseline'
        baseline = (BASELINES[self.backbone][0],) if self.backbone in BASELINES else ()
        fused = () if self.training or not _can_fuse(self.backbone) else (FUSED,)
        with_peers = self.peers and (self.backbone != ATMNET or self.arch == 't')
        return 'mmatm', *baseline, *fused, *(PEERS if with_peers else ())

    def __str__(self) -> str:
        place = '' if self.stage is None else f', stage {self.stage + 1}'
        mode = 'training' if self.training else 'inference'
        network = self.arch if self.backbone == ATMNET else f'{self.backbone.rpartition(".")[2]} {self.arch}'
        return f'{self.level} {network}{place}, {self.batch} x {self.height}x{self.width}, {mode}'

    def network(self, way: str) -> nn.Module:
        """The network of a problem of whole backbones."""
        if way in PEERS:
            return build_module(PEERS[way])
        model = build_module(dict(type=self.backbone, arch=self.arch))
        if way == FUSED:
            return model.fuse()
        return model if way == 'mmatm' else BASELINES[self.backbone][1](model)

    def token_map(self) -> tuple[int, int, int, int, int]:
        """B, H, W, C and G of the stage."""
        arch = ATMNet.resolve_arch(self.arch)
        rows, columns = (math.ceil(size / (4 * 2**self.stage)) for size in (self.height, self.width))
        channels = arch['channels'][self.stage]
        return self.batch, rows, columns, channels, channels // arch['channels_per_offset'][self.stage]


@cache
def _can_fuse(backbone: str) -> bool:
    """Whether a type of backbone has another form for inference."""
    return build_module(dict(type=backbone)).fuse().is_fused


def problems(
    levels: Sequence[str],
    backbones: Sequence[tuple[str, str]],
    device: str,
    sizes: Sequence[tuple[int, int, int]] = (),
    peers: bool = True,
    only: Sequence[str] = (),
) -> list[Problem]:
    """All problems of some levels; batches fit the device.

    Args:
        levels: Of `LEVELS`.
        backbones: The `type` and size of those to measure at the level of whole backbones.
        device: ``'cpu'`` or ``'cuda'``.
        sizes: (B, H, W) of images for whole backbones in place of the usual ones.
        peers: Whether whole backbones are measured beside those of the toolboxes.
        only: As of `Problem`.
    """
    several = (1, 4, 1) if device == 'cpu' else (64, 64, 16)
    # In inference and in training.
    usual = [((several[0], 224, 224), (several[1], 224, 224)), ((several[2], 512, 512), (several[2], 512, 512))]
    found = []
    for level in levels:
        if level == 'backbone':
            found += [
                Problem(level, arch, *size, training, None, kind, peers, tuple(only))
                for kind, arch in backbones
                for pair in ([(size, size) for size in sizes] or usual)
                for training, size in zip((False, True), pair, strict=True)
            ]
            if device == 'cpu' and (ATMNET, 't') in backbones and not sizes:
                found.append(Problem(level, 't', 8, 224, 224, training=False, peers=peers, only=tuple(only)))
        else:
            images = ((64, 64), (512, 512), (800, 1280)) if level == 'operation' else ((512, 512),)
            found += [
                Problem(level, 't', 1 if device == 'cpu' else 8, *size, training, stage, only=tuple(only))
                for size in images
                for training in (False, True)
                for stage in range(4)
            ]
    return found


def prepare(
    problem: Problem, way: str, device: str, autocast: torch.dtype | None, compiled: bool
) -> Callable[[], None]:
    """A function that solves the problem once.

    Args:
        problem: The problem.
        way: One of its ways.
        device: ``'cpu'`` or ``'cuda'``.
        autocast: Autocast's type, or None for float32 throughout.
        compiled: Through `torch.compile`.
    """
    torch.manual_seed(0)
    function, leaves = _build(problem, way, device, autocast)
    if compiled and way != 'copy':
        function = torch.compile(function)

    def forward() -> tuple[Tensor, ...]:
        with torch.autocast(device, autocast or torch.bfloat16, enabled=autocast is not None):
            return function()

    if not problem.training or way == 'copy':

        def run() -> None:
            with torch.no_grad():
                forward()
    else:
        gradients = [torch.randn_like(y) for y in forward()]

        def run() -> None:
            torch.autograd.backward(forward(), gradients)
            for leaf in leaves:
                leaf.grad = None

    return run


def _build(
    problem: Problem, way: str, device: str, autocast: torch.dtype | None
) -> tuple[Callable[[], tuple[Tensor, ...]], list[Tensor]]:
    """The function, without arguments, and the tensors that get a gradient."""
    if problem.level == 'backbone':
        model = problem.network(way).to(device)
        model.train(problem.training)
        images = torch.randn(problem.batch, 3, problem.height, problem.width, device=device)
        return lambda: tuple(model(images)), list(model.parameters())

    b, h, w, c, groups = problem.token_map()
    x = torch.randn(b, h, w, c, device=device, requires_grad=True)
    offset = _SPREAD * torch.randn(b, h, w, 2 * groups, device=device)
    offset.requires_grad_()
    mixer = ActiveTokenMixer(c).to(device).train(problem.training)
    leaves = [x, offset, *mixer.parameters()]
    if problem.level == 'mixer':
        if way == 'DeformConv baseline':
            use_deform_conv(mixer)
        return lambda: (mixer(x, offset),), leaves
    if way == 'mmatm':
        return lambda: (axial_sample_stacked(x, offset),), leaves
    if way == 'mmatm with FC':  # what the DeformConv baseline cannot leave out

        def sample_and_fc() -> tuple[Tensor, ...]:
            x_w, x_h, _ = axial_sample_stacked(x, offset).flatten(0, 2).chunk(3, dim=-1)
            return mixer.fc_w(x_w), mixer.fc_h(x_h)

        return sample_and_fc, leaves
    if way == 'DeformConv baseline':
        return lambda: sample_and_project(x, offset, mixer.fc_w, mixer.fc_h), leaves
    # As many bytes as the operation must read and write, into new memory as its results are: x, offset and the result
    # (x_w, x_h and x); going back, x and offset again, the result's gradient and theirs.
    map_bytes = x.numel() * (autocast or x.dtype).itemsize
    offset_bytes = offset.numel() * offset.dtype.itemsize
    sizes = [map_bytes + offset_bytes + 3 * map_bytes]
    if problem.training:
        sizes.append(2 * (map_bytes + offset_bytes) + 3 * map_bytes)
    sources = [torch.randn(size // 8, device=device) for size in sizes]  # 4 bytes each, read and written
    return lambda: tuple(source.clone() for source in sources), []
