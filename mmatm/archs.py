"""The named sizes of ATMNet, and what a custom one has to be like."""

from collections.abc import Mapping, Sequence

from mmatm.errors import InputError

NUM_STAGES = 4


def _size(names: Sequence[str], depths: list[int], channels: list[int], mlp_ratios: list[int], interval: int) -> dict:
    arch = dict(
        depths=depths,
        channels=channels,
        mlp_ratios=mlp_ratios,
        channels_per_offset=[2, 4, 4, 8],
        offset_interval=interval,
    )
    return dict.fromkeys(names, arch)


# fmt: off
ARCHS = {
    **_size(('xt', 'xtiny'), [2, 2, 4, 2],  [64, 128, 320, 512], [4, 4, 4, 4], 2),
    **_size(('t', 'tiny'),   [2, 3, 10, 3], [64, 128, 320, 512], [4, 4, 4, 4], 2),
    **_size(('s', 'small'),  [3, 4, 18, 3], [64, 128, 320, 512], [8, 8, 4, 4], 6),
    **_size(('b', 'base'),   [3, 8, 27, 3], [64, 128, 320, 512], [8, 8, 4, 4], 6),
    **_size(('l', 'large'),  [3, 4, 24, 3], [96, 192, 384, 768], [4, 4, 4, 4], 6),
}
# fmt: on


def short_name(arch: object) -> str | None:
    """The short name of a named size, as in config names; None for a custom one."""
    named = isinstance(arch, str) and arch in ARCHS
    return next(name for name in ARCHS if ARCHS[name] is ARCHS[arch]) if named else None


def resolve_arch(arch: str | Mapping) -> dict:
    """A size's name or a custom dict -> checked dict of `ARCHS`' form.

    Raises:
        InputError: Unknown name; missing, extra or impossible entries.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise InputError(f"no ATMNet of size '{arch}'; there are {', '.join(ARCHS)}, or give a dict")
        return ARCHS[arch]
    if not isinstance(arch, Mapping):
        raise InputError(f'arch is one of {", ".join(ARCHS)}, or a dict, not {arch!r}')
    keys = set(ARCHS['tiny'])
    missing, extra = sorted(keys - set(arch)), sorted(set(arch) - keys)
    if missing or extra:
        raise InputError(f'a custom arch has exactly the keys {sorted(keys)}; missing: {missing}, unknown: {extra}')
    for key, value in arch.items():
        numbers = [value] * NUM_STAGES if key == 'offset_interval' else value
        whole = isinstance(numbers, Sequence) and all(isinstance(n, int) and n > 0 for n in numbers)
        if not whole or len(numbers) != NUM_STAGES:
            wanted = 'a whole number above 0' if key == 'offset_interval' else f'{NUM_STAGES} whole numbers above 0'
            raise InputError(f"arch['{key}'] must be {wanted}, not {value}")
    for i, (depth, channels, share) in enumerate(
        zip(arch['depths'], arch['channels'], arch['channels_per_offset'], strict=True)
    ):
        if depth < 2:
            raise InputError(
                f'stage {i} has depth {depth}; at least 2 are needed, as the last block predicts no offsets'
            )
        if channels % share or channels < 4:
            raise InputError(
                f'stage {i} has {channels} channels, of which {share} are to share an offset: channels must be a '
                f'multiple of that number, and 4 or more'
            )
    return {key: value if key == 'offset_interval' else list(value) for key, value in arch.items()}
