"""Counts parameters and FLOPs by component as the paper does, on tensors without values."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmatm.build import build_model
from mmatm.errors import InputError
from mmatm.models import image_channels


def _per_value(into: int = 0, out: int = 0) -> Callable[..., int]:
    """A rule of PyTorch's counter: multiply-accumulates, two of its units each, per value of the input or output."""
    return lambda shape, *args, out_shape, **kwargs: 2 * math.prod(shape if into else out_shape) * (into or out)


# What PyTorch's counter leaves out, as fvcore counts it.
_RULES = {
    torch.ops.aten.native_layer_norm: _per_value(into=5),
    torch.ops.aten.native_group_norm: _per_value(into=5),
    torch.ops.aten._native_batch_norm_legit_no_training: _per_value(into=2),
    torch.ops.aten.upsample_nearest2d: _per_value(out=1),
    torch.ops.aten.upsample_bilinear2d: _per_value(out=4),
}
# What the heads of a two-stage detector are counted on.
BOX_PROPOSALS, MASK_PROPOSALS = 1000, 100
_DETECTION_SHAPE = (800, 1280)


@dataclass(frozen=True)
class Count:
    """Of one component, or of a whole model.

    Attributes:
        params: Number of parameters.
        flops: Multiply-accumulates of one image, which the field calls FLOPs.
    """

    params: int
    flops: int


def image_shape(cfg: Config) -> tuple[int, int]:
    """(H, W) at which a config's model is counted by default: 800x1280 for detectors, else the size of its inputs.

    Raises:
        InputError: The config does not tell.
    """
    if cfg.get('default_scope') == 'mmdet':
        return _DETECTION_SHAPE
    size = (cfg.model.get('data_preprocessor') or {}).get('size')
    if size is None:  # of a classifier: what the last of its transforms with a size returns
        pipeline = cfg.get('test_dataloader', cfg.get('val_dataloader', {})).get('dataset', {}).get('pipeline', [])
        sizes = [t.get('crop_size', t.get('scale')) for t in pipeline if t['type'] in ('CenterCrop', 'Resize')]
        size = sizes[-1] if sizes else None
    if size is None:
        raise InputError('the config does not give the size of its images; give it with --shape H W')
    return tuple(size) if isinstance(size, Sequence) else (size, size)


def count(cfg: Config, shape: Sequence[int]) -> dict[str, Count]:
    """Counts the model of a config on one image, in evaluation mode.

    FLOPs are counted as fvcore does: the multiply-accumulates of convolutions, linear layers and matrix products, and
    a few for each value of norms and resizing; pooling is left out, unlike there. Backbones are counted by their
    definition, however they are computed; axial sampling is not counted. The heads of a two-stage detector are counted
    on 1000 proposals for boxes and 100 for masks, at each stage of a cascade.

    Args:
        cfg: Config of a segmentor, detector or classifier.
        shape: (H, W) of the image.

    Returns:
        The components in the model's order, the heads of a two-stage detector one by one, and ``'total'``.

    Raises:
        InputError: The model cannot be counted in this way.
    """
    if not cfg.get('model'):
        raise InputError('the config has no model')
    # PyTorch's counter would look for gradients of what modules are called with.
    model = build_model(cfg, 'meta').eval().requires_grad_(False)
    run = _Forward(model, _two_stage_forward if hasattr(model, 'roi_head') else _plain_forward)
    counter = FlopCounterMode(display=False, custom_mapping=_RULES)
    try:
        with torch.no_grad(), counter:
            run(torch.empty(1, image_channels(model), *shape, device='meta'))
    except (NotImplementedError, RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).partition('\n')[0]
        raise InputError(f'{type(model).__name__} cannot be counted on tensors without values: {reason}') from error
    flops = {name: sum(by_operator.values()) // 2 for name, by_operator in counter.get_flop_counts().items()}

    def of(name: str, module: nn.Module) -> int:
        """Of a module, or of what is in it, if only that is called."""
        path = f'_Forward.model.{name}'
        return flops.get(path) or sum(of(f'{name}.{child}', part) for child, part in module.named_children())

    counts = {name: Count(_params(part), of(name, part)) for name, part in _components(model)}
    counts = {name: c for name, c in counts.items() if c.params or c.flops}
    for name, counted in counts.items():
        if name.startswith('roi_head.') and not counted.flops:
            raise InputError(f'{type(model).__name__} cannot be counted: there is no forward pass here for its {name}')
    return {**counts, 'total': Count(_params(model), flops['Global'])}


class _Forward(nn.Module):
    """A model with the forward pass that is counted. The counter names modules by the one that is called first."""

    def __init__(self, model: nn.Module, run: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.model = model
        self.run = run

    def forward(self, images: Tensor) -> Any:
        return self.run(self.model, images)


def _plain_forward(model: nn.Module, images: Tensor) -> Any:
    return model(images, mode='tensor')


def _two_stage_forward(model: nn.Module, images: Tensor) -> Any:
    """The detector's, with a fixed number of proposals and dummy pooled feature maps: pooling is not counted."""
    maps = model.extract_feat(images)
    if model.with_rpn:
        model.rpn_head(maps)
    for kind, proposals in (('bbox', BOX_PROPOSALS), ('mask', MASK_PROPOSALS)):
        if getattr(model.roi_head, f'{kind}_head', None) is not None:
            heads = _as_list(getattr(model.roi_head, f'{kind}_head'))
            extractors = _as_list(getattr(model.roi_head, f'{kind}_roi_extractor'))
            for head, extractor in zip(heads, extractors, strict=True):
                height, width = extractor.roi_layers[0].output_size
                head(maps[0].new_empty(proposals, extractor.out_channels, height, width))


def _as_list(module: nn.Module) -> Sequence[nn.Module]:
    return module if isinstance(module, nn.ModuleList) else [module]


def _components(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_children():
        if name == 'roi_head':
            yield from ((f'{name}.{child}', part) for child, part in module.named_children())
        else:
            yield name, module


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
