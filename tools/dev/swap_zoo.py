#!/usr/bin/env python
"""Swaps the backbone of every config of the installed mmdet and mmsegmentation, runs the models, and writes
swap_zoo.md and swap_zoo.csv. Takes most of an hour on 2 cores; resumes where it was stopped."""

import argparse
import fnmatch
import time
from pathlib import Path

from mmatm.errors import InputError
from mmatm.models import DEFAULT_BACKBONE, backbone_class
from mmatm.swap.zoo import TOOLBOXES, environment, examine_all, leaf_configs, render, write_csv
from mmatm.utils.command_line import run

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--backbone', default=DEFAULT_BACKBONE, metavar='TYPE', help='the new one; by default %(default)s'
    )
    parser.add_argument('--arch', metavar='SIZE', help='its size; by default the first, which is the smallest')
    parser.add_argument(
        '--only', nargs='+', metavar='PATTERN', help='only configs such as "mmseg::pspnet/*"; writes no tables'
    )
    parser.add_argument('--jobs', type=int, default=2, help='processes, of one thread each')
    parser.add_argument(
        '--work-dir', type=Path, help='directory for the outcomes; by default work_dirs/swap_zoo/BACKBONE_SIZE'
    )
    parser.add_argument(
        '--out',
        type=Path,
        help=f'output directory of the tables; by default docs/ for {DEFAULT_BACKBONE}, else the work_dir',
    )
    args = parser.parse_args()

    kind = backbone_class(args.backbone)
    if kind is None:
        raise InputError(f'{args.backbone} is not a registered subclass of mmatm.models.Backbone')
    arch = args.arch or next(iter(kind.SIZES))
    kind.resolve_arch(arch)
    work_dir = args.work_dir or ROOT / 'work_dirs/swap_zoo' / f'{kind.__name__.lower()}_{arch}'
    out = args.out or (ROOT / 'docs' if args.backbone == DEFAULT_BACKBONE else work_dir)
    names = [name for toolbox in TOOLBOXES for name in leaf_configs(toolbox)]
    if args.only:
        names = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in args.only)]
    if not names:
        raise InputError(f'no config of {" or ".join(TOOLBOXES)} is called {" or ".join(args.only)}')
    outcomes, start = [], time.monotonic()
    for outcome in examine_all(names, args.backbone, arch, work_dir, args.jobs):
        outcomes.append(outcome)
        words = f'{outcome.outcome}: {outcome.reason}' if outcome.reason else outcome.outcome
        seconds = time.monotonic() - start
        print(f'{len(outcomes)} of {len(names)}, {seconds:.0f} s: {outcome.config} {words}', flush=True)
    if not args.only:
        write_csv(outcomes, out / 'swap_zoo.csv')
        (out / 'swap_zoo.md').write_text(render(outcomes, kind, arch, environment()))
        print(f'written: {out}/swap_zoo.md, swap_zoo.csv')


if __name__ == '__main__':
    run(main)
