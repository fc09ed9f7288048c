"""What a swap changes in a config, entry by entry, with the reasons."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config, ConfigDict

from mmatm.config import Keys, dotted
from mmatm.models import Backbone


@dataclass(frozen=True)
class Change:
    """One entry of a config that is another after the swap.

    Attributes:
        path: Keys, and indices of lists, that lead to the entry.
        old: The value before, None if there was none.
        new: The value after.
        why: The reason.
    """

    path: Keys
    old: Any
    new: Any
    why: str

    @property
    def name(self) -> str:
        """The keys with dots between them."""
        return dotted(self.path)


@dataclass
class Swap:
    """A config with another backbone than before.

    Attributes:
        cfg: The config after the swap, whole.
        backbone: The class of the new backbone.
        arch: The size of the new backbone, as its class takes it.
        changes: Entries in which the config differs from the one before.
        notes: What the user has to know beside them.
    """

    cfg: Config
    backbone: type[Backbone]
    arch: str | Mapping[str, Any]
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What texts call the new backbone: its class's name."""
        return self.backbone.__name__

    def set(self, path: Keys, new: Any, why: str) -> None:
        """Sets an entry and keeps account of it, unless it is so already."""
        node = self.cfg._cfg_dict
        for key in path[:-1]:
            node = node[key]
        old = node[path[-1]] if isinstance(node, (list, tuple)) else node.get(path[-1])
        if _plain(old) == _plain(new):
            return
        self.changes.append(Change(path, copy.deepcopy(old), copy.deepcopy(new), why))
        node[path[-1]] = ConfigDict(new) if isinstance(new, dict) else new


def _plain(value: Any) -> Any:
    """A value with lists for tuples and dicts for config dicts."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
