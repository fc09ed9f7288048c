"""Figures over an image: how it is read, panels by layer and point, and how they are written.

A point (x, y) is in pixels of the image's file, from its upper left corner.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import mmcv
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.model import BaseModel
from torch import Tensor

from mmatm.errors import InputError

Point = tuple[float, float]
T = TypeVar('T')

QUERY = '#e6194b'
PANEL = 4.5  # inches
_DPI = 150


@dataclass(frozen=True)
class InputImage:
    """An image, and what the network is given of it.

    Attributes:
        pixels: RGB (H, W, 3), uint8.
        inputs: (1, 3, H', W'), normalised, and padded to the right and below if the config says so.
        scale: Pixels of `pixels` per pixel of the file.
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
        InputError: There is no such file, it is not an image, or `short_side` is below 1.
    """
    if short_side is not None and short_side < 1:
        raise InputError(f'the shorter side of an image is 1 pixel or more, not {short_side}')
    try:
        bgr = mmcv.imread(path)  # as the toolboxes' pipelines do: upright, in 8 bits
    except FileNotFoundError:
        raise InputError(f'there is no image {path}') from None
    if bgr is None:
        raise InputError(f'{path} is cut short or not an image')
    height, width = bgr.shape[:2]
    scale = short_side / min(height, width) if short_side else 1.0
    bgr = mmcv.imresize(bgr, (round(width * scale), round(height * scale)))
    pixels = bgr[..., ::-1]
    bgr = torch.from_numpy(bgr).permute(2, 0, 1)
    inputs = model.data_preprocessor({'inputs': [bgr], 'data_samples': None}, False)['inputs']
    return InputImage(pixels, inputs, scale)


def panels(
    image: InputImage, layers: Sequence[str], columns: Mapping[str, T], draw: Callable[[Axes, str, T], str]
) -> Figure:
    """A figure with the image in a panel for each layer and column; `draw` adds to a panel and returns its caption.

    Args:
        image: As `read_image` returns it.
        layers: A row of panels each.
        columns: What is drawn in each column, by what the title says of it.
        draw: Called with the axes, the layer and what is drawn.
    """
    height, width = image.pixels.shape[:2]
    panel = (PANEL, PANEL * height / width + 0.6)
    figure = Figure((panel[0] * len(columns), panel[1] * len(layers) + 0.3), layout='constrained')
    grid = figure.subplots(len(layers), len(columns), squeeze=False)
    for row, layer in zip(grid, layers, strict=True):
        for axes, (title, shown) in zip(row, columns.items(), strict=True):
            show_image(axes, image)
            axes.set_xlabel(draw(axes, layer, shown), fontsize=8)
            axes.set_title(f'{layer} {title}', fontsize=10)
    return figure


def by_place(points: Sequence[Point]) -> dict[str, Point]:
    """Points by what a title says of them."""
    return {f'at {x:g}, {y:g}': (x, y) for x, y in points}


def show_image(axes: Axes, image: InputImage) -> None:
    """Shows the image alone; what is drawn over it leaves the limits as they are."""
    height, width = image.pixels.shape[:2]
    axes.imshow(image.pixels)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[], autoscale_on=False)


def mark(axes: Axes, image: InputImage, point: Point) -> None:
    """Marks a point with the star of a query."""
    axes.scatter(*(side * image.scale for side in point), s=60, c=QUERY, marker='*', edgecolors='white')


def save_figure(figure: Figure, out: str) -> None:
    """Writes a figure, in the format of the suffix."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    if Path(out).suffix.lower() == '.png':
        # Once, where `savefig` draws twice for the layout; strong compression would take as long as the drawing.
        figure.set_dpi(_DPI)
        FigureCanvasAgg(figure).print_png(out, pil_kwargs={'compress_level': 1})
    else:
        figure.savefig(out, dpi=_DPI)


def check_format(out: str) -> None:
    """Checks, before any work, that Matplotlib can write a file.

    Raises:
        InputError: Its suffix is not that of a format of Matplotlib.
    """
    formats = Figure().canvas.get_supported_filetypes()
    if Path(out).suffix.lstrip('.').lower() not in formats:
        raise InputError(f'{out}: the suffix chooses the format, and must be one of {", ".join(sorted(formats))}')
