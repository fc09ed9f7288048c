#!/usr/bin/env python
"""Writes the paper's tables beside what this project counts and measures: docs/results.md, docs/results.json and
configs/metafile.yml. Results of tests are taken from the work_dirs; --run makes them."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from mmatm.analysis.results import read_results
from mmatm.analysis.tables import (
    count_all,
    find_checkpoint,
    merge_results,
    metafile,
    missing,
    own_rows,
    read_tables,
    record,
    render,
)
from mmatm.errors import InputError
from mmatm.utils.command_line import run

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--run', action='store_true', help='first test every config that has weights')
    parser.add_argument('--gpus', type=int, default=1, help='processes of a test, through dist_test.sh')
    parser.add_argument('--work-dirs', type=Path, default=ROOT / 'work_dirs')
    parser.add_argument('--checkpoints', type=Path, default=ROOT / 'checkpoints', help='folder of CONFIG_NAME.pth')
    parser.add_argument('--out', type=Path, default=ROOT, help='folder to write docs/ and configs/metafile.yml into')
    args = parser.parse_args()
    args.work_dirs, args.checkpoints, args.out = (
        path.absolute() for path in (args.work_dirs, args.checkpoints, args.out)
    )
    os.chdir(ROOT)  # where the configs look for data

    tables = read_tables(ROOT / 'docs/paper_tables.yml')
    failed = test_all(tables, args) if args.run else []
    known = json.loads((ROOT / 'docs/results.json').read_text())['results']
    results = merge_results(known, read_results(args.work_dirs))
    for folder in ('docs', 'configs'):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    counts = count_all(tables)
    (args.out / 'docs/results.json').write_text(json.dumps(record(tables, counts, results), indent=1) + '\n')
    (args.out / 'docs/results.md').write_text(render(tables, counts, results))
    (args.out / 'configs/metafile.yml').write_text(metafile(tables, counts))
    print(f'written: {args.out}/docs/results.md, docs/results.json, configs/metafile.yml')
    lines = missing(tables, args.checkpoints, args.work_dirs)
    if lines:
        print('not measured for want of:', *lines, sep='\n  ')
    if failed:
        raise InputError('\n  '.join(['these tests failed, see above:', *failed]))


def test_all(tables: list[dict], args: argparse.Namespace) -> list[str]:
    """Tests every config of ATMNet with weights, and returns the commands that failed."""
    failed = []
    for table, row, path in own_rows(tables):
        checkpoint = find_checkpoint(row['config'], args.checkpoints, args.work_dirs)
        if checkpoint is None:
            continue
        work_dir = ['--work-dir', str(args.work_dirs / row['config'])]
        for tta in [[], ['--tta']] if any(key.endswith('_ms') for key in table['metrics']) else [[]]:
            single = [sys.executable, str(ROOT / 'tools/test.py'), path, checkpoint]
            several = [str(ROOT / 'tools/dist_test.sh'), path, checkpoint, str(args.gpus)]
            command = [*(several if args.gpus > 1 else single), *work_dir, *tta]
            print('testing:', *command, flush=True)
            env = {**os.environ, 'PYTHON': sys.executable}  # of dist_test.sh
            if subprocess.run(command, check=False, env=env).returncode:
                failed.append(' '.join(command))
    return failed


if __name__ == '__main__':
    run(main)
