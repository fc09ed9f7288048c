"""Figures of where ATMNet's tokens look: the offsets of a token, and the distribution of all offsets."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from mmatm.errors import InputError
from mmatm.models import ATMNet, Backbone
from mmatm.models.atmnet import Block

from .features import Features, Grid, find_layers
from .panels import PANEL, QUERY, InputImage, Point, by_place, panels

_ROW, _COLUMN = '#ff7f0e', '#00b4d8'


def find_offset_layers(backbone: Backbone) -> dict[str, Block]:
    """The blocks of ATMNet by name, but for those of a class of the user's own.

    Raises:
        InputError: The backbone is not ATMNet.
    """
    if not isinstance(backbone, ATMNet):
        raise InputError(f'only {ATMNet.TITLE} has offsets to draw, {backbone.TITLE} has none')
    return {name: block for name, block in find_layers(backbone).items() if isinstance(block, Block)}


def offset_of(features: Features, layer: str) -> Tensor:
    """The offsets by which a layer reads tokens: its own if it predicts offsets, else those predicted last before.

    Returns:
        (H', W', 2G), in tokens: G along the row, then G along the column.
    """
    return features.given(layer)[1][0].detach().float()


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


def draw_offsets(features: Features, image: InputImage, layers: Sequence[str], points: Sequence[Point]) -> Figure:
    """The paper's Figure 5: for each layer and point, where the query's channels look along its row and column.

    The more channels look at a token, the more opaque is its circle.

    Args:
        features: Of the image.
        image: As `read_image` returns it.
        layers: Of `find_offset_layers`, a row of panels each.
        points: A column of panels each.

    Raises:
        InputError: A point is outside the image.
    """
    blocks = find_offset_layers(features.backbone)

    def draw(axes: Axes, layer: str, point: Point) -> str:
        grid = Grid.of(features.backbone, layer)
        offset = offset_of(features, layer)
        (channels,) = blocks[layer].norm1.normalized_shape
        token = grid.nearest(image, point, offset.shape)
        by_column, by_row = count_looks(offset, token, channels)
        most = max(by_column.max(), by_row.max()).item() or 1
        y, x = (grid.first + grid.stride * index for index in token)
        reach = [grid.first + grid.stride * np.arange(len(counts)) for counts in (by_column, by_row)]
        size = (PANEL * 72 * max(grid.stride, 8) / max(image.pixels.shape)) ** 2  # of a circle's area, in points
        for xs, ys, counts, colour in (
            (reach[0], np.full(len(by_column), y), by_column, _ROW),
            (np.full(len(by_row), x), reach[1], by_row, _COLUMN),
        ):
            alpha = (counts / most).clamp(max=1).numpy()
            axes.scatter(xs, ys, s=size, c=colour, alpha=alpha, edgecolors='none')
        axes.scatter([x], [y], s=min(max(size, 60), 150), c=QUERY, marker='*', edgecolors='white', linewidths=0.6)
        outside = [max(0, 1 - counts.sum().item() / channels) for counts in (by_column, by_row)]
        return f'beyond the edge: {outside[0]:.0%} of the row, {outside[1]:.0%} of the column'

    figure = panels(image, layers, by_place(points), draw)
    marks = [
        Line2D([], [], color=colour, marker=marker, linestyle='none', markersize=8, label=label)
        for colour, marker, label in ((QUERY, '*', 'query'), (_ROW, 'o', 'its row'), (_COLUMN, 'o', 'its column'))
    ]
    figure.legend(handles=marks, loc='outside lower center', ncols=3)
    return figure


def draw_distribution(features: Features) -> Figure:
    """How far tokens look, a panel for each stage: the density of the offsets along rows and along columns.

    Raises:
        InputError: The backbone is not ATMNet.
    """
    blocks = find_offset_layers(features.backbone)
    predicted = {name: offset_of(features, name) for name, block in blocks.items() if block.predicts_offsets}
    stages = sorted({name.split('.')[1] for name in predicted})
    figure = Figure((PANEL * len(stages), PANEL), layout='constrained')
    for axes, stage in zip(np.atleast_1d(figure.subplots(1, len(stages))), stages, strict=True):
        own = [offset for name, offset in predicted.items() if name.split('.')[1] == stage]
        row, column = (torch.cat([offset.chunk(2, -1)[half].flatten() for offset in own]).numpy() for half in (0, 1))
        reach = np.percentile(np.abs([row, column]), 99.5)
        bins = np.linspace(-reach, reach, min(101, 10 + int(row.size**0.5) // 2))
        for values, colour, name in ((row, _ROW, 'row'), (column, _COLUMN, 'column')):
            label = f'along the {name}: {np.abs(values).mean():.2f} on average'
            axes.hist(values, bins, density=True, histtype='step', color=colour, label=label)
        axes.set_title(f'stages.{stage}: offsets of {len(own)} block{"s" * (len(own) > 1)}', fontsize=10)
        axes.set_xlabel(f'offset in tokens of {Grid.of(features.backbone, f"stages.{stage}").stride} pixels')
        axes.set_yticks([])
        axes.set_ylim(top=1.25 * axes.get_ylim()[1])  # room for the legend
        axes.legend(loc='upper center', fontsize=8)
    return figure
