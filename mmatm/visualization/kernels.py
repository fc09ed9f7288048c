"""Figures of TransXNet's dynamic convolutions: the kernels that were mixed for an image."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mmatm.models import Backbone, TransXNet
from mmatm.models.transxnet import DynamicConvolution

from .features import Features, Grid, find_parts
from .panels import PANEL, InputImage, Point, by_place, mark, show_image

_CHANNELS = 4  # whose kernels are shown one by one


def find_dynamic(backbone: Backbone) -> dict[str, DynamicConvolution]:
    """The layers that have a dynamic convolution, and it.

    Raises:
        InputError: No layer has one.
    """
    return find_parts(backbone, DynamicConvolution, f'only {TransXNet.TITLE} has dynamic kernels')


@torch.no_grad()
def kernels_of(features: Features, layer: str) -> tuple[Tensor, Tensor]:
    """The kernels that a layer mixed for the image.

    Args:
        features: Of the image.
        layer: Of `find_dynamic`.

    Returns:
        Kernels (C, K, K), and the mean share of each bank in each of them, (G, C).
    """
    part = find_dynamic(features.backbone)[layer]
    (x,) = features.given(layer, part)
    return part.kernels(x)[0], part.shares(x)[0].mean((2, 3))


def draw_kernels(features: Features, image: InputImage, layers: Sequence[str], points: Sequence[Point]) -> Figure:
    """For each layer how far its kernels reach at the points, and the kernels themselves, which all tokens share.

    Over the image the weights' sizes, on average over channels; beside it their mean, and the kernels of the channels
    with the largest ones, each with what it is mixed of, red above zero and blue below.

    Args:
        features: Of the image.
        image: As `read_image` returns it.
        layers: Of `find_dynamic`.
        points: A column of panels over the image each.

    Raises:
        InputError: The backbone has no dynamic convolutions, or a point is outside the image.
    """
    height, width = image.pixels.shape[:2]
    side = PANEL * height / width
    places = by_place(points)
    ratios = [PANEL] * len(places) + [min(side, PANEL / 2)] * (1 + _CHANNELS)
    figure = Figure((sum(ratios), (side + 0.6) * len(layers) + 0.3), layout='constrained')
    grid = figure.subplots(len(layers), len(ratios), squeeze=False, width_ratios=ratios)
    for row, layer in zip(grid, layers, strict=True):
        kernels, shares = kernels_of(features, layer)
        sizes, reach = kernels.abs().mean(0), (kernels.shape[-1] - 1) // 2
        at = Grid.of(features.backbone, layer)
        for axes, (title, point) in zip(row, places.items(), strict=False):
            i, j = at.nearest(image, point, features.output(layer).shape)
            left, right, upper, lower = (
                at.first + at.stride * (token + edge) for token in (j, i) for edge in (-reach - 0.5, reach + 0.5)
            )
            shown = (sizes / sizes.max()).numpy()
            show_image(axes, image)
            axes.imshow(shown, cmap='inferno', alpha=0.8, vmin=0, extent=(left, right, lower, upper))
            mark(axes, image, point)
            axes.set_title(f'{layer} {title}', fontsize=10)
            axes.set_xlabel('sizes of the weights, mean of the channels', fontsize=8)
        largest = kernels.flatten(1).norm(dim=1).argsort(descending=True)[:_CHANNELS].tolist()
        drawn = [('mean of all', kernels.mean(0), '')]
        for channel in largest:
            banks = ' + '.join(f'{share:.0%}' for share in shares[:, channel].tolist())
            drawn.append((f'channel {channel}', kernels[channel], f'banks: {banks}'))
        for axes, (title, kernel, note) in zip(row[len(places) :], drawn, strict=False):
            most = kernel.abs().max().item() or 1.0
            axes.imshow(np.asarray(kernel), cmap='RdBu_r', vmin=-most, vmax=most)
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, fontsize=9)
            axes.set_xlabel(f'±{most:.2g}\n{note}', fontsize=8)
        for axes in row[len(places) + len(drawn) :]:
            axes.set_axis_off()
    return figure
