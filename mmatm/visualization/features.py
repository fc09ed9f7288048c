"""What is kept of an image's way through a backbone, so that all that is asked about it costs one pass.

A layer is a block of the backbone, by its name in PyTorch: `stages.2.blocks.0`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmatm.errors import InputError
from mmatm.models import Backbone, backbones, find_backbone

from .panels import InputImage, Point

_FIELDS = 64  # receptive fields that are kept, of the size of the image each


def require_backbone(model: BaseModel) -> Backbone:
    """The first backbone of this project in a model.

    Raises:
        InputError: There is none.
    """
    backbone = find_backbone(model)
    if backbone is None:
        raise InputError(
            f'the {type(model).__name__} of this config has no backbone of mmatm; those are {", ".join(backbones())}'
        )
    return backbone


def find_layers(backbone: Backbone) -> dict[str, nn.Module]:
    """All blocks by name, in their order."""
    return {
        f'stages.{i}.blocks.{j}': block
        for i, stage in enumerate(backbone.stages)
        for j, block in enumerate(stage.blocks)
    }


def find_parts(backbone: Backbone, kind: Any, owners: str) -> dict[str, Any]:
    """The layers that have a module of a class, or of one of a union of classes, and the last such module in each.

    Args:
        backbone: The backbone.
        kind: The class or the union.
        owners: Who has such modules, for the message: `'only TransXNet has attention'`.

    Raises:
        InputError: No layer has one.
    """
    own = {
        layer: [part for part in block.modules() if isinstance(part, kind)]
        for layer, block in find_layers(backbone).items()
    }
    found = {layer: parts[-1] for layer, parts in own.items() if parts}
    if not found:
        raise InputError(f'{owners} to draw, this {backbone.TITLE} has none')
    return found


@dataclass(frozen=True)
class Grid:
    """Where the tokens of a layer are in the image: token (i, j) at pixel (first + stride * j, first + stride * i).

    Attributes:
        stride: Pixels between neighbouring tokens.
        first: The pixel of token 0: the middle of what the convolutions of stem and downsampling read for it.
    """

    stride: int
    first: float

    @classmethod
    def of(cls, backbone: Backbone, layer: str) -> 'Grid':
        """The grid of a layer, or of a stage by its name: `stages.2`."""
        last = int(layer.split('.')[1])
        strides = [min(4 * 2**i, backbone.out_strides[-1]) for i in range(last + 1)]
        parts = [backbone.stem, *(stage.downsample for stage in backbone.stages[1 : last + 1])]
        grid = cls(1, 0.0)
        for part, stride in zip(parts, strides, strict=True):
            grid = cls(stride, grid.behind(part.modules()).first)
        return grid

    def behind(self, modules: Iterable[nn.Module]) -> 'Grid':
        """The grid of what the convolutions among some modules make, one after the other, of a map on this one."""
        stride, first = self.stride, self.first
        for conv in modules:
            if isinstance(conv, nn.Conv2d):
                first += stride * (conv.dilation[0] * (conv.kernel_size[0] - 1) / 2 - conv.padding[0])
                stride *= conv.stride[0]
        return Grid(stride, first)

    def nearest(self, image: InputImage, point: Point, shape: Sequence[int]) -> tuple[int, int]:
        """The token, row and column, nearest to a point of the image's file, in a map of a shape (H, W).

        Raises:
            InputError: The point is outside the image.
        """
        height, width = (side / image.scale for side in image.pixels.shape[:2])
        if not (0 <= point[0] < width and 0 <= point[1] < height):
            raise InputError(f'point {point[0]:g} {point[1]:g} is outside the image of {width:.0f}x{height:.0f} pixels')
        column, row = (round((side * image.scale - self.first) / self.stride) for side in point)
        return min(max(row, 0), shape[0] - 1), min(max(column, 0), shape[1] - 1)


class Features:
    """An image's way through a backbone: what each layer was given and what it returned.

    Args:
        backbone: In evaluation mode. Hooks and gradients of its parameters are left as they were.
        inputs: One image (1, C, H, W), as `read_image` returns it.
        differentiable: Keep what gradients need, which is most of the memory; `field` needs it.

    Raises:
        InputError: The backbone refuses the image.
    """

    def __init__(self, backbone: Backbone, inputs: Tensor, differentiable: bool = False) -> None:
        self.backbone = backbone
        self._inputs = inputs.detach().requires_grad_(differentiable)
        self._given: dict[str, tuple] = {}
        self._returned: dict[str, Tensor] = {}
        self._fields: dict[tuple[str, tuple[int, int]], Tensor] = {}

        def keep(layer: str, given: tuple, returned: Tensor) -> None:
            self._given[layer], self._returned[layer] = given, returned

        hooks = [
            block.register_forward_hook(lambda _, given, returned, layer=layer: keep(layer, given, returned))
            for layer, block in find_layers(backbone).items()
        ]
        try:
            with _constant_parameters(backbone), torch.set_grad_enabled(differentiable):
                backbone(self._inputs)
        finally:
            for hook in hooks:
                hook.remove()

    def given(self, layer: str, part: nn.Module | None = None) -> tuple:
        """What a layer was called with, or a part of it was, which takes another pass through the layer."""
        if part is None:
            return self._given[layer]
        found: list[tuple] = []
        hook = part.register_forward_pre_hook(lambda _, given: found.append(given))
        try:
            with torch.no_grad():
                find_layers(self.backbone)[layer](*self._given[layer])
        finally:
            hook.remove()
        return found[-1]

    def output(self, layer: str) -> Tensor:
        """The map (H', W', C) that a layer returned."""
        y = self._returned[layer][0]
        return y if self.backbone.CHANNELS_LAST else y.permute(1, 2, 0)

    def field(self, layer: str, token: tuple[int, int]) -> Tensor:
        """The effective receptive field of a token: how strongly each pixel moves it. Computed once, then kept.

        Args:
            layer: The layer whose output is asked.
            token: Row and column of the query.

        Returns:
            (H, W): sum over the image's channels of |d (sum of the token's channels) / d pixel|.
        """
        key = layer, token
        if key not in self._fields:
            if len(self._fields) == _FIELDS:
                del self._fields[next(iter(self._fields))]
            with _constant_parameters(self.backbone):  # for what is computed anew in the backward pass
                (gradient,) = torch.autograd.grad(self.output(layer)[token].sum(), self._inputs, retain_graph=True)
            self._fields[key] = gradient[0].abs().sum(0)
        return self._fields[key]


@contextmanager
def _constant_parameters(module: nn.Module) -> Iterator[None]:
    """In here nothing is kept or computed for gradients of parameters."""
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
