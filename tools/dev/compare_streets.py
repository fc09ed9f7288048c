#!/usr/bin/env python
"""Trains and tests four backbones under UperNet with one recipe, from scratch, on the street scenes in data/streets.
tools/reproduce_tables.py lays the results side by side."""

import argparse
from functools import partial
from pathlib import Path

from mmatm.analysis.papers import read_streets
from mmatm.comparison.processes import ROOT, run_all, run_tool
from mmatm.errors import InputError
from mmatm.utils.command_line import run
from mmatm.utils.counting_bar import counting_bar


def main() -> None:
    names = read_streets(ROOT / 'docs')['configs']
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--configs', nargs='+', choices=names, default=names, metavar='NAME', help='only these, of ' + ', '.join(names)
    )
    parser.add_argument(
        '--seeds', type=int, default=3, help='number of trainings of each backbone; by default %(default)s'
    )
    parser.add_argument('--jobs', type=int, default=1, help='number of trainings at once; by default %(default)s')
    parser.add_argument('--work-dirs', type=Path, help='directory for the work_dirs; by default work_dirs')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for a trial, as of train.py')
    args = parser.parse_args()
    if args.cfg_options and not args.work_dirs:
        raise InputError(
            '--cfg-options needs another directory, --work-dirs: trainings in work_dirs would be resumed with them'
        )
    work_dirs = args.work_dirs or ROOT / 'work_dirs'
    tasks = [
        partial(train_and_test, name, seed, work_dirs / f'{name}_seed{seed}', args.cfg_options)
        for seed in range(args.seeds)
        for name in dict.fromkeys(args.configs)
    ]
    with counting_bar('trained and tested', 0, len(tasks)) as done:
        run_all(tasks, args.jobs, done)


def train_and_test(name: str, seed: int, work_dir: Path, options: list[str], threads: int) -> None:
    if any(work_dir.glob('result_iter_*.json')):  # the checkpoint need not be kept
        return
    config, log = str(ROOT / f'configs/{name}.py'), work_dir / 'output.txt'
    common = ['--work-dir', str(work_dir), '--cfg-options', *options, f'+randomness.seed={seed}']
    # A training that was interrupted is resumed.
    run_tool(log, threads, 'train.py', config, '--resume', *common)
    run_tool(log, threads, 'test.py', config, (work_dir / 'last_checkpoint').read_text(), *common)
    print(f'{name} with seed {seed}: {log.parent}', flush=True)


if __name__ == '__main__':
    run(main)
