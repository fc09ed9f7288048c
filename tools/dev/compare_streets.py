#!/usr/bin/env python
"""Trains and tests four backbones under UperNet with one recipe, from scratch, on the street scenes in data/streets.
tools/reproduce_tables.py lays the results side by side."""

import argparse
import subprocess
import sys
from pathlib import Path

from mmatm.analysis.papers import read_streets
from mmatm.errors import InputError
from mmatm.utils.command_line import run

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--seeds', type=int, default=3, help='number of trainings of each backbone; by default %(default)s'
    )
    parser.add_argument('--work-dirs', type=Path, help='directory for the work_dirs; by default work_dirs')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for a trial, as of train.py')
    args = parser.parse_args()
    if args.cfg_options and not args.work_dirs:
        raise InputError(
            '--cfg-options needs another directory, --work-dirs: trainings in work_dirs would be resumed with them'
        )
    work_dirs = args.work_dirs or ROOT / 'work_dirs'
    for seed in range(args.seeds):
        for name in read_streets(ROOT / 'docs')['configs']:
            config, work_dir = str(ROOT / f'configs/{name}.py'), work_dirs / f'{name}_seed{seed}'
            common = ['--work-dir', str(work_dir), '--cfg-options', *args.cfg_options, f'+randomness.seed={seed}']
            # A training that was interrupted is resumed.
            call('train.py', config, '--resume', *common)
            call('test.py', config, (work_dir / 'last_checkpoint').read_text(), *common)


def call(tool: str, *arguments: str) -> None:
    if subprocess.run([sys.executable, str(ROOT / 'tools' / tool), *arguments], check=False).returncode:
        raise InputError(f'{tool} failed, see above')


if __name__ == '__main__':
    run(main)
