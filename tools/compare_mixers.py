#!/usr/bin/env python
"""Compares token mixers in one network by one recipe: trains a small segmentor with each and several seeds, looks at
what these do, counts and times the mixers, and writes tables and charts.

What was done is kept in files, so that it can be stopped at any time and called again: it goes on where it was, on
another machine too if that has mixers.json. Several calls at once do no harm: what another is at is waited for."""

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mmatm.comparison.costs import export_deviation, known_mixers, measure, static
from mmatm.comparison.page import write
from mmatm.comparison.processes import ROOT
from mmatm.comparison.training import SIZES, Run, device, train_all
from mmatm.errors import InputError
from mmatm.utils.command_line import run
from mmatm.utils.counting_bar import counting_bar
from mmatm.utils.environment import environment
from mmatm.utils.files import alone, whole_file

STEPS = ('train', 'observe', 'count', 'time', 'export')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--mixers', nargs='+', help='by default all that are registered')
    parser.add_argument('--imports', nargs='+', default=(), metavar='MODULE', help='modules that register yours')
    parser.add_argument(
        '--data',
        default='shapes',
        help="'shapes' (tools/make_shapes.py), 'streets' (data/streets), or a directory in ADE20K's layout with "
        'classes.txt; by default %(default)s',
    )
    parser.add_argument('--size', choices=SIZES, default='mini', help='of the MetaFormer; by default %(default)s')
    parser.add_argument('--seeds', type=int, default=3, help='trainings of each mixer; by default %(default)s')
    parser.add_argument('--budget', type=int, default=600, help='iterations of each; by default %(default)s')
    parser.add_argument('--jobs', type=int, default=1, help='trainings at once; by default %(default)s')
    parser.add_argument('--steps', nargs='*', choices=STEPS, default=STEPS, help='what to do; by default all of these')
    parser.add_argument('--redo', action='store_true', help='forget first what is known of --mixers, to begin anew')
    parser.add_argument('--seconds', type=float, default=2.0, help='to time each mixer and size; default %(default)s')
    parser.add_argument(
        '--work-dirs', type=Path, default=ROOT / 'work_dirs/compare_mixers', help='directory for the work_dirs'
    )
    parser.add_argument('--out', type=Path, help='directory of mixers.json, mixers.md and charts; default: --work-dirs')
    args = parser.parse_args()
    if args.budget < 20 or args.seeds < 1 or args.jobs < 1:
        raise InputError('--budget must be 20 or more, --seeds and --jobs 1 or more')
    sys.path.insert(0, str(Path.cwd()))
    for module in args.imports:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(f'--imports: {module} cannot be imported from {Path.cwd()}: {error}') from error
    mixers = list(dict.fromkeys(args.mixers or known_mixers()))
    if unknown := sorted(set(mixers) - set(known_mixers())):
        raise InputError(f'no token mixer {", ".join(unknown)}; there are {", ".join(known_mixers())}')
    out = args.out or args.work_dirs
    out.mkdir(parents=True, exist_ok=True)
    runs = [
        Run(args.data, mixer, seed, args.budget, args.size, args.work_dirs, tuple(args.imports))
        for seed in range(args.seeds)
        for mixer in mixers
    ]
    if args.redo:
        for each in runs:
            each.forget()
    if 'train' in args.steps:
        record = Record(out / 'mixers.json')
        observes = 'observe' in args.steps
        untrained = [each for each in runs if args.redo or not record.has(each, observes)]
        known = len(runs) - len(untrained) + sum(each.result() is not None for each in untrained)
        with counting_bar('trainings', known, len(runs)) as advance:
            train_all(untrained, args.jobs, advance)
    with alone(out / 'mixers.json'):  # others may train meanwhile
        record = Record(out / 'mixers.json')
        if args.redo:
            record.forget(mixers)
        record.add_results(runs)
        if 'observe' in args.steps:
            from mmatm.comparison.behaviour import observe

            observed = record.of_training(runs[0])['observed']
            record.fill(observed, {r.mixer: partial(observe, r) for r in runs if r.seed == 0}, 'observed')
        if 'count' in args.steps:
            record.fill(record.content['counts'], {m: partial(static, m) for m in mixers}, 'counted')
        if 'time' in args.steps:
            record.time(mixers, args.seconds)
        if 'export' in args.steps:
            config = ROOT / 'configs/metaformer/upernet_metaformer_mini_shapes.py'
            record.fill(record.content['onnx'], {m: partial(export_deviation, m, config) for m in mixers}, 'exported')
        print('written:', record.path, *write(record.content, out))


class Record:
    """What is known, in a JSON file that is written after each step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        known = json.loads(path.read_text()) if path.is_file() else {}
        self.content: dict[str, Any] = {key: known.get(key, {}) for key in ('trainings', 'counts', 'costs', 'onnx')}

    def save(self) -> None:
        with whole_file(self.path) as unfinished:
            Path(unfinished).write_text(json.dumps(self.content, indent=1) + '\n')

    def of_training(self, training: Run) -> dict[str, Any]:
        return self.content['trainings'].setdefault(training.comparison, dict(on=[], miou={}, observed={}))

    def has(self, training: Run, observes: bool) -> bool:
        """Whether nothing is to be learned from a training, which may have been on another machine.

        Args:
            training: The training.
            observes: Whether what its mixer does is to be observed too, which needs the checkpoint of seed 0.
        """
        entry = self.of_training(training)
        observed = not observes or training.seed > 0 or training.mixer in entry['observed']
        return observed and str(training.seed) in entry['miou'].get(training.mixer, {})

    def forget(self, mixers: list[str]) -> None:
        """Forgets all that is known of some mixers."""
        content = self.content
        trainings = [part for each in content['trainings'].values() for part in (each['miou'], each['observed'])]
        costs = [each['mixers'] for each in content['costs'].values()]
        for part in (*trainings, *costs, content['counts'], content['onnx']):
            for mixer in mixers:
                part.pop(mixer, None)

    def add_results(self, runs: list[Run]) -> None:
        """Adds what the trainings reached, as far as they are done."""
        for each in runs:
            if (miou := each.result()) is not None:
                entry = self.of_training(each)
                if each.where() not in entry['on']:
                    entry['on'].append(each.where())
                entry['miou'].setdefault(each.mixer, {})[str(each.seed)] = miou
        self.save()

    def time(self, mixers: list[str], seconds: float) -> None:
        """Times mixers, if some are not known, with all others that are: only times of one run can be compared."""
        known = self.content['costs'].get(device(), {}).get('mixers', {})
        if missing := [mixer for mixer in mixers if mixer not in known]:
            together = [*(mixer for mixer in known if mixer in known_mixers()), *missing]
            costs = measure(together, device(), seconds)
            self.content['costs'][device()] = dict(environment=environment(device()), mixers=costs)
            self.save()

    def fill(self, known: dict[str, Any], missing: dict[str, Callable[[], Any]], name: str) -> None:
        """Computes what is not known yet."""
        with counting_bar(name, len(known), len(known | missing)) as advance:
            for mixer, compute in missing.items():
                if mixer not in known:
                    known[mixer] = compute()
                    self.save()
                    advance(1)


if __name__ == '__main__':
    run(main)
