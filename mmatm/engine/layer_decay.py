"""Learning rates that decay by layer, from the heads down to the stem."""

import inspect
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from mmatm.errors import InputError
from mmatm.registry import OPTIM_WRAPPER_CONSTRUCTORS

_DECAY_KEYS = ('norm_decay_mult', 'bias_decay_mult', 'dwconv_decay_mult', 'flat_decay_mult')
_KEYS = (
    *('layer_decay_rate', 'layers', 'custom_keys', 'bias_lr_mult', 'dcn_offset_lr_mult', 'bypass_duplicate'),
    *_DECAY_KEYS,
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds an optimizer whose learning rates decay by layer: lr * rate^(number of depths - 1 - depth).

    It serves detectors, segmentors and classifiers of all toolboxes. Backbones are found anywhere in a model, a
    student's and a teacher's too, by a method ``get_layer_depth(param_name, prefix)``. Those of this project have one,
    and some of MMPretrain: ViT, Swin, ConvNeXt, BEiT, ResNet among others. Necks and heads have the full learning rate.

    Weight decay is 0 for what a backbone exempts (`Backbone.decay_free`), and in all other parts for parameters of at
    most one axis: norms and biases. Where `paramwise_cfg` says another weight decay for a parameter, that counts.

    Parameters with equal settings share a group.

    Args:
        optim_wrapper_cfg: As in MMEngine; its `optimizer` has to give `lr`.
        paramwise_cfg: ``layer_decay_rate``, above 0 and at most 1; ``layers``, ``'blocks'`` by default or
            ``'published'``, for the depths that the authors of a backbone trained with, see
            `Backbone.get_published_depth`; and all keys of MMEngine's `DefaultOptimWrapperConstructor`:
            ``custom_keys``, ``norm_decay_mult``, ``bias_decay_mult``, ``dwconv_decay_mult``, ``flat_decay_mult``,
            ``bias_lr_mult``, ``dcn_offset_lr_mult``, ``bypass_duplicate``.
            Factors of learning rates multiply those of the layers.

    Raises:
        InputError: Settings that cannot work. Called with a model: it has no backbone with layer depths, or the same
            parameter in two places.

    The formula and the depths are those of MMPretrain's `LearningRateDecayOptimWrapperConstructor`, for classifiers.

    Examples:
        >>> optim_wrapper = dict(
        ...     constructor='mmatm.LayerDecayOptimWrapperConstructor',
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        ...     paramwise_cfg=dict(layer_decay_rate=0.8),
        ... )
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        _check(optim_wrapper_cfg.get('optimizer') or {}, paramwise_cfg)
        self._rate = paramwise_cfg.pop('layer_decay_rate')
        self._published = paramwise_cfg.pop('layers', 'blocks') == 'published'
        # Groups keep the entries of their custom key, so `lr_mult` tells which have one.
        custom_keys = {key: {'lr_mult': 1.0, **entry} for key, entry in paramwise_cfg.get('custom_keys', {}).items()}
        super().__init__(optim_wrapper_cfg, {**paramwise_cfg, 'custom_keys': custom_keys})

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Builds the optimizer of a model, which may be wrapped for distributed training, in its wrapper."""
        wrapper = super().__call__(model)
        settings = wrapper.optimizer.defaults
        if unknown := {key for group in wrapper.optimizer.param_groups for key in group} - {'params', *settings}:
            raise InputError(
                f'custom_keys take lr_mult, decay_mult and settings of the optimizer ({", ".join(settings)}), '
                f'not {", ".join(sorted(unknown))}'
            )
        return wrapper

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: int | float | None = None
    ) -> None:
        """Adds the groups of a model to `params`. MMEngine's, which this calls, calls it for each part of the model."""
        if prefix:
            super().add_params(params, module, prefix, is_dcn_module)
            return
        with _without_lines_for_each_parameter():
            super().add_params(params, module, prefix, is_dcn_module)
        _refuse_duplicates(params, module)
        places = _places(module, self._published)
        merged: list[dict] = []
        for group in params:
            group = self._settled(group, places.get(id(group['params'][0])))
            same = next((other for other in merged if {**other, 'params': 0} == {**group, 'params': 0}), None)
            if same:
                same['params'] += group['params']
            else:
                merged.append(group)
        params[:] = merged
        self._log(module, places, len(merged))

    def _settled(self, group: dict, place: '_Place | None') -> dict:
        """MMEngine's group of one parameter, with its final learning rate and weight decay."""
        (parameter,) = group['params']
        settled = {key: value for key, value in group.items() if key not in ('lr_mult', 'decay_mult')}  # done by now
        settled['lr'] = group.get('lr', self.base_lr) * (self._factor(place) if place else 1.0)
        # For a custom key MMEngine always sets the weight decay.
        is_said = 'decay_mult' in group if 'lr_mult' in group else 'weight_decay' in group
        is_exempt = place.decay_free if place else parameter.ndim <= 1
        if is_exempt and not is_said:
            settled['weight_decay'] = 0.0
        elif self.base_wd is not None:
            settled.setdefault('weight_decay', self.base_wd)
        return settled

    def _factor(self, place: '_Place') -> float:
        return self._rate ** (place.num_depths - 1 - place.depth)

    def _log(self, model: nn.Module, places: 'dict[int, _Place]', groups: int) -> None:
        """Logs the factor of each depth, a line a depth."""
        parameters = list(model.parameters())
        frozen = sum(not parameter.requires_grad for parameter in parameters)
        lines = [
            f'layer decay {self._rate}: {len(parameters) - frozen} trained parameters in {groups} groups, {frozen} '
            'frozen; learning rates of backbones by depth:'
        ]
        trained = [places[id(p)] for p in parameters if p.requires_grad and id(p) in places]
        counts = Counter(place._replace(decay_free=False) for place in trained)
        for place in sorted(counts):
            lines.append(
                f'{place.backbone or "model"}, depth {place.depth} of {place.num_depths - 1}: '
                f'lr * {self._factor(place):.3g}, {counts[place]} parameters'
            )
        print_log('\n  '.join(lines), 'current')


class _Place(NamedTuple):
    """What a backbone says of one of its parameters. `backbone` is its name in the model."""

    backbone: str
    depth: int
    num_depths: int
    decay_free: bool


def _check(optimizer: dict, paramwise_cfg: dict[str, Any]) -> None:
    known = f'paramwise_cfg takes {", ".join(_KEYS)}'
    if unknown := sorted(set(paramwise_cfg) - set(_KEYS)):
        raise InputError(
            f'{known}, not {", ".join(unknown)}. To drop keys that the config inherits, write '
            'paramwise_cfg=dict(_delete_=True, ...)'
        )
    if 'layer_decay_rate' not in paramwise_cfg:
        raise InputError('layer decay needs a rate, such as paramwise_cfg=dict(layer_decay_rate=0.8)')
    rate = paramwise_cfg['layer_decay_rate']
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
        raise InputError(f'layer_decay_rate must be a number above 0 and at most 1, not {rate!r}')
    if paramwise_cfg.get('layers', 'blocks') not in ('blocks', 'published'):
        raise InputError(f"layers must be 'blocks' or 'published', not {paramwise_cfg['layers']!r}")
    custom_keys = paramwise_cfg.get('custom_keys', {})
    if not isinstance(custom_keys, Mapping) or not all(isinstance(entry, Mapping) for entry in custom_keys.values()):
        raise InputError(f"custom_keys must be of the form {{'decode_head': dict(lr_mult=10)}}, not {custom_keys!r}")
    if absolute := {'lr', 'weight_decay'} & {name for entry in custom_keys.values() for name in entry}:
        raise InputError(f'custom_keys take factors, lr_mult and decay_mult, not {" and ".join(sorted(absolute))}')
    if 'lr' not in optimizer:
        raise InputError('layer decay needs a learning rate in the config: optimizer=dict(lr=...)')
    decays = [key for key in _DECAY_KEYS if key in paramwise_cfg]
    decays += [f"decay_mult of '{key}'" for key, entry in custom_keys.items() if 'decay_mult' in entry]
    if decays and 'weight_decay' not in optimizer:
        raise InputError(
            f'{decays[0]} multiplies a weight decay, but the config gives none: optimizer=dict(weight_decay=...)'
        )


def _refuse_duplicates(params: list[dict], model: nn.Module) -> None:
    counts = Counter(id(group['params'][0]) for group in params)
    names = [name for name, p in model.named_parameters(remove_duplicate=False) if counts[id(p)] > 1]
    if names:
        raise InputError(
            f'the model has a parameter in two places ({", ".join(names[:3])}); '
            'set paramwise_cfg=dict(bypass_duplicate=True) to give it to the optimizer once'
        )


def _places(model: nn.Module, published: bool) -> dict[int, _Place]:
    """What the backbones of a model say of their parameters, by the parameter's id."""
    backbones = dict(_backbones(model, ''))
    if not backbones:
        children = [(name, type(part).__name__) for name, part in model.named_children() if list(part.parameters())]
        parts = ', '.join(f'{name} ({kind})' for name, kind in children)
        raise InputError(
            f'layer decay needs a backbone with the method get_layer_depth(param_name, prefix), which no part of this '
            f'{type(model).__name__} has: {parts}. All backbones of mmatm have it, and some of MMPretrain: ViT, Swin, '
            'ConvNeXt, BEiT, ResNet'
        )
    places: dict[int, _Place] = {}
    for name, backbone in backbones.items():
        for own, parameter in backbone.named_parameters():
            try:
                if published:
                    depth, num_depths = backbone.get_published_depth(own)
                else:  # as MMPretrain's classifiers ask: its ResNet knows no other prefix
                    depth, num_depths = backbone.get_layer_depth(f'backbone.{own}', 'backbone.')
            except (NotImplementedError, AttributeError) as error:
                kind = (
                    "published layer depths; layers='blocks' has one for each block"
                    if published
                    else ('layer depths in this size, which layer decay needs')
                )
                raise InputError(f'{name or "the model"} is a {type(backbone).__name__} without {kind}') from error
            is_free = backbone.decay_free(own) if hasattr(backbone, 'decay_free') else parameter.ndim <= 1
            places.setdefault(id(parameter), _Place(name, depth, num_depths, is_free))
    return places


def _backbones(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    # MMPretrain's classifiers have a method of that name too, without prefix, that only asks their backbone.
    if 'prefix' in inspect.signature(getattr(module, 'get_layer_depth', lambda: None)).parameters:
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _backbones(child, f'{name}.{child_name}' if name else child_name)


@contextmanager
def _without_lines_for_each_parameter() -> Iterator[None]:
    """Drops MMEngine's log lines on each parameter: settings that are not final yet, and that it is frozen."""

    def is_other(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (message.startswith('paramwise_options -- ') or 'is skipped since its requires_grad' in message)

    logger = MMLogger.get_current_instance()
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
