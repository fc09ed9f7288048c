"""ATMNet, the backbone of "Active Token Mixer" (AAAI 2023), for the OpenMMLab toolboxes."""

from importlib import metadata

from .version import __version__

__all__ = ['__version__']

_MINIMUM_VERSIONS = {'torch': (2, 6), 'mmengine': (0, 10)}


def _check_minimum_versions() -> None:
    """Refuses packages that are too old.

    Raises:
        RuntimeError: A package is older than the minimum. It is not an ImportError because MMEngine's registries
            swallow those and then only say that `mmatm.ATMNet` is not registered.
    """
    for package, minimum in _MINIMUM_VERSIONS.items():
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:  # installed under another name, a fork's for instance
            continue
        if tuple(int(part) for part in found.split('.')[:2]) < minimum:
            needed = '.'.join(map(str, minimum))
            raise RuntimeError(f'mmatm needs {package} {needed} or newer, {found} is installed')


_check_minimum_versions()
