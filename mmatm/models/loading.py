"""From a checkpoint to the parameters of a backbone: names, what may be missing, and what is refused."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmatm.checkpoint import CONTAINERS, ForeignWeightsError, brief, first_names, read_checkpoint
from mmatm.errors import InputError

from .options import NUM_STAGES

if TYPE_CHECKING:
    from .backbone import Backbone


@dataclass(frozen=True)
class Published:
    """The checkpoints that a backbone's authors publish: how they read and where they are.

    Attributes:
        signature: A parameter's name that only they use.
        renames: Pattern at the beginning of their names -> beginning of ours, in the order in which they are tried;
            None drops the parameter.
        head: Beginnings of the names of their classifier's last layers -> those in MMPretrain's `ImageClassifier`.
            Where two of theirs become one, it is their mean, as their classifier averages its logits.
        containers: Where in the file the weights are, by key: the first that is there.
        links: Config's name -> what `mmatm.utils.download` takes, or words on where the file is.
    """

    signature: str
    renames: tuple[tuple[str, str | Callable[[re.Match], str] | None], ...]
    head: Mapping[str, str] = field(default_factory=dict)
    containers: tuple[str, ...] = CONTAINERS
    links: Mapping[str, str] = field(default_factory=dict)

    def own_name(self, name: str) -> str | None:
        """Their name of a backbone's parameter -> ours, None if ours has no such; others stay as they are."""
        for pattern, replacement in self.renames:
            if re.match(pattern, name):
                return None if replacement is None else re.sub(f'^{pattern}', replacement, name)
        return name

    def head_name(self, name: str) -> str | None:
        """Their name of a classifier's parameter -> MMPretrain's; None for others."""
        found = ((theirs, ours) for theirs, ours in self.head.items() if name.startswith(theirs))
        return next((ours + name.removeprefix(theirs) for theirs, ours in found), None)


@dataclass(frozen=True)
class Allowed:
    """What a checkpoint may lack or have beside what a backbone is made of: patterns of names; see `Backbone`."""

    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    fit_stem: bool = False


def read_backbone(path: str, published: Published | None, prefix: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Reads a backbone's weights from a backbone's or a whole model's checkpoint.

    Args:
        path: As `mmatm.checkpoint.read_checkpoint` takes it.
        published: Of the backbone.
        prefix: The backbone's name in the checkpoint; None looks for ``'backbone'``.

    Returns:
        The weights without prefix, and a summary of what else the checkpoint holds.

    Raises:
        InputError: As `read_checkpoint`; no name in the checkpoint has the prefix.
    """
    weights = read_checkpoint(path, containers=published.containers if published else CONTAINERS)['state_dict']
    if prefix is None:
        prefix = 'backbone' if any(name.startswith('backbone.') for name in weights) else ''
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''
    heads = () if prefix or not published or published.signature not in weights else tuple(published.head)
    backbone = {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix) and not name.startswith(heads)
    }
    if not backbone:
        raise InputError(
            f"{path}: no parameter's name begins with '{prefix}'; the names begin with "
            f'{sorted({n.split(".")[0] for n in weights})}'
        )
    rest = Counter(name.split('.')[0] for name in weights if name.removeprefix(prefix) not in backbone)
    return backbone, ', '.join(f'{name} ({count} tensors)' for name, count in rest.items())


def fill(backbone: 'Backbone', state_dict: dict[str, Tensor], prefix: str, allowed: Allowed) -> None:
    """Turns the weights below a prefix into those of a backbone, in place, before they are copied into it.

    The authors' names become its own, weights that depend on a size are fitted, and those of stages that it does not
    have are dropped.

    Raises:
        InputError: Names parameters that are missing, unknown or of another shape, the first of each.
    """
    given = {name.removeprefix(prefix): state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
    if not given:  # there may be others, which only who read the file can show
        reason = f'none of their names begins with {prefix}' if prefix else 'there are none'
        raise ForeignWeightsError(backbone.TITLE, reason)
    published = backbone.PUBLISHED
    if published and published.signature in given:
        named = ((published.own_name(name), weight) for name, weight in given.items())
        given = {name: weight for name, weight in named if name is not None}
    with_norm = backbone.out_indices if backbone.has_norms else ()
    elsewhere = tuple(f'norm{i}.' for i in range(NUM_STAGES) if i not in with_norm)
    elsewhere += tuple(f'stages.{i}.' for i in range(max(backbone.out_indices) + 1, NUM_STAGES))
    given = {name: weight for name, weight in given.items() if not name.startswith(elsewhere)}
    backbone.adapt(given)
    if allowed.fit_stem:
        name = stem_weight(backbone)
        if name in given and given[name].shape[1] != backbone.in_channels:
            channels = given[name].shape[1]
            given[name] = fit_channels(given[name], backbone.in_channels)
            print_log(
                f'{backbone.TITLE}: fitted {name} from {channels} to {backbone.in_channels} image channels', 'current'
            )
    _check(backbone, given, allowed)
    state_dict.update({prefix + name: weight for name, weight in given.items()})


def _check(backbone: 'Backbone', given: dict[str, Tensor], allowed: Allowed) -> None:
    """Refuses weights that do not fill a backbone, and removes, in place, those that may stay unused."""
    own = backbone.state_dict()
    if not set(given) & set(own):
        raise ForeignWeightsError(backbone.TITLE, f'their names are like {first_names(list(given))}')
    other = {name for name in given if name in own and given[name].shape != own[name].shape}
    # What is of another shape is missing and unused at once.
    may_go = {name for name in given if name not in own} | {name for name in other if _matches(name, allowed.missing)}
    unused = [name for name in given if name in may_go and _matches(name, allowed.unused)]
    other -= set(unused)
    left = set(given) - set(unused)
    absent = [name for name in own if name not in left and not _may_be_missing(name)]
    kinds = {
        'missing': [name for name in absent if not _matches(name, allowed.missing)],
        'unknown': [name for name in given if name in left and name not in own],
        'of another shape': [name for name in own if name in other],
    }
    kinds = {kind: names for kind, names in kinds.items() if names}
    if kinds:
        size = f'{type(backbone).__name__} {backbone.size or "of a custom size"} {_depths(own)}'
        parts = f' with {", ".join(backbone.changed_parts)} of its own' if backbone.changed_parts else ''
        message = f'weights of {_describe(backbone, given)} do not fill {size}{parts}. {brief(kinds)}'
        raise InputError(message + _way_on(backbone, given, kinds))
    for names, what in (
        (absent, 'not in the checkpoint, left as initialised'),
        (unused, 'in the checkpoint, not used'),
    ):
        if names:
            print_log(f'{backbone.TITLE}: {brief({what: names})}', 'current')
    for name in unused:
        del given[name]
    for name in own:
        if name.endswith('num_batches_tracked'):
            given.setdefault(name, own[name])  # for PyTorch's own check of strict loading


def _may_be_missing(name: str) -> bool:
    """Output norms are in no ImageNet checkpoint, and old batch norms have no count of batches."""
    return re.match(r'norm\d\.', name) is not None or name.endswith('num_batches_tracked')


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _describe(backbone: 'Backbone', given: Mapping[str, Tensor]) -> str:
    """Names the network that weights belong to, by the sizes that have them."""
    fitting = []
    stem = given.get(stem_weight(backbone))
    channels = backbone.in_channels if stem is None else stem.shape[1]
    for size, arch in backbone.SIZES.items():
        if f'depths {arch["depths"]}' in _depths(given):
            with torch.device('meta'):
                own = backbone.publishing_class()(size, in_channels=channels).state_dict()
            shared = set(own) & set(given)
            fitting += [size] * all(own[name].shape == given[name].shape for name in shared)
    return f'{backbone.TITLE} {fitting[0] if fitting else "of a custom size"} {_depths(given)}'


def _depths(weights: Mapping[str, Tensor]) -> str:
    """Those that weights show: those of stages that they do not have are 0."""
    blocks = {match[0] for name in weights if (match := re.match(r'stages\.\d\.blocks\.\d+\.', name))}
    return f'(depths {[sum(block.startswith(f"stages.{i}.") for block in blocks) for i in range(NUM_STAGES)]})'


def _way_on(backbone: 'Backbone', given: Mapping[str, Tensor], kinds: Mapping[str, Sequence[str]]) -> str:
    """What may be done about a mismatch that the user's own changes of the network lead to."""
    if kinds.get('of another shape') == [stem_weight(backbone)] and backbone.in_channels != 3:
        return f'. in_channels is {backbone.in_channels}: fit_stem=True in init_cfg fits the stem'
    if backbone.is_changed and _depths(given) == _depths(backbone.state_dict()):
        return (
            '. If you changed the network on purpose, list these names as patterns: allow_missing=[...] and '
            'allow_unused=[...] in init_cfg, or ALLOW_MISSING and ALLOW_UNUSED in the class'
        )
    return ''


def stem_weight(backbone: 'Backbone') -> str:
    """The name of the weight that reads the image."""
    return next(f'stem.{name}' for name, weight in backbone.stem.named_parameters() if weight.ndim == 4)


def fit_channels(weight: Tensor, channels: int) -> Tensor:
    """The weight of a convolution (out, in, rows, columns) -> the same for so many channels of the image.

    For one channel it is summed, as for a grey image; channels beyond those that it has get zeros.

    Raises:
        InputError: There is no such way between the two numbers.
    """
    own = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    if channels < own:
        raise InputError(f'fit_stem fits {own} channels to 1, or to more than {own}, not to {channels}')
    return torch.cat((weight, weight.new_zeros(len(weight), channels - own, *weight.shape[2:])), dim=1)
