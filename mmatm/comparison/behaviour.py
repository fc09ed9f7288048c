"""What a trained segmentor of the comparison does to images: how its predictions move, and how far a token looks."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from torch import Tensor
from torch.nn import functional as F

from mmatm.apis.inference import load_model
from mmatm.config import load_config
from mmatm.visualization.features import Features

from .training import Run

CUT = 8  # pixels that are cut off an image, so that there is something to move into
STAGE = 2  # whose last block is looked at; a token is 16x16 pixels


def observe(run: Run, images: int = 50) -> dict[str, float]:
    """Looks at a trained segmentor on its validation images.

    Args:
        run: A training that is done.
        images: How many are taken, the first ones.

    Returns:
        `shift`: the share of pixels that keep their class when the image is cut one pixel further right and down;
        `odd`: the share that keep it when the image has one row and one column more at its end;
        `field`: pixels along a side of the smallest square around a token that holds half of its gradient.
    """
    run.write_config()
    cfg = load_config(str(run.config))
    model = load_model(cfg, str(run.checkpoint))
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    inputs = [
        model.data_preprocessor({'inputs': [dataset[i]['inputs']], 'data_samples': None}, False)['inputs']
        for i in range(min(images, len(dataset)))
    ]
    return dict(
        shift=_mean([agreement(model, x, 1) for x in inputs]),
        odd=_mean([agreement(model, x, 0) for x in inputs]),
        field=_mean([half_width(model, x) for x in inputs[:16]]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@torch.no_grad()
def agreement(model: BaseModel, image: Tensor, shift: int) -> float:
    """The share of pixels that keep their class in another cut of the image.

    Args:
        model: A segmentor.
        image: (1, 3, H, W).
        shift: By how many pixels the other cut begins further right and down; with 0 it ends one pixel further.
    """
    height, width = (side - CUT for side in image.shape[2:])
    first = _classes(model, image[:, :, :height, :width])
    if shift:
        other = _classes(model, image[:, :, shift : height + shift, shift : width + shift])
        first, other = first[shift:, shift:], other[:-shift, :-shift]
    else:
        other = _classes(model, image[:, :, : height + 1, : width + 1])[:height, :width]
    return (first == other).double().mean().item()


def _classes(model: BaseModel, image: Tensor) -> Tensor:
    scores = model(image, mode='tensor')
    return F.interpolate(scores, image.shape[2:], mode='bilinear', align_corners=False)[0].argmax(0)


def half_width(model: BaseModel, image: Tensor) -> float:
    """The side, in pixels, of the smallest square around `STAGE`'s middle token that holds half of its gradient."""
    token = tuple(-(-side // 16) // 2 for side in image.shape[2:])
    layer = f'stages.{STAGE}.blocks.{len(model.backbone.stages[STAGE].blocks) - 1}'
    field = Features(model.backbone, image, differentiable=True).field(layer, token)
    return side_of_half(field, [16 * index for index in token])


def side_of_half(field: Tensor, middle: Sequence[int]) -> float:
    """The same, of a field (H, W) around a pixel."""
    row, column = ((torch.arange(n) - at).abs() for n, at in zip(field.shape, middle, strict=True))
    distance = torch.maximum(row[:, None], column[None])
    held = torch.zeros(int(distance.max()) + 1, dtype=torch.double)
    held.index_add_(0, distance.flatten(), field.double().flatten())
    radius = int((held.cumsum(0) < held.sum() / 2).sum())
    return 2 * radius + 1
