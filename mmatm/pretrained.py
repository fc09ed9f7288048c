"""The weights that a model's config starts from, in every form that the toolboxes have: found, checked, taken out."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmatm.checkpoint import local_file
from mmatm.config import Keys, dicts, dotted
from mmatm.errors import InputError
from mmatm.models import Backbone, backbone_class, published_weights
from mmatm.utils.download import is_address


@dataclass(frozen=True)
class PretrainedWeights:
    """An entry of a config that loads weights when the model is built or initialised.

    Attributes:
        keys: The keys that lead to it: to an `init_cfg`'s `checkpoint`, a `pretrained` or a `teacher_ckpt`.
        file: A path, an address or a toolbox's name for one; None where the class itself knows (`pretrained=True`).
        node: The dict that has the entry.
    """

    keys: Keys
    file: str | None
    node: dict

    @property
    def entry(self) -> str:
        """The key in `node`."""
        return 'init_cfg' if 'init_cfg' in self.keys[-3:] else self.keys[-1]

    @property
    def module(self) -> str:
        """The part of the model that they are for. A model's `pretrained` is for its backbone."""
        holder = self.keys[: self.keys.index(self.entry)]
        has_backbone = self.entry == 'pretrained' and 'backbone' in self.node
        return dotted((*holder, 'backbone') if has_backbone else holder)

    @property
    def of_teacher(self) -> bool:
        """Whether they are of a network that is not trained, and that checkpoints do not hold."""
        return self.entry == 'teacher_ckpt'

    @property
    def backbone(self) -> type[Backbone] | None:
        """The class of the backbone that loads them, if it is one of this project."""
        backbone = self.node.get('backbone') if self.entry == 'pretrained' else None
        return backbone_class((backbone or self.node).get('type'))


def pretrained_weights(model: dict, path: Keys = ()) -> Iterator[PretrainedWeights]:
    """Those of a model's config, and of the models within it; `path` leads to the model."""
    for keys, node in dicts(model, path):
        for entry in ('init_cfg', 'pretrained', 'teacher_ckpt'):
            for below, file in _files(entry, node.get(entry)):
                yield PretrainedWeights((*keys, entry, *below), file if isinstance(file, str) else None, node)


def _files(entry: str, value: Any) -> list[tuple[Keys, str | bool]]:
    if entry != 'init_cfg':
        return [((), value)] if value else []
    if isinstance(value, dict):
        return [(('checkpoint',), value['checkpoint'])] if value.get('checkpoint') else []
    return [((i, *keys), file) for i, init in enumerate(value or ()) for keys, file in _files(entry, init)]


def without_pretrained(model: dict, keep: Callable[[PretrainedWeights], bool] | None = None) -> dict:
    """A copy of a model's config that starts from random weights, but for those to keep."""
    model = copy.deepcopy(model)
    for found in list(pretrained_weights(model)):
        if keep is not None and keep(found):
            continue
        inits = found.node.pop(found.entry, None)  # not None, which for some is no initialisation at all
        if isinstance(inits, (list, tuple)) and (rest := [init for init in inits if not init.get('checkpoint')]):
            found.node['init_cfg'] = rest
    return model


def missing_pretrained(model: dict) -> list[str]:
    """A message on each file that a model's config would start from and that is not there; addresses are not tried."""
    messages = []
    for found in pretrained_weights(model, ('model',)):
        if found.file is None or '://' in found.file or Path(found.file).is_file():
            continue
        kind = found.backbone
        size = kind.short_name(found.node.get('arch')) if kind else None
        where = f'{published_weights(kind.imagenet_config(size))}. ' if size else ''
        way = '' if found.of_teacher else ', or train from random weights with --from-scratch'
        messages.append(
            f'the pretrained weights {found.file} are not there. {where}Put the file there, or name another one with '
            f'--cfg-options {dotted(found.keys)}=FILE{way}'
        )
    return messages


def require_pretrained(model: dict) -> None:
    """Checks that the files are there that a model's config starts from.

    Raises:
        InputError: Names all that are not, says where the authors publish them, and the other ways on.
    """
    if missing := missing_pretrained(model):
        raise InputError('\n'.join(missing))


def fetch_pretrained(model: dict) -> None:
    """Fetches the weights of this project's backbones from http addresses; the toolboxes fetch theirs themselves.

    Processes wait for one another for some minutes only, so it is done before they do.

    Raises:
        InputError: They cannot be fetched.
    """
    for found in pretrained_weights(model):
        if found.file and found.backbone and is_address(found.file):
            with local_file(found.file):
                pass
