"""Which stages of the new backbone stand in for the old one's feature maps."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import log2

from mmengine.config import ConfigDict

from mmatm.config import Keys, dotted
from mmatm.errors import InputError
from mmatm.swap.account import Swap
from mmatm.swap.feature_maps import FeatureMaps, probe_neck
from mmatm.swap.readers import heads, read_by_heads, segments


def find_read(swap: Swap, path: Keys, place: ConfigDict, maps: FeatureMaps) -> list[int]:
    """Positions of the feature maps that the new backbone has to return.

    Each has a norm of its own, whose parameters stop distributed training if nobody reads it. A pyramid's `start_level`
    becomes 0 where the levels before are not returned any more.
    """
    everything = list(range(len(maps.strides)))
    necks = place.get('neck')
    if necks:
        neck = necks[0] if isinstance(necks, (list, tuple)) else necks
        read = probe_neck(neck, maps)[1]
        start = neck.get('start_level')
        if start and read == everything[start:]:
            neck_path = (*path, 'neck', 0) if isinstance(necks, (list, tuple)) else (*path, 'neck')
            why = f'{swap.name} returns only the feature maps that the neck reads, so it begins with the first'
            swap.set((*neck_path, 'start_level'), 0, why)
            return read
        if isinstance(neck.get('in_channels'), int) and read == everything[-1:]:
            return read
        if read != everything:
            why = 'the neck does not read every feature map; the norms of the others get no gradients'
            swap.set(('find_unused_parameters',), True, why)
        return everything
    if not segments(place):
        return everything
    told = read_by_heads(place, len(everything), 'decode_head', 'auxiliary_head')
    # EncNet's head names maps that it reads only with other options.
    found = {k for _, head in heads(place) for k in probe_neck(head, maps, values=False)[1]}
    if told - found:
        why = 'a head does not read every feature map that it gets; the norms of the others get no gradients'
        swap.set(('find_unused_parameters',), True, why)
    return sorted(told) or everything


def choose_stages(
    swap: Swap, place: Mapping, strides: Sequence[int], read: Sequence[int], own: Sequence[int]
) -> tuple[tuple[int, ...], int, list[int | None]]:
    """Finds the stages of the new backbone for feature maps of other strides.

    Args:
        swap: Has the new backbone's class.
        place: The model around the backbone.
        strides: Of the old feature maps.
        read: Positions of those that are read.
        own: Strides of the new backbone's stages when none is dilated.

    Returns:
        The stages, the output stride, and for each old map the position of the new one, None if nobody reads it.

    Raises:
        InputError: No stages of the new backbone fit.
    """
    wanted = [strides[k] for k in read]
    dilated = any(dilation != 1 for dilation in place['backbone'].get('dilations') or ())
    options = []
    # As if every output stride could be had: a backbone without dilation gets the same stages, which are coarser.
    for output_stride in own[1:]:
        for stages in combinations(range(len(own)), min(len(wanted), len(own))):
            given = [min(own[i], output_stride) for i in stages]
            distance = sum(abs(log2(a / b)) for a, b in zip(given, wanted, strict=False))
            if stages[-1] == len(own) - 1 or not (segments(place) or dilated):
                options.append((distance, -output_stride, [-i for i in stages], stages))
    _, output_stride, _, stages = min(options)
    output_stride = _nearest(-output_stride, swap.backbone.OUTPUT_STRIDES)
    in_order = list(wanted) == sorted(wanted) and len(wanted) <= len(own)
    if segments(place):
        if not in_order or read[-1] not in read_by_heads(place, len(strides), 'decode_head'):
            return _choose_by_head(swap, place, strides, own)
    elif not in_order or wanted != [min(own[i], output_stride) for i in stages]:
        raise InputError(
            f'{place["backbone"]["type"]} returns feature maps at strides {_listed(wanted)}, and what reads them is '
            f'built for these. {swap.name} has stages at strides {_listed(own)}, and can have its last stage at stride '
            f'{_listed(swap.backbone.OUTPUT_STRIDES)}'
        )
    return stages, output_stride, [read.index(k) if k in read else None for k in range(len(strides))]


def _choose_by_head(
    swap: Swap, place: Mapping, strides: Sequence[int], own: Sequence[int]
) -> tuple[tuple[int, ...], int, list[int | None]]:
    """For maps in any order: decode heads read the last stage, auxiliary ones the stage of their map's stride."""
    decoded = read_by_heads(place, len(strides), 'decode_head')
    of_stride = {stride: i for i, stride in enumerate(own)}
    chosen = dict.fromkeys(decoded, len(own) - 1)
    for k in read_by_heads(place, len(strides), 'auxiliary_head') - decoded:
        chosen[k] = of_stride.get(strides[k], len(own) - 2)
    stages = tuple(sorted(set(chosen.values())))
    sources = [stages.index(chosen[k]) if k in chosen else None for k in range(len(strides))]
    densest = max(own[1], min([own[-1], *(strides[k] for k in decoded)]))
    return stages, _nearest(densest, swap.backbone.OUTPUT_STRIDES), sources


def _nearest(wanted: int, strides: Sequence[int]) -> int:
    """The stride that is nearest to another one, the denser of two."""
    return min(strides, key=lambda stride: (abs(log2(stride / wanted)), stride))


def _listed(strides: Sequence[int]) -> str:
    return ', '.join(map(str, strides))


def note_other_strides(
    swap: Swap, path: Keys, before: FeatureMaps, after: FeatureMaps, sources: Sequence[int | None]
) -> None:
    """Tells of feature maps that stand in for maps of another stride."""
    others = {
        (stride, after.strides[source]): None
        for stride, source in zip(before.strides, sources, strict=True)
        if source is not None and after.strides[source] != stride
    }
    for old, new in others:
        can = _listed(swap.backbone.OUTPUT_STRIDES)
        coarser = f', which is coarser: {swap.name} can have its last stage at stride {can}'
        swap.notes.append(
            f'{dotted(path)}: what read a feature map at stride {old} now reads one at stride {new}'
            + (coarser if new > old else '')
        )


def drop_pyramid_maker(swap: Swap, path: Keys, place: ConfigDict, maps: FeatureMaps, own: Sequence[int]) -> FeatureMaps:
    """Takes away a neck that makes a pyramid of a plain transformer's feature maps. Returns what the heads read."""
    neck = place.get('neck')
    if isinstance(neck, dict) and len(maps.strides) == len(own) and len(set(maps.strides)) == 1:
        pyramid, _ = probe_neck(neck, maps)
        if pyramid and pyramid.strides == tuple(own):
            why = f'{neck["type"]} made a pyramid from feature maps of one size; {swap.name} returns a pyramid itself'
            swap.set((*path, 'neck'), None, why)
            return pyramid
    return maps
