"""Which feature maps a backbone or a neck returns: it is built, without values where that is possible, and tried."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmatm.build import build_module
from mmatm.errors import InputError
from mmatm.models import Backbone

_PROBE_SIZE = 512


class NoMapsError(InputError):
    """The old backbone returns something else than feature maps."""


@dataclass(frozen=True)
class FeatureMaps:
    """What a backbone or a neck returns: channels, and pixels per token, of each feature map."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __str__(self) -> str:
        return ', '.join(f'{c} channels at stride {s}' for c, s in zip(self.channels, self.strides, strict=True))


@dataclass(frozen=True)
class BuiltBackbone:
    """What a backbone is like when it is built.

    Attributes:
        maps: What it returns.
        parameters: Their names in a model whose `backbone` it is.
        kind: Its class.
    """

    maps: FeatureMaps
    parameters: frozenset[str]
    kind: type[nn.Module]


def ask_backbone(backbone: Mapping) -> BuiltBackbone:
    """Builds a backbone under the contract, which says itself what it returns.

    Raises:
        InputError: It cannot be built.
    """

    def ask(module: nn.Module, _: str) -> BuiltBackbone:
        return _built(module, FeatureMaps(module.out_channels, module.out_strides))

    try:
        return build_and_run(ConfigDict(backbone), ask)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f'{backbone["type"]} cannot be built: {_words(error)}') from error


def probe_backbone(backbone: ConfigDict) -> BuiltBackbone:
    """Builds any backbone and runs it on an image.

    Raises:
        NoMapsError: It returns something else than feature maps.
        InputError: It cannot be built, or returns one tensor.
    """
    name = backbone['type']
    size = backbone.get('img_size', _PROBE_SIZE)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)

    def run(module: nn.Module, device: str) -> tuple[nn.Module, Any]:
        return module, module(torch.zeros(1, 3, height, width, device=device))

    try:
        module, maps = build_and_run(backbone, run)
    except Exception as error:
        raise InputError(
            f'{name} could not be run on an RGB image, to see which feature maps it returns: {_words(error)}'
        ) from error
    if isinstance(maps, Tensor):
        raise InputError(f'{name} returns one tensor instead of a list of feature maps, and its head expects that')
    if not isinstance(maps, (list, tuple)) or not all(isinstance(x, Tensor) and x.ndim == 4 for x in maps):
        raise NoMapsError(
            f'{name} does not return a list of feature maps, but something else that its head reads, such as class '
            'tokens'
        )
    strides = tuple(round(height / x.shape[2]) for x in maps)
    return _built(module, FeatureMaps(tuple(x.shape[1] for x in maps), strides))


def _built(module: nn.Module, maps: FeatureMaps) -> BuiltBackbone:
    return BuiltBackbone(maps, frozenset(f'backbone.{name}' for name, _ in module.named_parameters()), type(module))


def probe_neck(neck: ConfigDict, maps: FeatureMaps, values: bool = True) -> tuple[FeatureMaps | None, list[int]]:
    """Builds a neck or head and runs it on dummy feature maps.

    Args:
        neck: Its config.
        maps: What it reads.
        values: If False, only what can be told without computing anything is.

    Returns:
        The feature maps that it returns, None if it does not run on dummy ones; and the positions of those it reads.
    """

    def run(module: nn.Module, device: str) -> Any:
        shapes = [(c, *[_PROBE_SIZE // s] * 2) for c, s in zip(maps.channels, maps.strides, strict=True)]
        with torch.enable_grad():
            inputs = [torch.zeros(1, *shape, device=device, requires_grad=True) for shape in shapes]
            outputs = module(tuple(inputs))
            gradients = torch.autograd.grad(sum(x.sum() for x in outputs), inputs, allow_unused=True)
        return outputs, [k for k, gradient in enumerate(gradients) if gradient is not None]

    try:
        outputs, read = build_and_run(neck, run, values)
    except Exception:
        return None, list(range(len(maps.strides)))
    if isinstance(outputs, Tensor) or not all(x.ndim == 4 for x in outputs):
        return None, read
    strides = tuple(round(_PROBE_SIZE / x.shape[2]) for x in outputs)
    return FeatureMaps(tuple(x.shape[1] for x in outputs), strides), read


def build_and_run(cfg: ConfigDict, run: Callable[[nn.Module, str], Any], values: bool = True) -> Any:
    """Builds a module and calls `run` with it and its device: `'meta'`, without values, where that is possible."""
    with torch.no_grad():
        try:
            return run(_build(cfg, 'meta'), 'meta')
        except Exception:  # an operation is for real devices
            if not values:
                raise
            return run(_build(cfg, 'cpu'), 'cpu')


def _build(cfg: ConfigDict, device: str) -> nn.Module:
    module = build_module(cfg, device)
    module.eval()  # which some return nothing from
    return module


def _words(error: BaseException) -> str:
    return ' '.join(str(error).split())[:200]


def options(kind: type) -> dict[str, Any]:
    """The arguments that a class is built with and their defaults, `Parameter.empty` where there is none."""
    found = {}
    for parent in kind.__mro__:
        if '__init__' in vars(parent):
            parameters = signature(parent.__init__).parameters
            found = {name: each.default for name, each in parameters.items()} | found
            if Parameter.VAR_KEYWORD not in {each.kind for each in parameters.values()}:
                break
    if issubclass(kind, Backbone):  # whose class says what its constructor leaves open
        by_class = {'arch': next(iter(kind.SIZES)), 'norm_eval': kind.NORM_EVAL}
        found |= {name: default for name, default in by_class.items() if found.get(name, default) is None}
    return found
