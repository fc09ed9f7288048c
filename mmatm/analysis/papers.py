"""Reads the tables of the papers, and finds and counts the configs of their rows."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from mmatm.analysis.flops import count
from mmatm.checkpoint import latest_checkpoint
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.models import backbone_class, published_weights

_PAPER = {'backbone', 'collection', 'configs', 'sizes'}
_TABLE = {'title', 'name', 'shape', 'config', 'task', 'dataset', 'metrics', 'rows'}
_ROW = {'size', 'variant', 'params', 'flops', 'config', 'note', 'source'}


def read_tables(folder: Path) -> list[dict[str, Any]]:
    """Reads the tables of all backbones.

    Args:
        folder: With `datasets.yml` and, for each backbone, a file in `papers/` as docs/configs.md describes.

    Returns:
        The tables in the files' order, with a row for every size of the backbone, also for those without published
        figures. Each has the entries of its file and: `paper`, the file's entries for all of its tables; `source`,
        whose figures these are; and the entries of its dataset in datasets.yml, with the table's metrics only. Rows of
        the backbone have the key `config`, the name of this project's config.

    Raises:
        InputError: A file has missing, unknown or wrong entries.
    """
    datasets = _read(folder / 'datasets.yml')
    tables = []
    # First the one that the project began with.
    for path in sorted((folder / 'papers').glob('*.yml'), key=lambda path: (path.stem != 'atmnet', path.stem)):
        paper = _read(path)
        entries = paper.pop('tables', [])
        _check_keys(paper, _PAPER, (), path)
        _check_sizes(paper, path)
        tables += [_table(table, paper, datasets, f'{path}, {table.get("name")}') for table in entries]
    return tables


def read_streets(folder: Path) -> dict[str, Any]:
    """Reads the comparison on street scenes: `title`, `note`, `configs`, and what datasets.yml says of its data."""
    streets = _read(folder / 'streets.yml')
    return {**_read(folder / 'datasets.yml')[streets['dataset']], **streets}


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def _table(table: dict[str, Any], paper: dict[str, Any], datasets: dict[str, Any], where: str) -> dict[str, Any]:
    _check_keys(table, _TABLE, ('note', 'source', 'trained', 'checkpoint'), where)
    if table['dataset'] not in datasets:
        raise InputError(f'{where}: datasets.yml has no {table["dataset"]}; it has {", ".join(datasets)}')
    dataset = datasets[table['dataset']]
    _check_keys(dict.fromkeys(table['metrics']), (), dataset.get('metrics', ()), f'{where}, metrics')
    for row in table['rows']:
        _check_keys(row, {'model'}, _ROW | set(table['metrics']), f'{where}, {row.get("model")}')
    rows = {row['model']: row for row in table['rows'] if not {'size', 'variant'} & set(row)}
    own = [rows.get(model, {'model': model}) for model in paper['sizes']]
    others = [row for row in table['rows'] if row not in own]
    for row in [*own, *others]:
        if row['model'] in paper['sizes']:
            words = [paper['sizes'][row['model']], *(str(row[key]) for key in ('variant', 'size') if key in row)]
            row['config'] = table['config'].format(size='_'.join(words))
    metrics = {key: dataset['metrics'][key] for key in table['metrics']}
    return {**dataset, 'source': 'paper', **table, 'metrics': metrics, 'rows': own + others, 'paper': paper}


def _check_keys(entry: Mapping[str, Any], needed: Collection[str], optional: Collection[str], where: object) -> None:
    missing, unknown = sorted(set(needed) - set(entry)), sorted(set(entry) - {*needed, *optional})
    if missing or unknown:
        raise InputError(f'{where}: missing: {missing}, unknown: {unknown}')


def _check_sizes(paper: dict[str, Any], path: Path) -> None:
    found = backbone_class(paper['backbone'])
    if found is None:
        raise InputError(f'{path}: there is no backbone {paper["backbone"]}')
    if list(paper['sizes'].values()) != list(found.SIZES):
        raise InputError(f'{path}: the sizes of {paper["backbone"]} are {", ".join(found.SIZES)}, in that order')


def by_paper(tables: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each backbone's file and its tables."""
    return [(paper, list(group)) for paper, group in groupby(tables, key=lambda table: table['paper'])]


def configs(tables: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """(table, row, file or toolbox's name) of each row with a config."""
    for table in tables:
        for row in table['rows']:
            if name := row.get('config'):
                yield table, row, name if '::' in name else f'{table["paper"]["configs"]}/{name}.py'


def is_own(table: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a row is of the backbone that the table is about."""
    return row['model'] in table['paper']['sizes']


def own_rows(tables: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """As `configs`, for the rows of this project's backbones only."""
    return (entry for entry in configs(tables) if is_own(*entry[:2]))


def shape_of(table: dict[str, Any], row: dict[str, Any]) -> tuple[int, int]:
    """(H, W) of the image at which a row is counted."""
    return (row['size'], row['size']) if 'size' in row else tuple(table['shape'])


def count_all(
    tables: Iterable[dict[str, Any]], recorded: Mapping[str, dict[str, int]] | None = None
) -> dict[str, dict[str, int]]:
    """Counts parameters and FLOPs of every row with a config.

    Args:
        tables: As `read_tables` gives them.
        recorded: Counts to take for the configs that they are of, in place of counting those.

    Returns:
        `params` and `flops` by the config's name.
    """
    counts = {}
    for table, row, path in configs(tables):
        name = row['config']
        if name in (recorded or {}):
            counts[name] = recorded[name]
        else:
            total = count(load_config(path), shape_of(table, row))['total']
            counts[name] = dict(params=total.params, flops=total.flops)
    return counts


def find_checkpoint(config: str, checkpoints: Path, work_dirs: Path) -> str | None:
    """The weights to test a config with: checkpoints/NAME.pth, or the newest of its work_dir."""
    path = checkpoints / f'{config}.pth'
    return str(path) if path.is_file() else latest_checkpoint(str(work_dirs / config))


def missing(tables: Iterable[dict[str, Any]], checkpoints: Path, work_dirs: Path) -> list[str]:
    """What has to be fetched or trained before every row can be measured."""
    lines = {}
    for table, row, path in own_rows(tables):
        root = Path(load_config(path).test_dataloader.dataset.data_root)
        if not root.is_dir():
            lines[f'data {root}: {table["fetch"]}'] = None
        if find_checkpoint(row['config'], checkpoints, work_dirs) is None:
            where = f'{published_weights(row["config"])}. To train them: tools/train.py {path}'
            lines[f'weights {checkpoints / row["config"]}.pth: {where}'] = None
    return list(lines)
