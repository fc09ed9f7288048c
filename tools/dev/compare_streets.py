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
    parser.add_argument('--seeds', type=int, default=3, help='trainings of each backbone')
    parser.add_argument('--work-dirs', type=Path)
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for a trial: see train.py')
    args = parser.parse_args()
    if args.cfg_options and not args.work_dirs:
        raise InputError(
            'with --cfg-options name another folder with --work-dirs: what is in work_dirs is gone on with'
        )
    work_dirs = args.work_dirs or ROOT / 'work_dirs'
    for seed in range(args.seeds):
        for name in read_streets(ROOT / 'docs')['configs']:
            config, work_dir = str(ROOT / f'configs/{name}.py'), work_dirs / f'{name}_seed{seed}'
            common = ['--work-dir', str(work_dir), '--cfg-options', *args.cfg_options, f'+randomness.seed={seed}']
            # What was interrupted goes on.
            call('train.py', config, '--resume', *common)
            call('test.py', config, (work_dir / 'last_checkpoint').read_text(), *common)


def call(tool: str, *arguments: str) -> None:
    if subprocess.run([sys.executable, str(ROOT / 'tools' / tool), *arguments], check=False).returncode:
        raise InputError(f'{tool} failed, see above')


if __name__ == '__main__':
    run(main)
