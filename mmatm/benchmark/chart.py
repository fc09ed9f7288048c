"""The figures of whole backbones as a chart, for docs/benchmarks.md: time and memory, by network and way."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mmatm.models import ATMNet
from mmatm.utils.charts import save_svg

_COLUMNS = 2
_COLOURS = ('#d1495b', '#30638e', '#edae49', '#00798c', '#8d6a9f', '#6a994e', '#7f7f7f')
_MARKERS = 'oDs^vPX'


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws a panel for the time of each problem, and one for the memory of each training; a row for each network.

    A way keeps its mark in all panels. Axes are logarithmic: as far to the right, as many times as much.

    Args:
        report: As `__main__` makes it, with backbones among its results.
        path: The SVG file.
    """
    found = list(_panels([entry for entry in report['results'] if entry['level'] == 'backbone']))
    found.sort(key=lambda panel: -len(panel[1]))  # panels of one height side by side
    names = list(dict.fromkeys(way for _, rows, _ in found for ways in rows.values() for way in ways))
    looks = {way: (_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]) for i, way in enumerate(names)}
    lines = math.ceil(len(found) / _COLUMNS)
    heights = [max(len(rows) for _, rows, _ in found[_COLUMNS * i : _COLUMNS * (i + 1)]) + 3 for i in range(lines)]
    figure = Figure((9, 0.28 * sum(heights) + 0.5), layout='constrained')
    grid = figure.subplots(lines, _COLUMNS, squeeze=False, height_ratios=heights)
    for axes, (title, rows, unit) in zip(grid.flat, found, strict=False):
        _draw_panel(axes, rows, looks)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(unit, fontsize=9)
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle='none', label=way)
        for way, (colour, marker) in looks.items()
    ]
    figure.legend(handles=handles, loc='outside upper center', ncols=min(len(handles), 6), frameon=False, fontsize=9)
    save_svg(figure, path)


def _panels(entries: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, dict[str, tuple]], str]]:
    """Title, rows and unit of each panel; a row is what was measured of each way: the middle, and quartiles around."""
    problems: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        network, problem = entry['name'].removeprefix('backbone ').split(', ', 1)
        network = network if ' ' in network else f'{ATMNet.TITLE} {network}'
        problems.setdefault(problem, []).append(entry | dict(network=network))
    for problem, same in problems.items():
        times = {e['network']: {w: (f['median_ms'], *f['quartiles_ms']) for w, f in e['ways'].items()} for e in same}
        yield f'time, {problem}', times, 'ms'
    for problem, same in problems.items():
        peaks = {
            e['network']: {w: (f['peak_mib'],) * 3 for w, f in e['ways'].items() if f.get('peak_mib')} for e in same
        }
        if peaks := {network: ways for network, ways in peaks.items() if ways}:
            yield f'memory, {problem}', peaks, 'MiB at the peak'


def _draw_panel(axes: Axes, rows: dict[str, dict[str, tuple]], looks: dict[str, tuple[str, str]]) -> None:
    for y, ways in enumerate(rows.values()):
        values = [value for value, _, _ in ways.values()]
        axes.plot([min(values), max(values)], [y, y], color='#dddddd', zorder=0)
        for way, (value, first, third) in reversed(ways.items()):  # mmatm's above the others
            colour, marker = looks[way]
            axes.plot([first, third], [y, y], color=colour, linewidth=1)
            axes.plot(value, y, marker, color=colour, markersize=6)
    axes.set_xscale('log')
    low, high = axes.get_xlim()
    wide = [digit * 10**e for e in range(-3, 7) for digit in (1, 2, 5)]
    # Between neighbours of these there may be one, by which no scale can be read.
    ticks = [
        tick for tick in (wide if high > 6 * low else MaxNLocator(5).tick_values(low, high)) if low <= tick <= high
    ]
    axes.set_xticks(ticks, [f'{tick:,g}' for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.grid(axis='x', color='#eeeeee')
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.spines[['top', 'right']].set_visible(False)
