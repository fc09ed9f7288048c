"""Effective receptive fields: how strongly each pixel of an image moves the output of a block at a token.

A layer is a block of the backbone, by its name in PyTorch: `stages.2.blocks.0`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmatm.errors import InputError
from mmatm.models import Backbone, backbones, find_backbone

from .panels import QUERY, InputImage, Point, panels


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


def find_layers(backbone: Backbone, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Blocks by name, in their order.

    Args:
        backbone: The backbone.
        names: Those wanted, None for all.

    Raises:
        InputError: No block has such a name; the message lists the names.
    """
    blocks = {
        f'stages.{i}.blocks.{j}': block
        for i, stage in enumerate(backbone.stages)
        for j, block in enumerate(stage.blocks)
    }
    for name in names or ():
        if name not in blocks:
            raise InputError(f'there is no layer {name}; the layers are {", ".join(blocks)}')
    return {name: blocks[name] for name in names} if names else blocks


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
        first = 0.0
        for part, step in zip(parts, [1, *strides], strict=False):
            for conv in part.modules():
                if isinstance(conv, nn.Conv2d):
                    first += step * (conv.dilation[0] * (conv.kernel_size[0] - 1) / 2 - conv.padding[0])
                    step *= conv.stride[0]
        return cls(strides[-1], first)

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


def receptive_field(backbone: Backbone, inputs: Tensor, layer: str, tokens: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The effective receptive field of tokens: how strongly each pixel moves them.

    Args:
        backbone: The backbone, in evaluation mode.
        inputs: One image (1, 3, H, W).
        layer: The layer whose output is asked.
        tokens: Row and column of each query.

    Returns:
        For each token (H, W): sum over the image's channels of |d (sum of the token's channels) / d pixel|.
    """
    inputs = inputs.detach().requires_grad_()
    return _fields(inputs, _output(backbone, inputs, layer), tokens)


def _output(backbone: Backbone, inputs: Tensor, layer: str) -> Tensor:
    """The feature map (H', W', C) that a layer computes from one image."""
    outputs = []
    hook = find_layers(backbone, [layer])[layer].register_forward_hook(lambda *args: outputs.append(args[2][0]))
    try:
        with torch.enable_grad():
            backbone(inputs)
    finally:
        hook.remove()
    return outputs[0] if backbone.CHANNELS_LAST else outputs[0].permute(1, 2, 0)


def _fields(inputs: Tensor, output: Tensor, tokens: Sequence[tuple[int, int]]) -> list[Tensor]:
    gradients = [torch.autograd.grad(output[token].sum(), inputs, retain_graph=True)[0] for token in tokens]
    return [gradient[0].abs().sum(0) for gradient in gradients]


def draw_receptive_field(
    backbone: Backbone, image: InputImage, layers: Sequence[str], points: Sequence[Point]
) -> Figure:
    """The effective receptive field of the tokens at the points, for each layer, over the image.

    The caption of a panel says which share of the pixels, the strongest first, holds half of the gradient's sum.

    Args:
        backbone: The backbone, in evaluation mode.
        image: As `read_image` returns it.
        layers: A row of panels each.
        points: A column of panels each.

    Raises:
        InputError: An unknown layer, or a point outside the image.
    """
    find_layers(backbone, layers)
    height, width = image.pixels.shape[:2]
    inputs = image.inputs.detach().requires_grad_()
    fields = {}
    for layer in layers:
        output = _output(backbone, inputs, layer)
        tokens = [Grid.of(backbone, layer).nearest(image, point, output.shape) for point in points]
        found = _fields(inputs, output, tokens)
        fields.update({(layer, point): field[:height, :width] for point, field in zip(points, found, strict=True)})

    def draw(axes: Axes, layer: str, point: Point) -> str:
        field = fields[layer, point]
        # Gradients fall off by orders of magnitude; the root keeps the faint parts visible.
        shown = (field / field.max()).sqrt().numpy()
        axes.imshow(shown, cmap='inferno', alpha=np.clip(0.35 + shown, 0, 1), vmin=0, vmax=1)
        axes.scatter(*(side * image.scale for side in point), s=60, c=QUERY, marker='*', edgecolors='white')
        falling = field.flatten().sort(descending=True).values.cumsum(0)
        half = int((falling < falling[-1] / 2).sum()) + 1
        return f'half of the gradient: {half / falling.numel():.2%} of the pixels'

    return panels(image, layers, points, draw)
