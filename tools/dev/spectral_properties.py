#!/usr/bin/env python
"""Measures, for docs/spectral_mixers.md, how the map of 16 pixels per token of untrained backbones changes when a
photograph is shifted, enlarged or one pixel larger, and how constant it is for a constant image. All figures are
||change|| / ||map||; backbones are the smallest of each, as built and with mixers' weights drawn large."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from matplotlib import cbook
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from mmatm.benchmark.report import split_docs, update_docs
from mmatm.models import DSM, AFFNet, ATMNet, Backbone, CASViT, CDFFormer, DFFormer
from mmatm.utils.environment import environment
from mmatm.utils.markdown import table

SIDE, STRIDE = 224, 16
SPECTRAL = {'DFFormer s18': DFFormer, 'CDFFormer s18': CDFFormer, 'AFFNet et': AFFNet, 'DSM s18': DSM}
# Standard deviations that parameters of mixers are drawn with; linear layers by their channels.
SPREADS = {'bank': 1.0, 'w1': 0.1, 'w2': 0.1, 'b1': 1.0, 'b2': 1.0, 'selector.fc2.weight': 1.0}
OTHERS = {'ATMNet xt': ATMNet, 'CASViT xs': CASViT}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--docs', type=Path, help='write into spectral_mixers.md in this directory')
    args = parser.parse_args(arguments)
    if args.docs:
        split_docs(args.docs / 'spectral_mixers.md', 'spectral')
    image = photograph(SIDE + STRIDE)
    rows = []
    for drawn, kinds in ((False, SPECTRAL | OTHERS), (True, SPECTRAL)):
        for name, kind in kinds.items():
            torch.manual_seed(0)
            model = kind(name.split()[1], out_indices=(2,)).double().eval()
            if drawn:
                draw_filters(model)
            figures = measure(lambda x, model=model: model(x)[0], image)
            rows.append((f'{name}, drawn' if drawn else name, *(f'{value:.1e}' for value in figures.values())))
            print(*rows[-1], flush=True)
    seen = ', '.join(f'{key} {value}' for key, value in environment('cpu').items())
    text = f'Seen with: {seen}.\n\n{table(("backbone", *figures), rows, aligned=True)}'
    print(text)
    if args.docs:
        update_docs(args.docs / 'spectral_mixers.md', 'spectral', text)


def photograph(side: int) -> Tensor:
    """Matplotlib's, normalised, (1, 3, side, side)."""
    with Image.open(cbook.get_sample_data('grace_hopper.jpg', asfileobj=False)) as file:
        width = min(file.size)
        pixels = np.asarray(file.convert('RGB').resize((side, side), box=(0, 0, width, width)), np.float32)
    pixels = torch.from_numpy(pixels).double().permute(2, 0, 1)[None]
    return (pixels - pixels.mean()) / pixels.std()


def draw_filters(model: Backbone) -> None:
    """Draws filters that are as strong as what they filter; as built they pass nearly nothing, or everything."""
    for name, parameter in model.named_parameters():
        key = name.partition('.mixer.')[2]
        if key in SPREADS or key.endswith(('fc1.weight', 'fc2.weight')):
            nn.init.normal_(parameter, std=SPREADS.get(key, parameter.shape[-1] ** -0.5))


@torch.no_grad()
def measure(run: Callable[[Tensor], Tensor], image: Tensor) -> dict[str, float]:
    """The titled figures of a row, of an image with a token more along both axes than is run."""
    x = image[:, :, :SIDE, :SIDE]
    y = run(x)
    rolled = x.roll((STRIDE, STRIDE), (2, 3))
    with patch.object(F, 'conv2d', partial(wrapped, F.conv2d)):  # all convolutions in float64 are by it
        of_wrapped = change(run(rolled), run(x).roll((1, 1), (2, 3)))
    further, close = (run(image[:, :, n : n + SIDE, n : n + SIDE]) for n in (STRIDE, 1))
    resize = partial(F.interpolate, mode='bilinear', align_corners=False)
    enlarged = F.avg_pool2d(run(resize(x, scale_factor=2)), 2)
    larger = resize(run(resize(x, (SIDE + 1, SIDE + 1))), y.shape[2:])
    flat = run(torch.ones_like(x))
    edge = torch.arange(flat.shape[-1]).sub(flat.shape[-1] / 2 - 0.5).abs()  # distance to the centre
    edge = torch.maximum(edge, edge[:, None])
    border, middle = (flat[:, :, part] for part in (edge == edge.max(), edge < 2))
    return {
        'rolled by 16 pixels': change(run(rolled), y.roll((1, 1), (2, 3))),
        'the same with wrapped convolutions': of_wrapped,
        'cut 16 pixels further': change(further[:, :, :-1, :-1], y[:, :, 1:, 1:]),
        'cut 1 pixel further': change(close, y),
        'enlarged twice': change(enlarged, y),
        '225 pixels': change(larger, y),
        'constant: border': change(border, border.mean(2, keepdim=True)),
        'constant: middle': change(middle, middle.mean(2, keepdim=True)),
    }


def wrapped(conv2d: Callable[..., Tensor], x: Tensor, *args: Any, **options: Any) -> Tensor:
    """A convolution that pads with the other side of the map in place of zeros."""
    options |= zip(('weight', 'bias', 'stride', 'padding', 'dilation', 'groups'), args, strict=False)
    rows, columns = _pair(options.pop('padding', 0))
    return conv2d(F.pad(x, (columns, columns, rows, rows), mode='circular'), **options)


def change(got: Tensor, expected: Tensor) -> float:
    """||got - expected|| / ||expected||."""
    expected = expected.expand_as(got)
    return ((got - expected).norm() / expected.norm()).item()


if __name__ == '__main__':
    main()
