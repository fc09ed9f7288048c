"""The paper's tables beside what this project counts and measures."""

import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from mmatm.analysis.flops import count
from mmatm.checkpoint import latest_checkpoint
from mmatm.config import load_config
from mmatm.models import published_weights

SIZES = {'ATMNet-xT': 'xt', 'ATMNet-T': 't', 'ATMNet-S': 's', 'ATMNet-B': 'b', 'ATMNet-L': 'l'}
STREETS = ('upernet_atmnet_xt_streets', 'upernet_swin_t_streets', 'upernet_r50_streets', 'upernet_convnext_t_streets')
# Of CamVid's 101 validation images and their label maps.
STREETS_SHA256 = '098dfca4fd907f24b097de46d06ea140347e34c5ea92fe26e60164015651b429'
# Of the many metrics of a test, those to show.
_SHOWN = {
    'coco/bbox_mAP': 'AP box',
    'coco/bbox_mAP_50': 'AP50 box',
    'coco/segm_mAP': 'AP mask',
    'mIoU': 'mIoU',
    'accuracy/top1': 'top-1',
}
NOT_MEASURED = 'not measured'
HEAD = """# Results

Written by `python tools/reproduce_tables.py`; what was counted and measured is in [results.json](results.json).
"the paper's" are figures of the paper's authors ([paper_tables.yml](paper_tables.yml)). "counted" is by
`tools/get_flops.py`, with the difference where it is not the published figure: parameters as rounded, FLOPs to 0.5 %.
"measured here" is by `tools/test.py` on the benchmark's own validation data, told by its content, without options, with
weights of the end of the config's schedule, trained with its settings, or published ones.

"""
FLOPS_TOLERANCE = 0.005


def read_tables(path: Path) -> list[dict[str, Any]]:
    """The paper's tables, each with a row for every size of ATMNet, also for those without a published figure.

    Rows of ATMNet get the key `config`, the name of this project's config.
    """
    tables = yaml.safe_load(path.read_text())
    for table in tables:
        rows = {row['model']: row for row in table['rows'] if 'size' not in row}
        own = [rows.get(model, {'model': model}) for model in SIZES]
        others = [row for row in table['rows'] if row not in own]
        table['rows'] = own + others
        for row in table['rows']:
            if row['model'] in SIZES:
                size = SIZES[row['model']] + (f'_{row["size"]}' if 'size' in row else '')
                row['config'] = table['config'].format(size=size)
    return tables


def configs(tables: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """(table, row, file or toolbox's name) of each row with a config."""
    for table in tables:
        for row in table['rows']:
            if name := row.get('config'):
                yield table, row, name if '::' in name else f'configs/{name}.py'


def own_rows(tables: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """The same for the rows of ATMNet only."""
    return (entry for entry in configs(tables) if entry[1]['model'] in SIZES)


def shape_of(table: dict[str, Any], row: dict[str, Any]) -> tuple[int, int]:
    """(H, W) of the image at which a row is counted."""
    return (row['size'], row['size']) if 'size' in row else tuple(table['shape'])


def count_all(tables: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Parameters and FLOPs of every row with a config, by the config's name."""
    counts = {}
    for table, row, path in configs(tables):
        total = count(load_config(path), shape_of(table, row))['total']
        counts[row['config']] = dict(params=total.params, flops=total.flops)
    return counts


def agrees(published: float, counted: float, tolerance: float = 0.0) -> bool:
    """Whether a count gives the published figure when rounded alike, or is off by no more than that share of it."""
    digits = len(str(published).partition('.')[2]) if isinstance(published, float) else 0
    return round(counted, digits) == published or abs(counted / published - 1) <= tolerance


def merge_results(known: Iterable[dict], new: Iterable[dict]) -> list[dict]:
    """Results of tests, the newest of each config with its options, checkpoint, data and augmentation."""
    newest: dict[tuple[str, ...], dict] = {}
    for result in sorted([*known, *new], key=lambda result: result['date']):
        same = ('config', 'checkpoint_sha256', 'augmented', 'data', 'options', 'changed')
        key = tuple(str(result[name]) for name in same)
        newest[key] = result
    return sorted(newest.values(), key=lambda result: (result['config'], result['date']))


def measured(table: dict[str, Any], row: dict[str, Any], results: Iterable[dict]) -> dict[str, float]:
    """What was measured for a row, in percent by the table's metrics: the newest full test with its config as it is."""
    found = {}
    for result in results:
        full = _is_of(result['data'], table) and _as_is(result)
        if full and result['config'] == row.get('config'):
            for key, (_, metric) in table['metrics'].items():
                if metric in result['metrics'] and result['augmented'] == key.endswith('_ms'):
                    found[key] = _percent(metric, result['metrics'][metric])
    return found


def _as_is(result: dict[str, Any]) -> bool:
    """Whether a result is of the config as it is, in training and test, at the end of its schedule."""
    return result['finished'] and not result['options'] and result['changed'] == {}


def _is_of(data: dict[str, Any], table: dict[str, Any]) -> bool:
    """Whether a test was on the validation data of a table, by all that the table tells of it."""
    return all(data[key] == table[key] for key in ('images', 'images_sha256', 'objects') if key in table)


def _name_of(data: dict[str, Any], tables: list[dict[str, Any]]) -> str:
    """The data of a test in words."""
    named = [table['dataset'] for table in tables if _is_of(data, table)]
    if data['images_sha256'] is None:
        return f'not recorded which ({data["type"]})'
    if data['images_sha256'] == STREETS_SHA256:
        return 'street scenes (CamVid)'
    return named[0] if named else f'{data["type"]} {data["images_sha256"][:8]}'


def _percent(metric: str, value: float) -> float:
    return 100 * value if metric.startswith('coco/') else value


def render(tables: list[dict[str, Any]], counts: dict[str, dict[str, int]], results: list[dict]) -> str:
    """All tables in markdown."""
    used = [_table(table, counts, results) for table in tables]
    return HEAD + '\n\n'.join([*used, _streets_table(results), _other_table(tables, results)]) + '\n'


def record(tables: list[dict[str, Any]], counts: dict[str, dict[str, int]], results: list[dict]) -> dict[str, Any]:
    """The same for programs: what was counted and measured, and the rows of ATMNet made of it."""
    rows = [
        {
            'table': table['name'],
            'config': row['config'],
            'paper': {key: row[key] for key in ('params', 'flops', *table['metrics']) if key in row},
            'counted': counts[row['config']],
            'measured': measured(table, row, results) or None,
        }
        for table, row, _ in own_rows(tables)
    ]
    return {'counts': counts, 'results': results, 'rows': rows}


def _table(table: dict[str, Any], counts: dict[str, dict[str, int]], results: list[dict]) -> str:
    height, width = table['shape']
    titles = [title for title, _ in table['metrics'].values()]
    head = ['model', "M, paper's", 'M, counted', "GFLOPs, paper's", 'GFLOPs, counted', *titles, 'measured here']
    rows, notes = [], [table['note']] if 'note' in table else []
    for row in table['rows']:
        counted = counts.get(row.get('config'), {})
        measurement = measured(table, row, results)
        found = ', '.join(f'{table["metrics"][key][0]} {value:.2f}' for key, value in measurement.items())
        rows.append([
            row['model'] + (f' at {row["size"]}' if 'size' in row else ''),
            row.get('params', ''),
            _counted(row.get('params'), counted.get('params'), 1e6, 0.0),
            row.get('flops', ''),
            _counted(row.get('flops'), counted.get('flops'), 1e9, FLOPS_TOLERANCE),
            *[row.get(key, '') for key in table['metrics']],
            (found or NOT_MEASURED) if row['model'] in SIZES else '',
        ])  # fmt: skip
        if 'note' in row:
            notes.append(f'{row["model"]}: {row["note"]}')
    return '\n\n'.join([f'## {table["title"]}', f'FLOPs at {height}x{width}.', markdown(head, rows), *notes])


def _counted(published: float | None, counted: int | None, unit: float, tolerance: float) -> str:
    """A count, with its difference where it does not agree."""
    if counted is None:
        return ''
    value = counted / unit
    if published is None or agrees(published, value, tolerance):
        return f'{value:.2f}'
    return f'{value:.2f} ({100 * (value / published - 1):+.1f} %)'


def _streets_table(results: list[dict]) -> str:
    head = ['config', 'seeds', 'mIoU', 'images/s in training', 'peak memory (MiB)', 'on']
    rows = []
    for config in STREETS:
        own = _street_results(config, results)
        if not own:
            rows.append([config, *[NOT_MEASURED] * 4, ''])
            continue
        miou = [r['metrics']['mIoU'] for r in own]
        speeds = [
            r['training']['batch_size'] * r['training']['processes'] / r['training']['seconds_per_iteration']
            for r in own
        ]
        memory = [r['training']['peak_memory_mib'] or 0 for r in own]
        rows.append([
            config,
            len(own),
            f'{statistics.mean(miou):.2f} ({min(miou):.2f} to {max(miou):.2f})',
            f'{statistics.mean(speeds):.1f}',
            max(memory) or NOT_MEASURED,
            own[-1]['environment'].get('gpu', own[-1]['environment']['cpu']),
        ])  # fmt: skip
    return (
        '## Four backbones under UperNet on street scenes, from scratch\n\n'
        'One recipe and budget for all, 11 classes, 101 validation images: `python tools/dev/compare_streets.py`.\n\n'
        + markdown(head, rows)
    )


def _street_results(config: str, results: list[dict]) -> list[dict]:
    """The newest result of each seed."""
    full = [r for r in results if r['config'] == config and r['data']['images_sha256'] == STREETS_SHA256 and _as_is(r)]
    return list({r['training']['seed']: r for r in full if r['training'] and 'mIoU' in r['metrics']}.values())


def _other_table(tables: list[dict[str, Any]], results: list[dict]) -> str:
    head = ['config', 'evaluated on', 'images', 'iterations', 'minutes']
    head += ['loss, first to last', 'measured', 'checkpoint', 'on']
    placed = {id(r) for t in tables for row in t['rows'] for r in results if measured(t, row, [r])}
    placed |= {id(r) for config in STREETS for r in _street_results(config, results)}
    rows = []
    for result in results:
        if id(result) in placed:
            continue
        shown = [
            f'{title} {_percent(metric, result["metrics"][metric]):.2f}'
            for metric, title in _SHOWN.items()
            if result['metrics'].get(metric, -1) >= 0  # COCO's -1: no such objects
        ]
        training = result['training'] or {}
        has_options = bool(result['options'] or result['changed'])
        rows.append([
            result['config'] + ' (options)' * has_options + ' (TTA)' * result['augmented'],
            _name_of(result['data'], tables),
            result['data']['images'],
            training.get('iterations', ''),
            f'{training["iterations"] * training["seconds_per_iteration"] / 60:.0f}' if training else '',
            f'{training["first_loss"]:.2f} to {training["last_loss"]:.2f}' if training else '',
            ', '.join(shown),
            result['checkpoint_sha256'][:8],
            result['environment'].get('gpu', 'CPU'),
        ])  # fmt: skip
    return (
        "## Other measurements\n\nOn other data than the benchmarks', with options in training or test, or in the "
        'middle of a schedule; results.json says which. What was measured before data and training were recorded has '
        'null there.\n\n' + (markdown(head, rows) if rows else NOT_MEASURED)
    )


def markdown(head: list[str], rows: Iterable[list]) -> str:
    """A table."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def metafile(tables: Iterable[dict[str, Any]], counts: dict[str, dict[str, int]]) -> str:
    """OpenMMLab's description of the configs, for `mim`. Metrics are the paper's and say so."""
    models = []
    for table, row, path in own_rows(tables):
        published = {f'{title} (paper)': row[key] for key, (title, _) in table['metrics'].items() if key in row}
        counted = counts[row['config']]
        models.append({
            'Name': row['config'],
            'In Collection': 'ATMNet',
            'Config': path,
            'Metadata': {
                'Parameters': counted['params'],
                'FLOPs': counted['flops'],
                'Training Data': table['dataset'],
            },
            'Results': [
                {'Task': table['task'], 'Dataset': table['dataset'], 'Metrics': published or {'not published': None}}
            ],
        })  # fmt: skip
    collection = {
        'Name': 'ATMNet',
        'Metadata': {'Architecture': ['ATMNet', 'Active Token Mixer']},
        'Paper': {'Title': 'Active Token Mixer', 'URL': 'https://arxiv.org/abs/2203.06108'},
        'README': 'README.md',
    }
    head = "# Written by tools/reproduce_tables.py. Metrics are the paper's, not measured here.\n"
    return head + yaml.safe_dump({'Collections': [collection], 'Models': models}, sort_keys=False)


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
