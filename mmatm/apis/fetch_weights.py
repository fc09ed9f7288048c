"""Fetches the checkpoints that the backbones' authors publish, by the config that they are for."""

import difflib
from collections.abc import Iterator
from pathlib import Path

from mmatm.apis.inference import load_model
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.models import published_links, published_weights
from mmatm.utils.download import download

# Where the configs look for them.
FOLDER = Path('checkpoints')


def list_weights() -> Iterator[str]:
    """A line for each published file: the config, where the file is, where it goes, and whether it is there."""
    links = published_links()
    width = max(map(len, links))
    for name, address in links.items():
        path = FOLDER / f'{name}.pth'
        yield f'{name:{width}}  {address}  {path}  {"is there" if path.is_file() else "not there"}'


def fetch_weights(name: str, configs: Path) -> str:
    """Fetches the weights of a config into `checkpoints/NAME.pth`, if they are not there.

    The file has this name only after it was read, without trust, and has filled the whole model of the config.

    Args:
        name: The config, without folder and suffix.
        configs: The folder with the configs.

    Returns:
        A sentence on what was done.

    Raises:
        InputError: No such config or no published weights; as `mmatm.utils.download.download`; a file that was there
            already does not fill the model.
    """
    config = configs / f'{name}.py'
    links = published_links()
    if name not in links:
        if config.is_file():
            raise InputError(f'no weights of {name}: {published_weights(name).lower()}; --list shows what there is')
        near = difflib.get_close_matches(name, links, n=1)
        raise InputError(
            f'there is no config {name}' + (f'; did you mean {near[0]}?' if near else '; --list shows what there is')
        )
    path = FOLDER / f'{name}.pth'

    def check(file: Path) -> None:
        load_model(load_config(str(config)), str(file))

    if path.is_file():
        try:
            check(path)
        except InputError as error:
            raise InputError(
                f'{path} exists, but does not hold the weights of {name}; move it away and try again: {error}'
            ) from None
        return f'{path} exists already and fits {config.name}'
    download(links[name], path, check)
    return f'{path} was fetched and fits {config.name}'
