"""Checkpoints of whole models: where their weights are, and the names that the model's parts take."""

from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor, nn

from mmatm.checkpoint import CONTAINERS

from .backbone import Backbone


def containers(model: nn.Module) -> tuple[str, ...]:
    """Where in a file the weights of a model are: as its backbone says, if that is one under the contract."""
    published = [module.PUBLISHED for _, module in _backbones(model) if module.PUBLISHED]
    return published[0].containers if published else CONTAINERS


def for_model(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A whole model's weights under the names that its modules take; the authors' classifiers come without a prefix."""
    for prefix, backbone in _backbones(model):
        published = backbone.PUBLISHED
        if prefix and published and published.signature in weights:
            named = defaultdict(list)
            for name, weight in weights.items():
                named[published.head_name(name) or f'{prefix}.{name}'].append(weight)
            means = {name: found[0] if len(found) == 1 else sum(found) / len(found) for name, found in named.items()}
            # Some have a 1x1 convolution after the pooling, where MMPretrain has a linear layer.
            return {name: w.flatten(1) if name == 'head.fc.weight' else w for name, w in means.items()}
    return dict(weights)


def _backbones(model: nn.Module) -> list[tuple[str, Backbone]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Backbone)]
