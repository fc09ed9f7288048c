"""Which packages mmatm works with: versions, and the two families of toolboxes under the same import names."""

from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec

_MINIMUM_VERSIONS = {'torch': (2, 6), 'mmengine': (0, 10), 'onedl-mmengine': (0, 10)}
UPSTREAM = ('mmengine', 'mmcv', 'mmcv-lite', 'mmcv-full', 'mmdet', 'mmsegmentation', 'mmpretrain')
FORKS = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation', 'onedl-mmpretrain')


def check_stack() -> None:
    """Refuses an environment without MMEngine, with packages that are too old, or with toolboxes of both families.

    Raises:
        RuntimeError: It is not an ImportError because MMEngine's registries swallow those and then only say that
            `mmatm.ATMNet` is not registered.
    """
    if find_spec('mmengine') is None:
        raise RuntimeError(
            'mmatm needs MMEngine, of which there are two: pip install mmengine, or onedl-mmengine beside the forks of '
            'the toolboxes'
        )
    upstream, forks = installed(UPSTREAM), installed(FORKS)
    if upstream and forks:
        raise RuntimeError(
            f"this environment has upstream's {', '.join(upstream)} and the forks {', '.join(forks)}, which have the "
            'same import names and overwrite each other. Make a new environment with one of them (tools/setup.sh, or '
            f'STACK=onedl tools/setup.sh), or pip uninstall {" ".join([*upstream, *forks])} and install one anew'
        )
    for package, found in installed(_MINIMUM_VERSIONS).items():
        minimum = _MINIMUM_VERSIONS[package]
        if tuple(int(part) for part in found.split('.')[:2]) < minimum:
            needed = '.'.join(map(str, minimum))
            raise RuntimeError(f'mmatm needs {package} {needed} or newer, {found} is installed')


def find_forks_configs() -> None:
    """Makes MMEngine find configs like `mmseg::...` of the forks, for which it has upstream's package name only."""
    from mmengine.config.utils import MODULE2PACKAGE

    for module, package in MODULE2PACKAGE.items():
        # It takes a module's name too.
        if module != package and not installed([package]) and find_spec(module) is not None:
            MODULE2PACKAGE[module] = module


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
