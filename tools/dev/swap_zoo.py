#!/usr/bin/env python
"""Swaps the backbone of every config of the installed mmdet and mmsegmentation, runs the models, and writes
docs/swap_zoo.md and docs/swap_zoo.csv. Takes most of an hour on 2 cores; goes on where it was stopped."""

import argparse
import fnmatch
import time
from pathlib import Path

from mmatm.errors import InputError
from mmatm.swap.zoo import TOOLBOXES, environment, examine_all, leaf_configs, render, write_csv
from mmatm.utils.command_line import run

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--only', nargs='+', metavar='PATTERN', help='such as "mmseg::pspnet/*"; writes no docs')
    parser.add_argument('--jobs', type=int, default=2, help='processes, of one thread each')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/swap_zoo', help='where outcomes are kept')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs', help='where swap_zoo.md and swap_zoo.csv go')
    args = parser.parse_args()

    names = [name for toolbox in TOOLBOXES for name in leaf_configs(toolbox)]
    if args.only:
        names = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in args.only)]
    if not names:
        raise InputError(f'no config of {" or ".join(TOOLBOXES)} is called {" or ".join(args.only)}')
    outcomes, start = [], time.monotonic()
    for outcome in examine_all(names, args.work_dir, args.jobs):
        outcomes.append(outcome)
        words = f'{outcome.outcome}: {outcome.reason}' if outcome.reason else outcome.outcome
        seconds = time.monotonic() - start
        print(f'{len(outcomes)} of {len(names)}, {seconds:.0f} s: {outcome.config} {words}', flush=True)
    if not args.only:
        write_csv(outcomes, args.out / 'swap_zoo.csv')
        (args.out / 'swap_zoo.md').write_text(render(outcomes, environment()))
        print(f'written: {args.out}/swap_zoo.md, swap_zoo.csv')


if __name__ == '__main__':
    run(main)
