"""docs/mixers.md: what is known of each token mixer, as tables and charts."""

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmatm.utils.markdown import table

from .costs import CHANNELS, SHAPES, SIDES, TIMES

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
MAIN = 'shapes_mini_600'
BEGIN, END = '<!-- begin figures -->\n', '<!-- end figures -->\n'


def figures(record: Mapping[str, Any]) -> str:
    """The tables of a record, as tools/compare_mixers.py keeps it in docs/mixers.json.

    Args:
        record: `counts` as `costs.static` gives them, `costs` by device with `environment` and `mixers` as
            `costs.measure`, `onnx` as `costs.export_deviation`, all by mixer; `trainings` by the name of the
            comparison, with `on`, `miou` by mixer and seed, and `observed` by mixer.
    """
    mixers = list(record['counts'])
    parts = [_accuracy(name, entry, mixers) for name, entry in record['trainings'].items()]
    parts += ['### Counted', _counts(record['counts'])]
    for device, entry in record['costs'].items():
        parts += [f'### Time and memory on a {"GPU" if device == "cuda" else "CPU"}', _seen(entry['environment'])]
        parts += [_costs(entry['mixers'])]
    parts += ['### What its predictions do, and ONNX', _behaviour(record, mixers)]
    return '\n\n'.join(parts) + '\n'


def _seen(environment: Mapping[str, Any]) -> str:
    return f'Seen with: {", ".join(f"{key} {value}" for key, value in environment.items())}.'


def _label(mixer: str) -> str:
    return f'`{mixer}` ({OF[mixer]})' if mixer in OF else f'`{mixer}`'


def mean_and_deviation(values: Iterable[float]) -> str:
    """`45.3 +- 0.4` of several seeds, `45.3` of one."""
    values = list(values)
    if not values:
        return NOT_MEASURED
    mean = f'{statistics.mean(values):.1f}'
    return f'{mean} ± {statistics.stdev(values):.1f}' if len(values) > 1 else mean


def _accuracy(name: str, entry: Mapping[str, Any], mixers: Iterable[str]) -> str:
    data, size, budget = name.rsplit('_', 2)
    rows = []
    for mixer in mixers:
        found = entry['miou'].get(mixer, {})
        seeds = ', '.join(f'{found[seed]:.1f}' for seed in sorted(found, key=int))
        rows.append((statistics.mean(found.values()) if found else -1.0, [
            _label(mixer), mean_and_deviation(found.values()), seeds,
        ]))  # fmt: skip
    rows.sort(key=lambda row: -row[0])
    title = f'### mIoU on {data}: MetaFormer of size {size}, {budget} iterations'
    return '\n\n'.join([title, _seen(entry['on']), table(['mixer', 'mIoU', 'of each seed'], [row for _, row in rows])])


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


def _behaviour(record: Mapping[str, Any], mixers: Iterable[str]) -> str:
    observed = record['trainings'].get(MAIN, {}).get('observed', {})
    rows = []
    for mixer in mixers:
        seen, deviation = observed.get(mixer), record['onnx'].get(mixer, NOT_MEASURED)
        rows.append([
            _label(mixer),
            *((f'{100 * seen["shift"]:.1f} %', f'{100 * seen["odd"]:.1f} %') if seen else [NOT_MEASURED] * 2),
            f'{seen["field"]:.0f}' if seen else NOT_MEASURED,
            deviation if isinstance(deviation, str) else f'{deviation:.0e}',
        ])  # fmt: skip
    return table(
        ['mixer', 'kept when moved by a pixel', 'kept at an odd size', 'half of the gradient, pixels', 'ONNX deviates'],
        rows,
    )


def write(record: Mapping[str, Any], folder: Path) -> None:
    """Puts the tables into mixers.md, which is begun if it is not there, and draws the charts beside it."""
    path = folder / 'mixers.md'
    before, after = split(path.read_text()) if path.is_file() else (f'# Token mixers compared\n\n{BEGIN}', END)
    path.write_text(f'{before}\n{figures(record)}\n{after}')
    draw(record, folder)


def split(text: str) -> tuple[str, str]:
    """The page before and after its tables."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN, END + after


def draw(record: Mapping[str, Any], folder: Path) -> None:
    """Draws mIoU against time into mixers.svg, and time against pixels into cost.svg."""
    import matplotlib

    matplotlib.use('svg')
    from matplotlib import pyplot

    matplotlib.rcParams['svg.hashsalt'] = 'mixers'
    costs = record['costs'].get('cpu', {}).get('mixers', {})
    miou = {m: list(found.values()) for m, found in record['trainings'].get(MAIN, {}).get('miou', {}).items() if found}
    points = {m: (costs[m]['ms']['mini 512x512'], statistics.mean(miou[m])) for m in miou if m in costs}
    if points:
        figure, axes = pyplot.subplots(figsize=(8, 5), layout='constrained')
        best = _pareto(points)
        axes.step(*zip(*(points[m] for m in best), strict=True), where='post', color='#bbbbbb', zorder=0)
        for mixer, (ms, mean) in points.items():
            spread = statistics.stdev(miou[mixer]) if len(miou[mixer]) > 1 else 0.0
            colour = '#1f77b4' if mixer in best else '#888888'
            axes.errorbar(ms, mean, yerr=spread, fmt='o', color=colour, capsize=3)
            axes.annotate(mixer, (ms, mean), xytext=(6, 4), textcoords='offset points', fontsize=9)
        axes.set_xscale('log')
        axes.set(
            xlabel='one 512x512 image through the backbone on a CPU, ms',
            ylabel='mIoU on images of shapes, mean and standard deviation over seeds',
        )
        figure.savefig(folder / 'mixers.svg', metadata={'Date': None})
        pyplot.close(figure)
    if costs:
        figure, axes = pyplot.subplots(figsize=(7, 5), layout='constrained')
        for mixer, entry in costs.items():
            times = [entry['one_ms'][str(side)] for side in SIDES]
            axes.loglog(SIDES, times, marker='o', label=f'{mixer}: pixels^{entry["exponent"]:.2f}')
        axes.set_xticks(SIDES, map(str, SIDES))
        axes.minorticks_off()
        axes.set(xlabel='side of the image, pixels', ylabel=f'one mixer of {CHANNELS} channels, ms')
        axes.legend(fontsize='x-small')
        figure.savefig(folder / 'cost.svg', metadata={'Date': None})
        pyplot.close(figure)


def _pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Those that no other beats in both, by rising time."""
    best: list[str] = []
    for mixer in sorted(points, key=lambda m: (points[m][0], -points[m][1])):
        if not best or points[mixer][1] > points[best[-1]][1]:
            best.append(mixer)
    return best
