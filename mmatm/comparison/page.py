"""docs/mixers.md: what is known of each token mixer, as tables and charts."""

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmatm.analysis.papers import is_own, read_tables
from mmatm.analysis.tables import NOT_SAID
from mmatm.utils.charts import save_svg
from mmatm.utils.markdown import table

from .costs import CHANNELS, SHAPES, SIDES, TIMES
from .processes import ROOT

# Whose network a mixer is of.
OF = {
    'active': 'ATMNet',
    'cycle': 'CycleMLP',
    'dual_dynamic': 'TransXNet',
    'additive': 'CAS-ViT',
    'ffnified': 'FFNet',
    'adaptive_frequency': 'AFFNet',
    'dynamic_filter': 'DFFormer',
    'dynamic_spectrum': 'DSM, a reading',
    'identity': 'RIFormer, control',
    'pooling': 'PoolFormer, control',
    'depthwise': 'control',
    'attention': 'control',
}
NOT_MEASURED = 'not measured'
_PUBLISHED = """mIoU on ADE20K with weights pretrained on ImageNet, single scale, as the networks' authors give it;
CycleMLP's is as ATMNet's authors give it. Of the others none is at hand. Not like for like, as
`docs/results.md` says."""
BEGIN, END = '<!-- begin figures -->\n', '<!-- end figures -->\n'


def figures(record: Mapping[str, Any]) -> str:
    """The tables of a record, as tools/compare_mixers.py keeps it in docs/mixers.json.

    Args:
        record: `counts` as `costs.static` gives them, `costs` by device with `environment` and `mixers` as
            `costs.measure`, `onnx` as `costs.export_deviation`, all by mixer; `trainings` by the name of the
            comparison, with `on`, `miou` by mixer and seed, and `observed` by mixer.
    """
    parts = []
    for name, entry in record['trainings'].items():
        parts += [_accuracy(name, entry)]
        if entry['observed']:
            parts += ['What the predictions of seed 0 do:', _behaviour(entry['observed'])]
    if record['counts']:
        parts += ['### Counted', _counts(record['counts'])]
    for device, entry in record['costs'].items():
        parts += [f'### Time and memory on a {"GPU" if device == "cuda" else "CPU"}', _seen([entry['environment']])]
        parts += [_costs(entry['mixers'])]
    if record['onnx']:
        parts += ['### Exported to ONNX', _exports(record['onnx'])]
    known = {mixer for entry in record['trainings'].values() for mixer in entry['miou']} | set(record['counts'])
    if rows := _published(read_tables(ROOT / 'docs'), known):
        head = ['mixer', 'network', 'under', 'mIoU by size', 'trained for', 'checkpoint']
        parts += ["### Published figures of the mixers' own networks", _PUBLISHED, table(head, rows)]
    return '\n\n'.join(parts) + '\n'


def _seen(environments: Iterable[Mapping[str, Any]]) -> str:
    each = (', '.join(f'{key} {value}' for key, value in environment.items()) for environment in environments)
    return f'Seen with: {"; ".join(each)}.'


def _label(mixer: str) -> str:
    return f'`{mixer}` ({OF[mixer]})' if mixer in OF else f'`{mixer}`'


def mean_and_deviation(values: Iterable[float]) -> str:
    """`45.3 +- 0.4` of several seeds, `45.3` of one."""
    values = list(values)
    if not values:
        return NOT_MEASURED
    mean = f'{statistics.mean(values):.1f}'
    return f'{mean} ± {statistics.stdev(values):.1f}' if len(values) > 1 else mean


def _accuracy(name: str, entry: Mapping[str, Any]) -> str:
    data, size, budget = name.rsplit('_', 2)
    rows = []
    for mixer, found in sorted(entry['miou'].items(), key=lambda item: -statistics.mean(item[1].values())):
        seeds = ', '.join(f'{found[seed]:.1f}' for seed in sorted(found, key=int))
        rows.append([_label(mixer), mean_and_deviation(found.values()), seeds])
    title = f'### mIoU on {data}: MetaFormer of size {size}, {budget} iterations'
    return '\n\n'.join([title, _seen(entry['on']), table(['mixer', 'mIoU', 'of each seed'], rows)])


def _counts(counts: Mapping[str, Any]) -> str:
    head = ['mixer', 'M parameters', 'of them bound to a size', *(f'GFLOPs at {shape}' for shape in SHAPES)]
    return table(head, [
        [
            _label(mixer),
            f'{entry["params"] / 1e6:.2f}',
            f'{entry["size_bound"] / 1e6:.2f}' if entry['size_bound'] else 'none',
            *(f'{entry["flops"][shape] / 1e9:.1f}' for shape in SHAPES),
        ]
        for mixer, entry in counts.items()
    ])  # fmt: skip


def _costs(costs: Mapping[str, Any]) -> str:
    head = ['mixer', *(f'{column}, ms' for column in TIMES), 'training step, MiB', 'exponent']
    return table(head, [
        [
            _label(mixer),
            *(f'{entry["ms"][column]:.1f}' for column in TIMES),
            f'{entry["peak_mib"]:.0f}' if entry['peak_mib'] else NOT_MEASURED,
            f'{entry["exponent"]:.2f}',
        ]
        for mixer, entry in costs.items()
    ])  # fmt: skip


def _behaviour(observed: Mapping[str, Any]) -> str:
    head = ['mixer', 'kept when moved by a pixel', 'kept at an odd size', 'half of the gradient, pixels']
    return table(head, [
        [_label(mixer), f'{100 * seen["shift"]:.1f} %', f'{100 * seen["odd"]:.1f} %', f'{seen["field"]:.0f}']
        for mixer, seen in observed.items()
    ])  # fmt: skip


def _exports(deviations: Mapping[str, float | str]) -> str:
    return table(['mixer', 'largest deviation'], [
        [_label(mixer), deviation if isinstance(deviation, str) else f'{deviation:.0e}']
        for mixer, deviation in deviations.items()
    ])  # fmt: skip


def _published(tables: Iterable[Mapping[str, Any]], mixers: Iterable[str]) -> list[list[str]]:
    """The papers' mIoU on ADE20K, a row for each network with each head."""
    sizes: dict[tuple[str, ...], list[str]] = {}
    for mixer in [mixer for mixer in OF if mixer in mixers]:
        network = OF[mixer].partition(',')[0]
        for each in tables:
            for row in each['rows']:
                if each['dataset'] == 'ADE20K' and row['model'].startswith(network) and 'miou' in row:
                    model, _, under = row['model'].partition(' with ')
                    usual = each['title'].partition(' on ADE20K with ')[2]
                    own = is_own(each, row)
                    settings = [each.get(key, NOT_SAID) if own else NOT_SAID for key in ('trained', 'checkpoint')]
                    size = model.removeprefix(network).lstrip('-')
                    sizes.setdefault((f'`{mixer}`', network, under or usual, *settings), []).append(
                        f'{size}: {row["miou"]}'
                    )
    return [[*about[:3], ', '.join(found), *about[3:]] for about, found in sizes.items()]


def write(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Puts the tables into mixers.md, which is begun if it is not there, and draws the charts beside it.

    Returns:
        The files that were written: a chart needs trainings, or times.
    """
    path = folder / 'mixers.md'
    before, after = split(path.read_text()) if path.is_file() else (f'# Token mixers compared\n\n{BEGIN}', END)
    path.write_text(f'{before}\n{figures(record)}\n{after}')
    return [path, *draw(record, folder)]


def split(text: str) -> tuple[str, str]:
    """The page before and after its tables."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN, END + after


def draw(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws mIoU of the first trainings against time into mixers.svg, and time against pixels into cost.svg.

    Returns:
        Those that were drawn.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    device = next(iter(record['costs']), 'cpu')
    costs = record['costs'].get(device, {}).get('mixers', {})
    trainings, entry = next(iter(record['trainings'].items()), ('', {'miou': {}}))
    miou = {mixer: list(found.values()) for mixer, found in entry['miou'].items()}
    points = {m: (costs[m]['ms']['mini 512x512'], statistics.mean(miou[m])) for m in miou if m in costs}
    drawn = []
    if points:
        figure = Figure((9, 6), layout='constrained')
        axes = figure.subplots()
        best = _pareto(points)
        axes.step(*zip(*(points[m] for m in best), strict=True), where='post', color='#bbbbbb', zorder=0)
        for mixer, (ms, mean) in points.items():
            spread = statistics.stdev(miou[mixer]) if len(miou[mixer]) > 1 else 0.0
            colour = '#1f77b4' if mixer in best else '#888888'
            axes.errorbar(ms, mean, yerr=spread, fmt='o', color=colour, capsize=3)
        for mixer, height in _label_heights(points).items():
            ms, mean = points[mixer]
            line = dict(arrowstyle='-', color='#bbbbbb', shrinkB=4)
            behind = dict(facecolor='white', edgecolor='none', pad=1)
            axes.annotate(mixer, (ms, mean), (1.15 * ms, height), fontsize=9, va='center', arrowprops=line, bbox=behind)
        axes.set_xscale('log')
        times = [ms for ms, _ in points.values()]
        axes.set_xlim(0.8 * min(times), 2 * max(times))  # room for labels on the right
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter('{x:g}')
        axes.minorticks_off()
        axes.set(
            xlabel=f'one 512x512 image through the mini backbone on a {device.upper()}, ms',
            ylabel='mIoU ({}, {}, {} iterations): mean and deviation'.format(*trainings.rsplit('_', 2)),
        )
        drawn.append(folder / 'mixers.svg')
        save_svg(figure, drawn[-1])
    if costs:
        figure = Figure((9, 5), layout='constrained')
        axes = figure.subplots()
        axes.set_prop_cycle(color=matplotlib.colormaps['tab20'].colors)
        for mixer, entry in sorted(costs.items(), key=lambda item: -item[1]['one_ms'][str(SIDES[-1])]):
            times = [entry['one_ms'][str(side)] for side in SIDES]
            axes.loglog(SIDES, times, marker='o', label=f'{mixer}: pixels^{entry["exponent"]:.2f}')
        axes.set_xticks(SIDES, map(str, SIDES))
        axes.minorticks_off()
        axes.set(xlabel='side of the image, pixels', ylabel=f'one mixer of {CHANNELS} channels, ms')
        figure.legend(loc='outside right upper', fontsize='small', frameon=False)  # in the order of the lines' ends
        drawn.append(folder / 'cost.svg')
        save_svg(figure, drawn[-1])
    return drawn


def _label_heights(points: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Where labels are to be, so that those of points near each other do not overlap."""
    gap = 0.035 * (max(mean for _, mean in points.values()) - min(mean for _, mean in points.values()))
    heights: dict[str, float] = {}
    for mixer in sorted(points, key=lambda m: points[m][1]):
        near = [heights[other] for other in heights if 0.5 < points[other][0] / points[mixer][0] < 2]
        heights[mixer] = max([points[mixer][1], *(height + gap for height in near)])
    return heights


def _pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Those that no other beats in both, by rising time."""
    best: list[str] = []
    for mixer in sorted(points, key=lambda m: (points[m][0], -points[m][1])):
        if not best or points[mixer][1] > points[best[-1]][1]:
            best.append(mixer)
    return best
