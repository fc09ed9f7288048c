"""The figures as a chart and tables, for the terminal and for docs/benchmarks.md."""

import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from mmatm.utils.markdown import table

_table = partial(table, aligned=True)  # they are read on the terminal too
AUTHORS = "authors' operations"
PLAIN = 'plain operations'
_BAR = 40  # characters of the longest bar


def markdown(report: dict[str, Any], chart: str | None = None) -> str:
    """The chart and all tables of a report, as `__main__` makes it: what the figures come to first.

    Args:
        report: The report.
        chart: The file of its chart, which is shown in place of bars of text.
    """
    settings = ', '.join(f'{key} {value}' for key, value in (report['environment'] | report['settings']).items())
    parts = [f'Seen with: {settings}.']
    compared = [entry for entry in report['results'] if entry['level'] == 'backbone' and len(entry['ways']) > 2]
    if chart:
        parts.append(f'![Time and memory of whole networks]({chart})')
    elif compared:
        parts.append(_chart(compared))
    if report['ratios']:
        rows = [(name, f'{value:.2f}') for name, value in report['ratios'].items()]
        parts.append('### Ratios\n\n' + _table(('how many times', ''), rows))
    for level in ('operation', 'mixer', 'backbone'):
        entries = [entry for entry in report['results'] if entry['level'] == level]
        if entries:
            parts.append(_level_table(level, entries))
    if report['precision']:
        keys = 'result', 'x_gradient', 'offset_gradient', 'network'
        rows = [
            (row['type'], *('' if row[key] is None else f'{row[key]:.1e}' for key in keys))
            for row in report['precision']
        ]
        head = ('type', 'x_w, x_h', 'gradient by x', 'gradient by offset', 'ATMNet-T, last feature map')
        parts.append('### Error against float64, 128x128 tokens\n\n' + _table(head, rows))
    for name, operators in report['profiles'].items():
        rows = [(o['operator'], str(o['calls']), f'{o["ms"]:.1f}', f'{o["share"]:.0%}') for o in operators]
        parts.append(f'### Profile: {name}\n\n' + _table(('operator', 'calls', 'ms', 'share'), rows))
    return '\n\n'.join(parts) + '\n'


def _chart(entries: list[dict[str, Any]]) -> str:
    """Bars of the times of all ways by mmatm's, for each problem."""
    times = {
        entry['name']: {way: ms['median_ms'] / entry['ways']['mmatm']['median_ms'] for way, ms in entry['ways'].items()}
        for entry in entries
    }
    longest = max(value for ways in times.values() for value in ways.values())
    width = max(len(way) for ways in times.values() for way in ways)
    charts = []
    for name, ways in times.items():
        bars = [
            f'  {way:{width}}  {"█" * max(1, round(_BAR * value / longest))} {value:.2f}' for way, value in ways.items()
        ]
        charts.append('\n'.join((name, *bars)))
    text = '\n\n'.join(charts)
    return f"### Time by mmatm's, shorter is faster\n\n```text\n{text}\n```"


def _level_table(level: str, entries: list[dict[str, Any]]) -> str:
    rows = []
    for entry in entries:
        base = entry['ways']['mmatm']
        for way, figures in entry['ways'].items():
            first, third = figures['quartiles_ms']
            memory = figures.get('peak_mib')
            rows.append(
                (
                    entry['name'],
                    way,
                    f'{figures["median_ms"]:.2f}',
                    f'{first:.2f} to {third:.2f}',
                    str(figures['repeats']),
                    f'{figures["median_ms"] / base["median_ms"]:.2f}',
                    '' if memory is None else f'{memory:.0f}',
                )
            )
    head = ('problem', 'way', 'median ms', 'quartiles', 'repeats', 'times mmatm', 'peak MiB')
    return f'### {level.capitalize()}\n\n' + _table(head, rows)


def ratios(results: list[dict[str, Any]]) -> dict[str, float]:
    """What the figures come to: other ways' time (or memory) by mmatm's."""

    def geometric_mean(name: str, values: Iterable[float]) -> None:
        logs = [math.log(value) for value in values]
        if logs:
            found[name] = math.exp(sum(logs) / len(logs))

    found = {}
    for training, mode in ((False, 'forward'), (True, 'forward + backward')):
        stages = [
            {way: figures['median_ms'] for way, figures in entry['ways'].items()}
            for entry in results
            if entry['level'] == 'operation' and entry['training'] == training and entry['height'] == 512
        ]
        name = f'operation at 512x512, mean of the stages, {mode}:'
        geometric_mean(f'{name} DeformConv baseline slower', (ms['DeformConv baseline'] / ms['mmatm'] for ms in stages))
        geometric_mean(
            f'{name} DeformConv baseline slower than mmatm with FC',
            (ms['DeformConv baseline'] / ms['mmatm with FC'] for ms in stages),
        )
        geometric_mean(f'{name} slower than a copy of the same bytes', (ms['mmatm'] / ms['copy'] for ms in stages))
    for entry in results:
        if entry['level'] != 'backbone':
            continue
        base = entry['ways']['mmatm']
        for way, figures in entry['ways'].items():
            if way == 'mmatm':
                continue
            name = f'{entry["name"]}:'
            found[f'{name} {way} slower'] = figures['median_ms'] / base['median_ms']
            whose = {
                'DeformConv baseline': f"the {way}'s",
                **dict.fromkeys((AUTHORS, PLAIN), f'that of the {way}'),
            }.get(way)
            if whose and entry['training'] and figures.get('peak_mib'):
                found[f'{name} peak memory by {whose}'] = base['peak_mib'] / figures['peak_mib']
    return found


def split_docs(path: Path, name: str) -> tuple[str, str]:
    """What is before and after the text between the lines `<!-- begin NAME -->` and `<!-- end NAME -->` of a file.

    Raises:
        ValueError: The file has no such lines.
    """
    begin, end = f'<!-- begin {name} -->\n', f'<!-- end {name} -->\n'
    before, found, rest = path.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f'{path} has no lines {begin.strip()} and {end.strip()}')
    return before + begin, end + after


def update_docs(path: Path, name: str, text: str) -> None:
    """Puts text between those lines."""
    before, after = split_docs(path, name)
    path.write_text(f'{before}\n{text}\n{after}')
