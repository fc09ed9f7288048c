"""Images of where ATMNet's tokens look: the offsets of a token, all offsets, the effective receptive field.

A layer is a block of the backbone, by the name that PyTorch has for it: `stages.2.blocks.0`. A point is in pixels of
the image, from its upper left corner. Token (i, j) of a stage with stride s stands for pixel (s * j + 1, s * i + 1),
the middle of what the strided convolutions before it read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mmengine.model import BaseModel
from torch import Tensor

from mmatm.errors import InputError
from mmatm.models.atmnet import ATMNet, Block

Point = tuple[float, float]

_ROW, _COLUMN, _QUERY = '#ff7f0e', '#00b4d8', '#e6194b'
_PANEL = 4.5  # inches


@dataclass(frozen=True)
class InputImage:
    """An image and what the network gets of it.

    Attributes:
        pixels: RGB (H, W, 3), uint8.
        inputs: (1, 3, H', W'), normalised, and padded to the right and below if the config says so.
        scale: Pixels of `pixels` by pixels of the file.
    """

    pixels: np.ndarray
    inputs: Tensor
    scale: float


def read_image(model: BaseModel, path: str, short_side: int | None = None) -> InputImage:
    """Reads an image as the model takes it.

    Args:
        model: A model with its data preprocessor.
        path: The image.
        short_side: Pixels to resize the shorter side to; None leaves the size alone.

    Raises:
        InputError: No image, or it is too small for the network.
    """
    try:
        bgr = mmcv.imread(path)  # as the toolboxes' pipelines do: upright, in 8 bits
    except FileNotFoundError:
        raise InputError(f'there is no image {path}') from None
    if bgr is None:
        raise InputError(f'{path} is cut short or not an image')
    height, width = bgr.shape[:2]
    scale = short_side / min(height, width) if short_side else 1.0
    height, width = round(height * scale), round(width * scale)
    if min(height, width) < ATMNet.MIN_SIZE:
        raise InputError(
            f'{path} has {width}x{height} pixels, ATMNet takes {ATMNet.MIN_SIZE}x{ATMNet.MIN_SIZE} or more'
        )
    bgr = mmcv.imresize(bgr, (width, height))
    pixels = bgr[..., ::-1]
    bgr = torch.from_numpy(bgr).permute(2, 0, 1)
    inputs = model.data_preprocessor({'inputs': [bgr], 'data_samples': None}, False)['inputs']
    return InputImage(pixels, inputs, scale)


def find_backbone(model: BaseModel) -> ATMNet:
    """The first ATMNet of a model.

    Raises:
        InputError: There is none.
    """
    for module in model.modules():
        if isinstance(module, ATMNet):
            return module
    raise InputError(f'the {type(model).__name__} of this config has no ATMNet')


def find_layers(backbone: ATMNet, names: Sequence[str] | None = None) -> dict[str, Block]:
    """Blocks by name, in their order.

    Args:
        backbone: The backbone.
        names: Those wanted, None for all.

    Raises:
        InputError: A name that no block has; says which there are.
    """
    blocks = {name: module for name, module in backbone.named_modules() if isinstance(module, Block)}
    for name in names or ():
        if name not in blocks:
            raise InputError(f'there is no layer {name}; there are {", ".join(blocks)}')
    return {name: blocks[name] for name in names} if names else blocks


def stride_of(backbone: ATMNet, layer: str) -> int:
    """Pixels between neighbouring tokens of a layer."""
    stage = int(layer.split('.')[1])
    return 4 * 2**stage // backbone.stages[stage].dilation


@torch.no_grad()
def record_offsets(backbone: ATMNet, inputs: Tensor) -> dict[str, Tensor]:
    """The offsets that each layer reads its tokens by: its own if it is a leader, else those of the last leader.

    Args:
        backbone: The backbone, in evaluation mode.
        inputs: One image (1, 3, H, W), as `read_image` gives it.

    Returns:
        By layer (H', W', 2G), in tokens: G along the row, then G along the column.
    """
    offsets = {}
    hooks = [
        block.mixer.register_forward_pre_hook(lambda _, args, name=name: offsets.update({name: args[1][0].float()}))
        for name, block in find_layers(backbone).items()
    ]
    try:
        backbone(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return offsets


def count_looks(offset: Tensor, token: tuple[int, int], channels: int) -> tuple[Tensor, Tensor]:
    """How many channels of a token read each token of its row and of its column.

    A position between two tokens counts for both, by their weights in the interpolation. Positions outside the map
    read zeros, so that the sums are `channels` at most.

    Args:
        offset: (H, W, 2G), in tokens.
        token: Row i and column j of the query.
        channels: C.

    Returns:
        Counts by column (W,) and by row (H,).
    """
    height, width, doubled = offset.shape
    along = offset[token].view(2, doubled // 2)
    return tuple(
        _spread(start + moves, length) * (2 * channels / doubled)
        for start, moves, length in zip(reversed(token), along, (width, height), strict=True)
    )


def _spread(position: Tensor, length: int) -> Tensor:
    """Positions (G,) -> sums (length,) of their interpolation weights on the tokens of a line."""
    token = torch.arange(length)
    return (1 - (position[:, None] - token).abs()).clamp(min=0).sum(0)  # the tent of linear interpolation


def receptive_field(backbone: ATMNet, inputs: Tensor, layer: str, tokens: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The effective receptive field of tokens: how strongly each pixel moves them.

    Args:
        backbone: The backbone, in evaluation mode.
        inputs: One image (1, 3, H, W).
        layer: Whose output is asked.
        tokens: Row and column of each query.

    Returns:
        For each token (H, W): sum over the image's channels of |d (sum of the token's channels) / d pixel|.
    """
    inputs = inputs.detach().requires_grad_()
    outputs = []
    hook = find_layers(backbone, [layer])[layer].register_forward_hook(lambda *args: outputs.append(args[2]))
    try:
        with torch.enable_grad():
            backbone(inputs)
    finally:
        hook.remove()
    gradients = [torch.autograd.grad(outputs[0][0][token].sum(), inputs, retain_graph=True)[0] for token in tokens]
    return [gradient[0].abs().sum(0) for gradient in gradients]


def draw_offsets(backbone: ATMNet, image: InputImage, layers: Sequence[str], points: Sequence[Point]) -> Figure:
    """The paper's Figure 5: for each layer and point, where the query's channels look along its row and column.

    The more channels look at a token, the more opaque is its circle.

    Args:
        backbone: The backbone, in evaluation mode.
        image: As `read_image` gives it.
        layers: A row of panels each.
        points: A column of panels each.

    Raises:
        InputError: Unknown layer, or a point outside the image.
    """
    blocks = find_layers(backbone, layers)
    offsets = record_offsets(backbone, image.inputs)

    def draw(axes: Axes, layer: str, point: Point) -> str:
        stride = stride_of(backbone, layer)
        offset = offsets[layer]
        channels = blocks[layer].mixer.proj.out_features
        token = find_token(image, point, stride, offset.shape)
        by_column, by_row = count_looks(offset, token, channels)
        most = max(by_column.max(), by_row.max()).item() or 1
        y, x = (stride * index + 1 for index in token)
        reach = [stride * np.arange(len(counts)) + 1 for counts in (by_column, by_row)]
        size = (_PANEL * 72 * max(stride, 8) / max(image.pixels.shape)) ** 2  # scatter has areas, in points
        for xs, ys, counts, colour in (
            (reach[0], np.full(len(by_column), y), by_column, _ROW),
            (np.full(len(by_row), x), reach[1], by_row, _COLUMN),
        ):
            alpha = (counts / most).clamp(max=1).numpy()
            axes.scatter(xs, ys, s=size, c=colour, alpha=alpha, edgecolors='none')
        axes.scatter([x], [y], s=min(max(size, 60), 150), c=_QUERY, marker='*', edgecolors='white', linewidths=0.6)
        outside = [max(0, 1 - counts.sum().item() / channels) for counts in (by_column, by_row)]
        return f'beyond the edge: {outside[0]:.0%} of the row, {outside[1]:.0%} of the column'

    figure = _panels(image, layers, points, draw)
    marks = [
        Line2D([], [], color=colour, marker=marker, linestyle='none', markersize=8, label=label)
        for colour, marker, label in ((_QUERY, '*', 'query'), (_ROW, 'o', 'its row'), (_COLUMN, 'o', 'its column'))
    ]
    figure.legend(handles=marks, loc='outside lower center', ncols=3)
    return figure


def draw_receptive_field(backbone: ATMNet, image: InputImage, layers: Sequence[str], points: Sequence[Point]) -> Figure:
    """The effective receptive field of the tokens at the points, for each layer, over the image.

    Below each panel stands how little of the image holds half of the gradient's sum. Arguments and errors as of
    `draw_offsets`.
    """
    find_layers(backbone, layers)
    height, width = image.pixels.shape[:2]
    fields = {}
    for layer in layers:
        stride = stride_of(backbone, layer)
        shape = [-(-side // stride) for side in image.inputs.shape[2:]]
        tokens = [find_token(image, point, stride, shape) for point in points]
        found = receptive_field(backbone, image.inputs, layer, tokens)
        fields.update({(layer, point): field[:height, :width] for point, field in zip(points, found, strict=True)})

    def draw(axes: Axes, layer: str, point: Point) -> str:
        field = fields[layer, point]
        # Gradients fall off by orders of magnitude; the root keeps the faint parts visible.
        shown = (field / field.max()).sqrt().numpy()
        axes.imshow(shown, cmap='inferno', alpha=np.clip(0.35 + shown, 0, 1), vmin=0, vmax=1)
        axes.scatter(*(side * image.scale for side in point), s=60, c=_QUERY, marker='*', edgecolors='white')
        falling = field.flatten().sort(descending=True).values.cumsum(0)
        half = int((falling < falling[-1] / 2).sum()) + 1
        return f'half of the gradient: {half / falling.numel():.2%} of the pixels'

    return _panels(image, layers, points, draw)


def draw_distribution(backbone: ATMNet, image: InputImage) -> Figure:
    """How far tokens look, a panel for each stage: the density of the offsets along rows and along columns."""
    offsets = record_offsets(backbone, image.inputs)
    leaders = {name: offsets[name] for name, block in find_layers(backbone).items() if block.leader}
    stages = sorted({name.split('.')[1] for name in leaders})
    figure = Figure((_PANEL * len(stages), _PANEL), layout='constrained')
    for axes, stage in zip(np.atleast_1d(figure.subplots(1, len(stages))), stages, strict=True):
        own = [offset for name, offset in leaders.items() if name.split('.')[1] == stage]
        row, column = (torch.cat([offset.chunk(2, -1)[half].flatten() for offset in own]).numpy() for half in (0, 1))
        reach = np.percentile(np.abs([row, column]), 99.5)
        bins = np.linspace(-reach, reach, min(101, 10 + int(row.size**0.5) // 2))
        for values, colour, name in ((row, _ROW, 'row'), (column, _COLUMN, 'column')):
            label = f'along the {name}: {np.abs(values).mean():.2f} on average'
            axes.hist(values, bins, density=True, histtype='step', color=colour, label=label)
        axes.set_title(f'stages.{stage}: offsets of {len(own)} block{"s" * (len(own) > 1)}', fontsize=10)
        axes.set_xlabel(f'offset in tokens of {stride_of(backbone, f"stages.{stage}")} pixels')
        axes.set_yticks([])
        axes.set_ylim(top=1.25 * axes.get_ylim()[1])  # room for the legend
        axes.legend(loc='upper center', fontsize=8)
    return figure


def find_token(image: InputImage, point: Point, stride: int, shape: Sequence[int]) -> tuple[int, int]:
    """The token nearest to a point of the image's file: row, column.

    Raises:
        InputError: The point is outside the image.
    """
    height, width = (side / image.scale for side in image.pixels.shape[:2])
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise InputError(f'point {point[0]:g} {point[1]:g} is outside the image of {width:.0f}x{height:.0f} pixels')
    column, row = (round((side * image.scale - 1) / stride) for side in point)
    return min(max(row, 0), shape[0] - 1), min(max(column, 0), shape[1] - 1)


def save_figure(figure: Figure, out: str) -> None:
    """Writes a figure; the suffix says the format."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)


def check_format(out: str) -> None:
    """Refuses, before any work, what Matplotlib cannot write.

    Raises:
        InputError: The suffix is of no format that it knows.
    """
    formats = Figure().canvas.get_supported_filetypes()
    if Path(out).suffix.lstrip('.').lower() not in formats:
        raise InputError(f'{out}: the suffix says the format; there are {", ".join(sorted(formats))}')


def _panels(
    image: InputImage,
    layers: Sequence[str],
    points: Sequence[Point],
    draw: Callable[[Axes, str, Point], str],
) -> Figure:
    """A figure with the image in a panel for each layer and point; `draw` adds to it and says what stands below."""
    height, width = image.pixels.shape[:2]
    panel = (_PANEL, _PANEL * height / width + 0.6)
    figure = Figure((panel[0] * len(points), panel[1] * len(layers) + 0.3), layout='constrained')
    grid = figure.subplots(len(layers), len(points), squeeze=False)
    for row, layer in zip(grid, layers, strict=True):
        for axes, point in zip(row, points, strict=True):
            axes.imshow(image.pixels)
            note = draw(axes, layer, point)
            axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
            axes.set_title(f'{layer} at {point[0]:g}, {point[1]:g}', fontsize=10)
            axes.set_xlabel(note, fontsize=8)
    return figure
