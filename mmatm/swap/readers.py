"""What reads a backbone's feature maps, necks and heads, and how they are told of other ones."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import ConfigDict

from mmatm.config import Keys, dicts, dotted
from mmatm.errors import InputError
from mmatm.swap.account import Swap
from mmatm.swap.feature_maps import FeatureMaps, probe_neck

# Beside a backbone, these do not read its feature maps.
_NO_READERS = {'backbone', 'neck', 'data_preprocessor', 'train_cfg', 'test_cfg', 'init_cfg', 'reid'}


def heads(place: Mapping) -> Iterator[tuple[Keys, ConfigDict]]:
    """The heads beside a backbone, with their paths from there."""
    for key, value in place.items():
        if key not in _NO_READERS and not key.startswith('teacher_'):
            if isinstance(value, dict) and 'backbone' not in value:
                yield (key,), value
            elif isinstance(value, (list, tuple)):
                yield from (((key, i), entry) for i, entry in enumerate(value) if isinstance(entry, dict))


def segments(place: Mapping) -> bool:
    """Whether a segmentor's heads read the backbone. They resize maps, and take the last one for the deepest."""
    return not place.get('neck') and any(path[0] == 'decode_head' for path, _ in heads(place))


def read_by_heads(place: Mapping, count: int, *kinds: str) -> set[int]:
    """Positions of the maps that a segmentor's heads of some kinds read, with all of their parts."""
    of_kinds = (head for path, head in heads(place) if path[0] in kinds)
    return {k for head in of_kinds for _, node in dicts(head, ()) for k in _read_by(node, count)}


def _read_by(node: Mapping, count: int) -> list[int]:
    """Positions of the maps that a head, or a part of one with maps of its own, says that it reads."""
    channels, index = node.get('in_channels'), node.get('in_index')
    if channels is None:
        return []
    if index is None:
        index = -1 if isinstance(channels, int) else range(count)
    read = [i % count for i in ([index] if isinstance(index, int) else index)]
    return [*read, 0] if node.get('c1_channels') else read  # DeepLabV3+ reads the first map too


def refuse_readers(swap: Swap, place: Mapping) -> None:
    """Refuses models whose other parts hold a piece of the old backbone.

    Raises:
        InputError: It is such a model.
    """
    if 'rfp_backbone' in (place.get('neck') or {}):
        raise InputError(
            'the neck feeds its feature maps back into a second backbone (rfp_backbone), which has to be a ResNet of '
            "DetectoRS' own"
        )
    if (place.get('roi_head') or {}).get('shared_head'):
        raise InputError(
            f'the RoI head contains the last stage of {place["backbone"]["type"]} (shared_head), and no part of '
            f'{swap.name} can replace it. Use a variant of the model with an FPN'
        )


def fit_readers(
    swap: Swap, path: Keys, place: ConfigDict, before: FeatureMaps, after: FeatureMaps, sources: Sequence[int | None]
) -> None:
    """Sets necks and then heads to the new maps, as far as what reaches them is different from before.

    Raises:
        InputError: None of them says that it reads the old maps.
    """
    necks = place.get('neck')
    listed = isinstance(necks, (list, tuple))
    for i, neck in enumerate(necks if listed else [necks] if necks else []):
        if before == after:
            return
        if neck['type'].endswith('GlobalAveragePooling'):  # has no channels, and a size of its own
            continue
        old, _ = probe_neck(neck, before)
        neck_path = (*path, 'neck', i) if listed else (*path, 'neck')
        _require_reader(_fit_reader(swap, neck_path, neck, before, after, sources, top=True), neck_path, before, after)
        new, _ = probe_neck(neck, after)
        if old is None or new is None:  # most necks give the same channels, whatever they read
            return
        before, after, sources = old, new, range(len(old.channels))
    if before == after:
        return
    found = []
    for head_path, head in heads(place):
        found.append(_fit_reader(swap, (*path, *head_path), head, before, after, sources, top=True))
        if segments(place):
            _require_reader(found[-1], (*path, *head_path), before, after)
    _require_reader(any(found), path, before, after)


def _require_reader(found: bool, path: Keys, before: FeatureMaps, after: FeatureMaps) -> None:
    if before.channels != after.channels and not found:
        raise InputError(
            f'nothing in {dotted(path)} says that it reads feature maps of {list(before.channels)} channels; set its '
            'channels by hand'
        )


def _fit_reader(
    swap: Swap,
    path: Keys,
    node: Any,
    before: FeatureMaps,
    after: FeatureMaps,
    sources: Sequence[int | None],
    top: bool = False,
) -> bool:
    """Sets what a neck or head is told of the maps it reads, in all of its config.

    Args:
        swap: Keeps the changes.
        path: Of the node.
        node: The neck's or head's config, or an entry of it.
        before: The maps that were read.
        after: The maps that are read now.
        sources: Position of the new map for each old one.
        top: Whether the node is the neck or head itself.

    Returns:
        Whether it is told of them at all.
    """
    if isinstance(node, (list, tuple)):
        read = [_fit_reader(swap, (*path, i), entry, before, after, sources) for i, entry in enumerate(node)]
        return any(read)  # all of them are set first
    if not isinstance(node, dict):
        return False
    why = 'reads the new feature maps'
    count = len(before.channels)
    channels, index, given = node.get('in_channels'), node.get('in_index'), node.get('out_channels')
    found = False
    nested = isinstance(index, int) or (count == 1 and 'decode_head' not in path)
    if isinstance(channels, int) and (top or nested):
        k = _read_by(node, count)[0]
        if found := channels == before.channels[k] and sources[k] is not None:
            swap.set((*path, 'in_channels'), after.channels[sources[k]], why)
            if (-1 if index is None else index) not in (sources[k], sources[k] - len(after.channels)):
                swap.set((*path, 'in_index'), sources[k], why)
    elif isinstance(channels, (list, tuple)):
        orders = (o for o in _orders(node, channels, count) if [before.channels[k] for k in o] == list(channels))
        if found := (order := next(orders, None)) is not None:
            given_out = [sources[k] for k in order if sources[k] is not None]
            swap.set((*path, 'in_channels'), type(channels)(after.channels[i] for i in given_out), why)
            if isinstance(index, (list, tuple)):
                swap.set((*path, 'in_index'), type(index)(given_out), why)
    now = node.get('in_channels')
    if found and node.get('num_convs') == 0 and node.get('channels') == _sum(channels):
        swap.set((*path, 'channels'), _sum(now), 'a head without convolutions has as many channels as it reads')
    if node.get('c1_channels') and node.get('c1_in_channels') == before.channels[0]:
        swap.set((*path, 'c1_in_channels'), after.channels[sources[0]], why)
    if isinstance(given, (list, tuple)) and list(given[:count]) == list(before.channels):
        swap.set(
            (*path, 'out_channels'),
            type(given)([*after.channels, *given[count:]]),
            'returns feature maps as it gets them',
        )
    elif 'featmap_strides' in node and count == 1 and given == before.channels[0]:
        swap.set((*path, 'out_channels'), after.channels[0], why)
    for key in ('strides', 'feature_strides'):
        if isinstance(node.get(key), (list, tuple)) and list(node[key]) == list(before.strides) != list(after.strides):
            swap.set((*path, key), type(node[key])(after.strides), why)
    below = [_fit_reader(swap, (*path, key), child, before, after, sources) for key, child in list(node.items())]
    return found or any(below)


def _sum(channels: int | Sequence[int]) -> int:
    return channels if isinstance(channels, int) else sum(channels)


def _orders(node: Mapping, channels: Sequence[int], count: int) -> Iterator[list[int]]:
    """The orders in which a list of channels may name the maps that are read."""
    if isinstance(node.get('in_index'), (list, tuple)):
        yield _read_by(node, count)
    everything = list(range(count))
    yield everything
    yield everything[::-1]
    yield from (everything[i : i + len(channels)] for i in range(count - len(channels), -1, -1))
