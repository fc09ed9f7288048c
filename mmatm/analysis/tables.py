"""The papers' tables beside what this project counts and measures, in Markdown and for programs."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from mmatm.analysis.papers import by_paper, is_own, own_rows, shape_of
from mmatm.engine.mixed_precision import OF_AMP, PRECISIONS
from mmatm.engine.recipe import NONE
from mmatm.utils.markdown import table as markdown

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
"paper's" are figures of the papers' authors, as in [papers/](papers/atmnet.yml); a table with figures of another
source names it. "counted" is by `tools/get_flops.py`, with the difference where it is not the published figure:
parameters as rounded, FLOPs to 0.5 %. "measured here" is by `tools/test.py` on the benchmark's own validation data,
told by its content, without options, with weights of the end of the config's schedule, trained with its settings, or
published ones."""
FLOPS_TOLERANCE = 0.005


NOT_SAID = 'not said'
_DENSE_NOTE = """By the backbones' own authors, and not like for like: schedules, images per step, and which checkpoint
was tested differ, as far as they are known at all. Not among them: DFFormer and CDFFormer, of whose dense prediction no
figures were at hand, RIFormer, which has none, and DSM, a reading of an abstract, whose authors' figures are of another
network."""


def agrees(published: float, counted: float, tolerance: float = 0.0) -> bool:
    """Whether a count rounds to the published figure, or differs from it by no more than that share of it."""
    digits = len(str(published).partition('.')[2]) if isinstance(published, float) else 0
    return round(counted, digits) == published or abs(counted / published - 1) <= tolerance


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


def _name_of(data: dict[str, Any], tables: Iterable[dict[str, Any]]) -> str:
    """The data of a test in words."""
    named = [table['dataset'] for table in tables if _is_of(data, table)]
    if data['images_sha256'] is None:
        return f'not recorded which ({data["type"]})'
    return named[0] if named else f'{data["type"]} {data["images_sha256"][:8]}'


def _percent(metric: str, value: float) -> float:
    return 100 * value if metric.startswith('coco/') else value


def render(
    tables: list[dict[str, Any]],
    streets: dict[str, Any],
    counts: dict[str, dict[str, int]],
    results: list[dict],
) -> str:
    """All tables in Markdown.

    Args:
        tables: As `read_tables` gives them.
        streets: As `read_streets` gives it.
        counts: As `count_all` gives them.
        results: Of tests, as `merge_results` gives them.
    """
    parts = [HEAD]
    for paper, own in by_paper(tables):
        collection = paper['collection']
        title, address = collection['Paper']['Title'], collection['Paper']['URL']
        parts.append(f'## {collection["Name"]}\n\n[{title}]({address}), by the configs in `{paper["configs"]}/`.')
        parts += [_table(table, counts, results) for table in own]
    parts.append(_dense_table(tables, counts))
    return '\n\n'.join([*parts, _streets_table(streets, results), _other_table(tables, streets, results)]) + '\n'


def record(tables: list[dict[str, Any]], counts: dict[str, dict[str, int]], results: list[dict]) -> dict[str, Any]:
    """The same for programs: what was counted and measured, and the rows of this project's backbones made of it."""
    rows = [
        {
            'table': table['name'],
            'config': row['config'],
            table['source']: {key: row[key] for key in ('params', 'flops', *table['metrics']) if key in row},
            'counted': counts[row['config']],
            'measured': measured(table, row, results) or None,
        }
        for table, row, _ in own_rows(tables)
    ]
    return {'counts': counts, 'results': results, 'rows': rows}


def _table(table: dict[str, Any], counts: dict[str, dict[str, int]], results: list[dict]) -> str:
    height, width = table['shape']
    whose = f"{table['source']}'s"
    titles = [f'{title}, {whose}' for title, _ in table['metrics'].values()]
    head = ['model', f'M, {whose}', 'M, counted', f'GFLOPs, {whose}', 'GFLOPs, counted', *titles, 'measured here']
    rows, notes = [], [table['note']] if 'note' in table else []
    for row in table['rows']:
        counted = counts.get(row.get('config'), {})
        measurement = measured(table, row, results)
        found = ', '.join(f'{table["metrics"][key][0]} {value:.2f}' for key, value in measurement.items())
        rows.append([
            _label(row),
            row.get('params', ''),
            _counted(row.get('params'), counted.get('params'), 1e6, 0.0),
            row.get('flops', ''),
            _counted(row.get('flops'), counted.get('flops'), 1e9, FLOPS_TOLERANCE),
            *[row.get(key, '') for key in table['metrics']],
            (found or NOT_MEASURED) if is_own(table, row) else '',
        ])  # fmt: skip
        if 'note' in row:
            notes.append(f'{row["model"]}: {row["note"]}')
    return '\n\n'.join([f'### {table["title"]}', f'FLOPs at {height}x{width}.', markdown(head, rows), *notes])


def _dense_table(tables: list[dict[str, Any]], counts: dict[str, dict[str, int]]) -> str:
    """The published figures of this project's backbones on COCO and ADE20K."""
    rows = []
    for table in tables:
        names = tuple(table['paper']['sizes'])
        for row in table['rows']:
            figures = [f'{title} {row[key]}' for key, (title, _) in table['metrics'].items() if key in row]
            if table['task'] == 'Image Classification' or not figures or not row['model'].startswith(names):
                continue
            counted = counts.get(row.get('config'))
            what, own = table['title'].rpartition(': ')[2], is_own(table, row)
            rows.append([
                _label(row),
                (what[0].upper() + what[1:]) if own else what.partition(' with ')[0],
                f'{counted["params"] / 1e6:.1f}' if counted else '',
                f'{counted["flops"] / 1e9:.0f} at {"x".join(map(str, shape_of(table, row)))}' if counted else '',
                ', '.join(figures),
                table.get('trained', NOT_SAID) if own else NOT_SAID,
                table.get('checkpoint', NOT_SAID) if own else NOT_SAID,
            ])  # fmt: skip
    rows.sort(key=lambda row: row[1])
    head = ['network', 'what', 'M, counted', 'GFLOPs, counted', "authors' figures", 'trained for', 'checkpoint']
    return f'## Published figures on COCO and ADE20K\n\n{_DENSE_NOTE}\n\n{markdown(head, rows)}'


def _label(row: Mapping[str, Any]) -> str:
    variant = f', {row["variant"]}' if 'variant' in row else ''
    return row['model'] + variant + (f' at {row["size"]}' if 'size' in row else '')


def _counted(published: float | None, counted: int | None, unit: float, tolerance: float) -> str:
    """A count, with its difference where it does not agree."""
    if counted is None:
        return ''
    value = counted / unit
    if published is None or agrees(published, value, tolerance):
        return f'{value:.2f}'
    return f'{value:.2f} ({100 * (value / published - 1):+.1f} %)'


def _streets_table(streets: dict[str, Any], results: list[dict]) -> str:
    head = ['config', 'seeds', 'mIoU (least to most)', 'images/s in training', 'peak memory (MiB)', 'on']
    rows = []
    for config in streets['configs']:
        by_device: dict[str, list[dict]] = {}
        for result in _street_results(config, streets, results):
            by_device.setdefault(_device(result), []).append(result)
        if not by_device:
            rows.append([config, *[NOT_MEASURED] * 4, ''])
        for device, own in by_device.items():
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
                device,
            ])  # fmt: skip
    return f'## {streets["title"]}\n\n{streets["note"]}\n\n{markdown(head, rows)}'


def _device(result: dict) -> str:
    """What a network was trained and tested on, and in which precision if that is not the recipe's."""
    device = result['environment'].get('gpu', result['environment']['cpu'])
    return f'{device} in {_precision(result)}' if result['changed'] else device


def _precision(result: dict) -> str | None:
    """The precision that `fit_to_machine` put in the place of the recipe's, if that is all that changed."""
    changed = dict(result['changed'] or {})
    precision = PRECISIONS.get(changed.pop('optim_wrapper.type', None))
    given_up = {f'optim_wrapper.{key}': NONE for key in OF_AMP}
    return precision if 'gpu' not in result['environment'] and changed.items() <= given_up.items() else None


def _street_results(config: str, streets: dict[str, Any], results: list[dict]) -> list[dict]:
    """The newest result of each seed and device, in the recipe's precision or a CPU's in its place."""
    own = [r for r in results if r['config'] == config and _is_of(r['data'], streets)]
    full = [r for r in own if _as_is(r) or (_as_is({**r, 'changed': {}}) and _precision(r))]
    return list(
        {(_device(r), r['training']['seed']): r for r in full if r['training'] and 'mIoU' in r['metrics']}.values()
    )


def _other_table(tables: list[dict[str, Any]], streets: dict[str, Any], results: list[dict]) -> str:
    head = ['config', 'evaluated on', 'images', 'iterations', 'minutes']
    head += ['loss, first to last', 'measured', 'checkpoint', 'on']
    placed = {id(r) for t in tables for row in t['rows'] for r in results if measured(t, row, [r])}
    placed |= {id(r) for config in streets['configs'] for r in _street_results(config, streets, results)}
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
            _name_of(result['data'], [*tables, streets]),
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
