"""The pretrained weights of a model's config, in every form that the toolboxes have: found, checked, removed."""

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
        file: A path, an address or a toolbox's name for one; None if the class itself chooses it (`pretrained=True`).
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
        """Whether they are for a teacher, which is not trained and not in checkpoints."""
        return self.entry == 'teacher_ckpt'

    @property
    def backbone(self) -> type[Backbone] | None:
        """The class of the backbone that loads them, if it is one of this project."""
        backbone = self.node.get('backbone') if self.entry == 'pretrained' else None
        return backbone_class((backbone or self.node).get('type'))


def pretrained_weights(model: dict, path: Keys = ()) -> Iterator[PretrainedWeights]:
    """All pretrained weights in a model's config and in the models within it; `path` leads to the model."""
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
    """A copy of a model's config without pretrained weights, except for those to keep."""
    model = copy.deepcopy(model)
    for found in list(pretrained_weights(model)):
        if keep is not None and keep(found):
            continue
        inits = found.node.pop(found.entry, None)  # not None, which for some is no initialisation at all
        if isinstance(inits, (list, tuple)) and (rest := [init for init in inits if not init.get('checkpoint')]):
            found.node['init_cfg'] = rest
    return model


def missing_pretrained(model: dict) -> list[str]:
    """A message on each file with pretrained weights that does not exist; addresses are not tried."""
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
    """Checks that the files with the pretrained weights of a model's config exist.

    Raises:
        InputError: Names all that do not, where the authors publish them, and what else can be done.
    """
    if missing := missing_pretrained(model):
        raise InputError('\n'.join(missing))


def fetch_pretrained(model: dict) -> None:
    """Fetches the weights of this project's backbones from http addresses; the toolboxes fetch theirs themselves.

    This is done before several processes wait for one another, which they do for some minutes only.

    Raises:
        InputError: They cannot be fetched.
    """
    for found in pretrained_weights(model):
        if found.file and found.backbone and is_address(found.file):
            with local_file(found.file):
                pass
