"""The golden numbers, and networks filled with the parameter values they were computed for."""

import json
from pathlib import Path

import torch
from torch import Tensor

from golden.fill import fill, image
from mmatm.models import ATMNet

FOLDER = Path(__file__).parent / 'golden/atmnet'


def load(name: str) -> dict:
    golden = json.loads((FOLDER / f'{name}.json').read_text())
    golden['atmnet_arch'] = 'xt' if name == 'xt' else to_arch(golden['arch'])
    return golden


def to_arch(arch: dict) -> dict:
    """The golden files' arch -> ATMNet's."""
    return dict(
        depths=arch['depths'],
        channels=arch['embed_dims'],
        mlp_ratios=arch['mlp_ratios'],
        channels_per_offset=arch['share_dims'],
        offset_interval=arch['intv'],
    )


def authors_weights(shapes: dict) -> dict[str, Tensor]:
    """Golden parameter values under the authors' names."""
    return {name: torch.from_numpy(value) for name, value in fill(shapes).items()}


def pyramid(golden: dict, dtype: torch.dtype = torch.float32, **options) -> ATMNet:
    """A backbone with the golden values, in evaluation mode."""
    model = ATMNet(golden['atmnet_arch'], drop_path_rate=0.0, **options)
    model.load_state_dict(authors_weights(golden['pyramid_shapes']))
    return model.to(dtype).eval()


def golden_image(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(image(height, width)).to(dtype)
