"""The backbones that are registered, those in a model, and where their authors publish checkpoints."""

from torch import nn

from mmatm.errors import InputError
from mmatm.registry import MODELS, find_module
from mmatm.utils.download import is_address

from .backbone import Backbone


def backbone_class(kind: object) -> type[Backbone] | None:
    """The class that a config's `type` names, if it is a backbone under the contract.

    Args:
        kind: A name, as ``'mmatm.ATMNet'``, or a class.
    """
    if isinstance(kind, str):
        kind = find_module(kind)
    return kind if isinstance(kind, type) and issubclass(kind, Backbone) else None


def backbones() -> dict[str, type[Backbone]]:
    """All registered backbones of this project, by the name of their class."""
    return {name: kind for name, kind in MODELS.module_dict.items() if backbone_class(kind)}


def find_backbone(model: nn.Module) -> Backbone | None:
    """The first backbone of this project in a model."""
    return next((module for module in model.modules() if isinstance(module, Backbone)), None)


def fuse_backbones(model: nn.Module) -> None:
    """Turns the backbones of a model, in place, into their forms for inference; see `Backbone.fuse`.

    Raises:
        InputError: None of this project's backbones in it has such a form.
    """
    found = [module for module in model.modules() if isinstance(module, Backbone)]
    for backbone in found:
        backbone.fuse()
    if not any(backbone.is_fused for backbone in found):
        names = ' and '.join(sorted({backbone.TITLE for backbone in found})) or 'a backbone of another project'
        raise InputError(f'--fuse is for backbones with another form for inference, which {names} does not have')


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: as its backbone says, if that is one of this project, else 3."""
    backbone = find_backbone(model)
    return backbone.in_channels if backbone else 3


def published_links() -> dict[str, str]:
    """Where the authors publish checkpoints, by the config that they are for."""
    published = (kind.PUBLISHED for kind in backbones().values() if kind.PUBLISHED)
    return {config: link for each in published for config, link in each.links.items()}


def published_weights(config: str) -> str:
    """A sentence on where the authors publish the weights of a config and how to get them, or that they do not."""
    address = published_links().get(config)
    if address is None:
        return 'The authors do not publish them'
    if not is_address(address):
        return f'The authors publish them: {address}'
    return f'The authors publish them at {address} and "python tools/fetch_weights.py {config}" fetches them'
