"""Puts ATMNet into a config in place of its backbone."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import log2
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmatm.build import build_module
from mmatm.config import Keys, dicts, dotted, has_name, installed_file, load_config
from mmatm.errors import InputError
from mmatm.models import ATMNet, backbone_class
from mmatm.models.backbone import NUM_STAGES, resolve_out_indices
from mmatm.pretrained import pretrained_weights, without_pretrained
from mmatm.swap.config_text import config_text

_STRIDES = tuple(4 * 2**i for i in range(NUM_STAGES))
# Of images in RGB: what the weights of ATMNet expect.
_IMAGENET = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]}
_DEFAULT_CONSTRUCTOR = 'DefaultOptimWrapperConstructor'
_LAYER_DECAY = {'decay_rate', 'decay_type', 'layer_decay_rate', 'num_layers'}
# Beside a backbone, these do not read its maps.
_NO_READERS = {'backbone', 'neck', 'data_preprocessor', 'train_cfg', 'test_cfg', 'init_cfg', 'reid'}
_PROBE_SIZE = 512


class NoMapsError(InputError):
    """The old backbone gives something else than maps."""


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
    """A config with ATMNet in place of its backbone.

    Attributes:
        cfg: The config after the swap, whole.
        changes: Entries in which it differs from the one before.
        notes: What the user has to know beside them.
    """

    cfg: Config
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

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


def swap_backbone(config: str | Config, arch: str | Mapping = 't', weights: str | None = None) -> Swap:
    """Puts ATMNet into a config in place of its backbone, and fits to it what depended on the old one.

    The old backbone is built to see which maps it gives. Whatever reads them is set to the channels of ATMNet's maps
    of the same strides: a neck, or heads without one. The old backbone's weights and optimizer settings go, and
    images are normalised as ATMNet's weights expect. Swapping a config that has ATMNet already changes its size.

    Args:
        config: A file, a config of an installed toolbox as ``'mmdet::retinanet/NAME.py'``, or a `Config` of either.
        arch: As `ATMNet` takes it.
        weights: A file that the backbone starts from; None starts from random weights.

    Returns:
        The new config with an account of the changes.

    Raises:
        InputError: The model cannot take a backbone that gives a pyramid of maps; says why.

    Example:
        >>> swap = swap_backbone('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 't')  # doctest: +SKIP
        >>> model = MODELS.build(swap.cfg.model)  # doctest: +SKIP
    """
    ATMNet.resolve_arch(arch)
    swap = Swap(load_config(config) if isinstance(config, str) else copy.deepcopy(config))
    model = swap.cfg.get('model')
    if not isinstance(model, dict):
        raise InputError('the config has no model: it is a part that others inherit from')
    if not all(isinstance(node.get('type'), (str, type(None))) for _, node in dicts(model, ('model',))):
        raise InputError("the config names classes instead of types, MMEngine's new style, which is not supported")
    places = list(_places(model, ('model',)))
    if not places:
        raise InputError(f'{model.get("type", "the model")} has no entry `backbone` with a type')
    init_default_scope(swap.cfg.get('default_scope') or 'mmengine')

    weights = weights and str(weights)
    parameters: set[str] = set()
    for path, place in places:
        if backbone_class(place['backbone']['type']):
            _resize(swap, path, place, arch, weights)
        else:
            parameters |= _replace(swap, path, place, arch, weights)
    if any('backbone' in change.path for change in swap.changes):
        _forget_weights(swap, [path for path, _ in places])
    if parameters:
        _normalise(swap)
        _fit_optimizer(swap, parameters)
        if not weights:
            swap.notes.append('the backbone starts from random weights: no file was given')
        elif '://' not in weights and not Path(weights).is_file():
            swap.notes.append(f'{weights} is not there yet, seen from {Path.cwd()}')
    return swap


def swapped_text(swap: Swap, base: str) -> str:
    """The text of a config file that inherits a config and holds only what the swap changed in it.

    Args:
        swap: What changed.
        base: What to inherit: an installed toolbox's config, or a path as seen from the new file.
    """
    changes = [(change.path, change.old, change.new) for change in swap.changes]
    return config_text(base, changes, swap.cfg._cfg_dict, 'ATMNet as the backbone, by tools/swap_backbone.py')


def base_name(config: str, cfg: Config, folder: Path) -> str:
    """What a file in a folder inherits a config by: its name in a toolbox, where MMEngine takes that, or its path.

    Args:
        config: As `swap_backbone` takes it.
        cfg: The config.
        folder: Of the file.
    """
    package = config.partition('::')[0]
    # MMEngine looks for all of a named config's types in the package, whatever the config's scope is.
    if '::' in config and has_name(config) and cfg.get('default_scope', package) == package:
        return config
    path = Path(installed_file(config) if '::' in config else config).resolve()
    # MMEngine takes ../ by the words of the path, which leads elsewhere behind a link.
    behind_link = folder.resolve() != Path(os.path.abspath(folder))  # noqa: PTH100 (resolve() follows links)
    return str(path) if behind_link else os.path.relpath(path, folder)


def _places(model: ConfigDict, path: Keys) -> list[tuple[Keys, ConfigDict]]:
    """Every part of a model that has a backbone, but for appearance models of trackers, trained on their own."""
    return [
        (path, node)
        for path, node in dicts(model, path)
        if not {'reid', 'backbone'} & set(path)
        and isinstance(node.get('backbone'), dict)
        and 'type' in node['backbone']
    ]


def _resize(swap: Swap, path: Keys, place: ConfigDict, arch: str | Mapping, weights: str | None) -> None:
    """Another size of the ATMNet that is there."""
    backbone = place['backbone']
    old, new = ATMNet.resolve_arch(backbone.get('arch', 'tiny')), ATMNet.resolve_arch(arch)
    if old != new:
        swap.set((*path, 'backbone', 'arch'), arch, 'the size asked for')
        swap.set((*path, 'backbone', 'init_cfg'), None, 'weights of another size')
    if weights:
        swap.set((*path, 'backbone', 'init_cfg'), _pretrained(weights), 'the weights asked for')
    stages = resolve_out_indices(backbone.get('out_indices', range(NUM_STAGES)))
    before, after = (_maps_of_stages(stages, backbone.get('output_stride', 32), size) for size in (old, new))
    _fit_readers(swap, path, place, before, after, range(len(stages)))


def _replace(swap: Swap, path: Keys, place: ConfigDict, arch: str | Mapping, weights: str | None) -> set[str]:
    """ATMNet for another backbone. Returns the names of the old one's parameters."""
    old = place['backbone']
    _refuse_readers(place)
    before, parameters = _probe_backbone(old)
    before = _drop_pyramid_maker(swap, path, place, before)
    stages, output_stride, sources = _choose_stages(before.strides, _find_read(swap, path, place, before), place)
    after = _maps_of_stages(stages, output_stride, ATMNet.resolve_arch(arch))

    backbone = {'type': 'mmatm.ATMNet', 'arch': arch}
    if stages != tuple(range(NUM_STAGES)):
        backbone['out_indices'] = list(stages)
    if output_stride != _STRIDES[-1]:
        backbone['output_stride'] = output_stride
    if old.get('with_cp'):
        backbone['with_cp'] = True
    if weights:
        backbone['init_cfg'] = _pretrained(weights)
    maps = (f'{c} channels at stride {s}' for c, s in zip(after.channels, after.strides, strict=True))
    swap.set((*path, 'backbone'), backbone, f'its maps: {", ".join(maps)}')
    _fit_readers(swap, path, place, before, after, sources)
    _note_what_went(swap, path, old)
    for stride, source in zip(before.strides, sources, strict=True):
        if source is not None and after.strides[source] != stride:
            swap.notes.append(
                f'{dotted(path)}: what read the map at stride {stride} reads one at {after.strides[source]} now'
            )
    return parameters


def _note_what_went(swap: Swap, path: Keys, old: Mapping) -> None:
    unset = {'frozen_stages': (None, -1), 'norm_eval': (None, False), 'drop_path_rate': (None, 0)}
    habits = [f'{key}={old[key]}' for key, values in unset.items() if old.get(key) not in values]
    habits += [f'norm_cfg of {old["norm_cfg"]["type"]}'] if 'type' in (old.get('norm_cfg') or ()) else []
    if habits:
        swap.notes.append(
            f'{dotted(path)}: {", ".join(habits)} went with {old["type"]}. ATMNet has layer norms, is trained whole, '
            'and has a frozen_stages and a drop_path_rate (0.1) of its own'
        )
    method = [key for key in ('dcn', 'plugins', 'sac', 'conv_cfg') if old.get(key)]
    if method:
        swap.notes.append(f'{dotted(path)}: {" and ".join(method)} of {old["type"]} went, a part of this method')


def _pretrained(weights: str) -> dict:
    return {'type': 'Pretrained', 'checkpoint': weights}


def _plain(value: Any) -> Any:
    """A value with lists for tuples and dicts for config dicts."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


# Which maps there are


@dataclass(frozen=True)
class _Maps:
    """What a backbone or a neck returns: channels, and pixels per token, of each map."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


def _maps_of_stages(stages: Sequence[int], output_stride: int, arch: Mapping) -> _Maps:
    return _Maps(tuple(arch['channels'][i] for i in stages), tuple(min(_STRIDES[i], output_stride) for i in stages))


def _probe_backbone(backbone: ConfigDict) -> tuple[_Maps, set[str]]:
    """The maps of a backbone, and the names of its parameters.

    Raises:
        NoMapsError: It gives something else than maps.
        InputError: It cannot be built, or gives one tensor.
    """
    name = backbone['type']
    size = backbone.get('img_size', _PROBE_SIZE)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    parameters = set()

    def run(module: nn.Module, device: str) -> Any:
        parameters.update(f'backbone.{parameter}' for parameter, _ in module.named_parameters())
        return module(torch.zeros(1, 3, height, width, device=device))

    try:
        maps = _build_and_run(backbone, run)
    except Exception as error:
        reason = ' '.join(str(error).split())[:200]
        raise InputError(f'{name} does not run here on an RGB image, to see which maps it gives: {reason}') from error
    if isinstance(maps, Tensor):
        raise InputError(f'{name} gives one tensor, not a list of maps: its head reads it in a way of its own')
    if not isinstance(maps, (list, tuple)) or not all(isinstance(x, Tensor) and x.ndim == 4 for x in maps):
        raise NoMapsError(
            f'{name} gives something else than a list of maps, such as class tokens, which its head reads'
        )
    return _Maps(tuple(x.shape[1] for x in maps), tuple(round(height / x.shape[2]) for x in maps)), parameters


def _probe_neck(neck: ConfigDict, maps: _Maps, values: bool = True) -> tuple[_Maps | None, list[int]]:
    """What a neck or head makes of maps, None if it does not run on made-up ones; and the positions of those it reads.

    Without `values`, only as far as that can be told without computing anything.
    """

    def run(module: nn.Module, device: str) -> Any:
        shapes = [(c, *[_PROBE_SIZE // s] * 2) for c, s in zip(maps.channels, maps.strides, strict=True)]
        with torch.enable_grad():
            inputs = [torch.zeros(1, *shape, device=device, requires_grad=True) for shape in shapes]
            outputs = module(tuple(inputs))
            gradients = torch.autograd.grad(sum(x.sum() for x in outputs), inputs, allow_unused=True)
        return outputs, [k for k, gradient in enumerate(gradients) if gradient is not None]

    try:
        outputs, read = _build_and_run(neck, run, values)
    except Exception:
        return None, list(range(len(maps.strides)))
    if isinstance(outputs, Tensor) or not all(x.ndim == 4 for x in outputs):
        return None, read
    return _Maps(tuple(x.shape[1] for x in outputs), tuple(round(_PROBE_SIZE / x.shape[2]) for x in outputs)), read


def _build_and_run(cfg: ConfigDict, run: Callable[[nn.Module, str], Any], values: bool = True) -> Any:
    """Runs a module, without values in its tensors where that is possible."""
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


# Which of ATMNet's maps stand in for them


def _find_read(swap: Swap, path: Keys, place: ConfigDict, maps: _Maps) -> list[int]:
    """Positions of the maps that are to be returned: a norm of ATMNet's that nobody reads stops distributed training.

    A pyramid's `start_level` becomes 0 where the levels before are not returned any more.
    """
    everything = list(range(len(maps.strides)))
    necks = place.get('neck')
    if necks:
        neck = necks[0] if isinstance(necks, (list, tuple)) else necks
        read = _probe_neck(neck, maps)[1]
        start = neck.get('start_level')
        if start and read == everything[start:]:
            neck_path = (*path, 'neck', 0) if isinstance(necks, (list, tuple)) else (*path, 'neck')
            swap.set((*neck_path, 'start_level'), 0, 'levels before it are not returned')
            return read
        if isinstance(neck.get('in_channels'), int) and read == everything[-1:]:
            return read
        if read != everything:
            why = 'the neck does not read all maps, whose norms get no gradients'
            swap.set(('find_unused_parameters',), True, why)
        return everything
    if not _segments(place):
        return everything
    told = _read_by_heads(place, len(everything), 'decode_head', 'auxiliary_head')
    # EncNet's head names maps that it reads only with other options.
    found = {k for _, head in _heads(place) for k in _probe_neck(head, maps, values=False)[1]}
    if told - found:
        why = 'a head does not read all of its maps, whose norms get no gradients'
        swap.set(('find_unused_parameters',), True, why)
    return sorted(told) or everything


def _segments(place: Mapping) -> bool:
    """Whether a segmentor's heads read the backbone. They resize maps, and take the last one for the deepest."""
    return not place.get('neck') and any(path[0] == 'decode_head' for path, _ in _heads(place))


def _choose_stages(
    strides: Sequence[int], read: Sequence[int], place: Mapping
) -> tuple[tuple[int, ...], int, list[int | None]]:
    """Finds ATMNet's stages for maps of other strides.

    Args:
        strides: Of the old maps.
        read: Positions of those that are read.
        place: The model around the backbone.

    Returns:
        The stages, the output stride, and for each old map the position of the new one, None if nobody reads it.

    Raises:
        InputError: No maps of ATMNet fit.
    """
    wanted = [strides[k] for k in read]
    dilated = any(dilation != 1 for dilation in place['backbone'].get('dilations') or ())
    options = []
    for output_stride in (32, 16, 8):
        for stages in combinations(range(NUM_STAGES), min(len(wanted), NUM_STAGES)):
            own = [min(_STRIDES[i], output_stride) for i in stages]
            distance = sum(abs(log2(a / b)) for a, b in zip(own, wanted, strict=False))
            if stages[-1] == NUM_STAGES - 1 or not (_segments(place) or dilated):
                options.append((distance, -output_stride, [-i for i in stages], stages))
    distance, output_stride, _, stages = min(options)
    in_order = list(wanted) == sorted(wanted) and len(wanted) <= NUM_STAGES
    if _segments(place):
        if not in_order or read[-1] not in _read_by_heads(place, len(strides), 'decode_head'):
            return _choose_stages_by_head(strides, place)
    elif not in_order or distance:
        raise InputError(
            f'{place["backbone"]["type"]} gives maps at strides {", ".join(map(str, wanted))}, for which what reads '
            'them is built; those of ATMNet are at 4, 8, 16, 32'
        )
    return stages, -output_stride, [read.index(k) if k in read else None for k in range(len(strides))]


def _choose_stages_by_head(strides: Sequence[int], place: Mapping) -> tuple[tuple[int, ...], int, list[int | None]]:
    """For maps in any order: decode heads read the last stage, auxiliary ones the stage of their map's stride."""
    decoded = _read_by_heads(place, len(strides), 'decode_head')
    of_stride = {stride: i for i, stride in enumerate(_STRIDES)}
    chosen = dict.fromkeys(decoded, NUM_STAGES - 1)
    for k in _read_by_heads(place, len(strides), 'auxiliary_head') - decoded:
        chosen[k] = of_stride.get(strides[k], NUM_STAGES - 2)
    stages = tuple(sorted(set(chosen.values())))
    sources = [stages.index(chosen[k]) if k in chosen else None for k in range(len(strides))]
    return stages, max(8, min([32, *(strides[k] for k in decoded)])), sources


def _read_by_heads(place: Mapping, count: int, *kinds: str) -> set[int]:
    """Positions of the maps that a segmentor's heads of some kinds read, with all of their parts."""
    heads = [head for path, head in _heads(place) if path[0] in kinds]
    return {k for head in heads for _, node in dicts(head, ()) for k in _read_by(node, count)}


def _read_by(node: Mapping, count: int) -> list[int]:
    """Positions of the maps that a head, or a part of one with maps of its own, says that it reads."""
    channels, index = node.get('in_channels'), node.get('in_index')
    if channels is None:
        return []
    if index is None:
        index = -1 if isinstance(channels, int) else range(count)
    read = [i % count for i in ([index] if isinstance(index, int) else index)]
    return [*read, 0] if node.get('c1_channels') else read  # DeepLabV3+ reads the first map too


def _drop_pyramid_maker(swap: Swap, path: Keys, place: ConfigDict, maps: _Maps) -> _Maps:
    """Takes away a neck that makes a pyramid of a plain transformer's maps. Returns what the heads read."""
    neck = place.get('neck')
    if isinstance(neck, dict) and len(maps.strides) == NUM_STAGES and len(set(maps.strides)) == 1:
        pyramid, _ = _probe_neck(neck, maps)
        if pyramid and pyramid.strides == _STRIDES:
            swap.set((*path, 'neck'), None, f'{neck["type"]} made a pyramid of equal maps; ATMNet gives one itself')
            return pyramid
    return maps


# What reads them


def _heads(place: Mapping) -> Iterator[tuple[Keys, ConfigDict]]:
    """The heads beside a backbone, with their paths from there."""
    for key, value in place.items():
        if key not in _NO_READERS and not key.startswith('teacher_'):
            if isinstance(value, dict) and 'backbone' not in value:
                yield (key,), value
            elif isinstance(value, (list, tuple)):
                yield from (((key, i), entry) for i, entry in enumerate(value) if isinstance(entry, dict))


def _refuse_readers(place: Mapping) -> None:
    """Refuses models whose other parts hold a piece of the old backbone.

    Raises:
        InputError: It is such a model.
    """
    if 'rfp_backbone' in (place.get('neck') or {}):
        raise InputError("the neck feeds its maps back into a second backbone of DetectoRS' own kind")
    if (place.get('roi_head') or {}).get('shared_head'):
        raise InputError(
            f'the RoI head ends in the last stage of {place["backbone"]["type"]} (shared_head), built for its '
            'channels, and no part of ATMNet can stand there. Use the FPN or the dilated (dc5) variant of the model'
        )


def _fit_readers(
    swap: Swap, path: Keys, place: ConfigDict, before: _Maps, after: _Maps, sources: Sequence[int | None]
) -> None:
    """Sets necks and then heads to the new maps, as far as what reaches them differs from before.

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
        old, _ = _probe_neck(neck, before)
        neck_path = (*path, 'neck', i) if listed else (*path, 'neck')
        _require_reader(_fit_reader(swap, neck_path, neck, before, after, sources, top=True), neck_path, before, after)
        new, _ = _probe_neck(neck, after)
        if old is None or new is None:  # most necks give the same channels, whatever they read
            return
        before, after, sources = old, new, range(len(old.channels))
    if before == after:
        return
    found = []
    for head_path, head in _heads(place):
        found.append(_fit_reader(swap, (*path, *head_path), head, before, after, sources, top=True))
        if _segments(place):
            _require_reader(found[-1], (*path, *head_path), before, after)
    _require_reader(any(found), path, before, after)


def _require_reader(found: bool, path: Keys, before: _Maps, after: _Maps) -> None:
    if before.channels != after.channels and not found:
        raise InputError(f'nothing in {dotted(path)} says that it reads maps of {list(before.channels)} channels')


def _fit_reader(
    swap: Swap, path: Keys, node: Any, before: _Maps, after: _Maps, sources: Sequence[int | None], top: bool = False
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
    why = 'reads the new maps'
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
        swap.set((*path, 'channels'), _sum(now), 'as many as are read: there is no convolution between')
    if node.get('c1_channels') and node.get('c1_in_channels') == before.channels[0]:
        swap.set((*path, 'c1_in_channels'), after.channels[sources[0]], why)
    if isinstance(given, (list, tuple)) and list(given[:count]) == list(before.channels):
        swap.set((*path, 'out_channels'), type(given)([*after.channels, *given[count:]]), 'hands the maps on')
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


# What else belonged to the old backbone


def _forget_weights(swap: Swap, paths: Sequence[Keys]) -> None:
    """Takes away weights of whole models, which hold a backbone that is not there any more."""
    why = 'weights of a model with the backbone before'
    model = swap.cfg.model
    for found in list(pretrained_weights(model, ('model',))):
        holder = found.keys[: found.keys.index(found.entry)]
        if not found.of_teacher and any(path[: len(holder)] == holder for path in paths):
            swap.set((*holder, found.entry), without_pretrained(found.node).get(found.entry), why)
    if swap.cfg.get('load_from'):
        swap.set(('load_from',), None, why)
    for path, _ in dicts(model, ('model',)):
        if path[-1] in ('reid', 'teacher_backbone'):
            swap.notes.append(f'{dotted(path)} is as it was: it has trained weights of its own')
    for found in pretrained_weights(model, ('model',)):
        if not backbone_class(found.node.get('type')) and not {'reid', 'teacher_backbone'} & set(found.keys):
            holder = found.keys[: found.keys.index(found.entry)]
            swap.notes.append(f'{dotted(holder)} still starts from {found.file or "weights of its own class"}')


def _normalise(swap: Swap) -> None:
    """Normalises images as ATMNet's weights expect."""
    why = "RGB by ImageNet's mean and standard deviation, as ATMNet's weights expect"
    cfg = swap.cfg._cfg_dict
    keys = ['model'] if 'data_preprocessor' in cfg['model'] else ['data_preprocessor', 'model']
    nodes = [found for key in keys if key in cfg for found in dicts(cfg[key], (key,))]
    preprocessors = [
        (path, node)
        for path, node in nodes
        if path[-1] == 'data_preprocessor'
        and 'reid' not in path
        and not isinstance(node.get('data_preprocessor'), dict)
    ]
    changes = len(swap.changes)
    for path, node in preprocessors:
        was_rgb = node.get('bgr_to_rgb') or node.get('to_rgb')
        for key, value in _IMAGENET.items():
            swap.set((*path, key), value, why)
        if node.get('rgb_to_bgr'):
            swap.set((*path, 'rgb_to_bgr'), False, why)
        is_mmpretrains = node.get('type', 'ClsDataPreprocessor').endswith(
            ('ClsDataPreprocessor', 'ReIDDataPreprocessor')
        )
        swap.set((*path, 'to_rgb' if is_mmpretrains or 'to_rgb' in node else 'bgr_to_rgb'), True, why)
        for tracker_path, tracker in [] if was_rgb else nodes:
            if tracker_path[-1] == 'img_norm_cfg' and 'reid' in tracker_path and tracker.get('to_rgb'):
                swap.set((*tracker_path, 'to_rgb'), False, 'the images that it takes are in RGB already')
    if not preprocessors:
        swap.notes.append(f'no data_preprocessor is in the config: see to it that images are {why}')
    kept = [dotted(path) for path, _ in nodes if path[-1] == 'teacher_backbone']
    if kept and len(swap.changes) > changes:
        swap.notes.append(f'{" and ".join(kept)} sees images that are normalised for ATMNet')


def _fit_optimizer(swap: Swap, parameters: set[str]) -> None:
    """Takes away what an optimizer has for single parts of the old backbone, whose parameters are given."""
    wrapper = swap.cfg.get('optim_wrapper') or {}
    settings = wrapper.get('paramwise_cfg') or {}
    if _LAYER_DECAY & set(settings):
        why = "learning rates by the old backbone's layers; norms and biases stay exempt from decay"
        kept = {key: value for key, value in settings.items() if key not in _LAYER_DECAY}
        swap.set(('optim_wrapper', 'constructor'), _DEFAULT_CONSTRUCTOR, why)
        settings = {'norm_decay_mult': 0.0, 'bias_decay_mult': 0.0, **kept}
        swap.set(('optim_wrapper', 'paramwise_cfg'), settings, why)
    elif not wrapper.get('optimizer') or wrapper.get('constructor', _DEFAULT_CONSTRUCTOR) != _DEFAULT_CONSTRUCTOR:
        swap.notes.append('optim_wrapper is as it was; see whether it has settings for the old backbone')
    keys = settings.get('custom_keys') or {}
    # Of one place in a model that has several, such as student.backbone.layer1, too.
    parts = [key for key in keys if key.partition('backbone.')[2]]
    if any(key not in parts and _names(key, parameters) for key in keys):
        now = _parameters(swap.cfg.model)
        parts += [key for key in keys if key not in parts and _names(key, parameters) and not _names(key, now)]
    if parts:
        kept = {key: value for key, value in keys.items() if key not in parts}
        why = f'no keys for parts of the old backbone: {_some(parts)}'
        swap.set(('optim_wrapper', 'paramwise_cfg', 'custom_keys'), kept, why)
    optimizer = (wrapper.get('optimizer') or {}).get('type')
    if optimizer and optimizer != 'AdamW':
        swap.notes.append(
            f'optimizer {optimizer} and its learning rate are as they were; ATMNet is trained with AdamW, '
            'see docs/swapping.md'
        )


def _parameters(model: ConfigDict) -> set[str]:
    """The names of a model's parameters; of its ATMNets only, if it cannot be built."""
    try:
        return _build_and_run(model, lambda module, _: {name for name, _ in module.named_parameters()})
    except Exception:
        with torch.device('meta'):
            return {f'backbone.{name}' for name, _ in ATMNet('t').named_parameters()}


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def _names(key: str, parameters: Sequence[str] | set[str]) -> bool:
    return any(key in name for name in parameters)
