"""Effective receptive fields: how strongly each pixel of an image moves the output of a layer at a token."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .features import Features, Grid
from .panels import InputImage, Point, by_place, mark, panels


def draw_receptive_field(
    features: Features, image: InputImage, layers: Sequence[str], points: Sequence[Point]
) -> Figure:
    """The effective receptive field of the tokens at the points, for each layer, over the image.

    The caption of a panel says which share of the pixels, the strongest first, holds half of the gradient's sum.

    Args:
        features: Of the image, differentiable.
        image: As `read_image` returns it.
        layers: A row of panels each.
        points: A column of panels each.

    Raises:
        InputError: A point is outside the image.
    """
    height, width = image.pixels.shape[:2]

    def draw(axes: Axes, layer: str, point: Point) -> str:
        token = Grid.of(features.backbone, layer).nearest(image, point, features.output(layer).shape)
        field = features.field(layer, token)[:height, :width]
        # Gradients fall off by orders of magnitude; the root keeps the faint parts visible.
        shown = (field / field.max()).sqrt().numpy()
        axes.imshow(shown, cmap='inferno', alpha=np.clip(0.35 + shown, 0, 1), vmin=0, vmax=1)
        mark(axes, image, point)
        falling = np.sort(field.numpy(), axis=None)[::-1].cumsum(dtype=np.float64)  # NumPy's sort is the faster
        half = int((falling < falling[-1] / 2).sum()) + 1
        return f'half of the gradient: {half / falling.size:.2%} of the pixels'

    return panels(image, layers, by_place(points), draw)
