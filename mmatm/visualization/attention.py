"""Figures of TransXNet's attention: how a token spreads it over the keys, which are of a reduced map."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mmatm.models import Backbone, TransXNet
from mmatm.models.transxnet import Attention
from mmatm.ops.biased_attention import attention_weights

from .features import Features, Grid, find_parts
from .panels import InputImage, Point, by_place, mark, panels


def find_attention(backbone: Backbone) -> dict[str, Attention]:
    """The layers that have TransXNet's attention, and it.

    Raises:
        InputError: No layer has it.
    """
    return find_parts(backbone, Attention, f'only {TransXNet.TITLE} has attention')


@torch.no_grad()
def attention_of(features: Features, layer: str, token: tuple[int, int]) -> Tensor:
    """The row of attention of a token.

    Args:
        features: Of an image.
        layer: Of `find_attention`.
        token: Row and column of the query.

    Returns:
        (heads, rows, columns): what each head takes of each key; a head's sum is 1.
    """
    attention = find_attention(features.backbone)[layer]
    x, bias = features.given(layer, attention)
    height, width = x.shape[2:]
    query = token[0] * width + token[1]
    q, k, _ = attention.qkv(x)
    row = attention_weights(q[:, :, query : query + 1], k, bias.part(query, query + 1))[0, :, 0]
    side = _key_grid(features, layer).stride // Grid.of(features.backbone, layer).stride
    return row.unflatten(1, (-(-height // side), -(-width // side)))


def _key_grid(features: Features, layer: str) -> Grid:
    reduce = find_attention(features.backbone)[layer].reduce
    return Grid.of(features.backbone, layer).behind(reduce.modules() if reduce is not None else ())


def draw_attention(features: Features, image: InputImage, layers: Sequence[str], points: Sequence[Point]) -> Figure:
    """How the tokens at the points spread their attention, on average over heads, for each layer, over the image.

    Args:
        features: Of the image.
        image: As `read_image` returns it.
        layers: Of `find_attention`, a row of panels each.
        points: A column of panels each.

    Raises:
        InputError: The backbone has no such attention, or a point is outside the image.
    """

    def draw(axes: Axes, layer: str, point: Point) -> str:
        rows = _rows(features, image, layer, point)
        return f'{_draw(axes, features, image, layer, point, rows.mean(0))}; mean of {len(rows)} head{_s(len(rows))}'

    return panels(image, layers, by_place(points), draw)


def draw_heads(features: Features, image: InputImage, layers: Sequence[str], points: Sequence[Point]) -> Figure:
    """The same for each head, in a column of its own."""
    heads = max(find_attention(features.backbone)[layer].num_heads for layer in layers)
    columns = {
        f'{title}, head {head + 1}': (point, head) for title, point in by_place(points).items() for head in range(heads)
    }

    def draw(axes: Axes, layer: str, shown: tuple[Point, int]) -> str:
        rows = _rows(features, image, layer, shown[0])
        if shown[1] >= len(rows):
            axes.set_visible(False)
            return ''
        return _draw(axes, features, image, layer, shown[0], rows[shown[1]])

    return panels(image, layers, columns, draw)


def _rows(features: Features, image: InputImage, layer: str, point: Point) -> Tensor:
    token = Grid.of(features.backbone, layer).nearest(image, point, features.output(layer).shape)
    return attention_of(features, layer, token)


def _draw(axes: Axes, features: Features, image: InputImage, layer: str, point: Point, row: Tensor) -> str:
    """Draws a row (rows, columns) of attention over the image; returns a caption."""
    grid = _key_grid(features, layer)
    left, right, lower, upper = (
        grid.first + grid.stride * edge for edge in (-0.5, row.shape[1] - 0.5, row.shape[0] - 0.5, -0.5)
    )
    shown = (row / row.max()).numpy()
    alpha = np.clip(0.35 + shown, 0, 0.9)
    axes.imshow(shown, cmap='inferno', alpha=alpha, vmin=0, vmax=1, extent=(left, right, lower, upper))
    mark(axes, image, point)
    falling = row.flatten().sort(descending=True).values
    half = int((falling.cumsum(0) < 0.5).sum()) + 1
    return f'half of the attention: {half} of {falling.numel()} keys; most on one: {falling[0]:.1%}'


def _s(count: int) -> str:
    return 's' * (count > 1)
