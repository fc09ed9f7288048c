#!/usr/bin/env python
"""Writes the papers' tables beside what this project counts and measures: docs/results.md, docs/results.json and the
metafiles of the configs. Results of tests are read from the work_dirs; --run runs the tests first."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from mmatm.analysis.metafile import metafile
from mmatm.analysis.papers import by_paper, count_all, find_checkpoint, missing, own_rows, read_streets, read_tables
from mmatm.analysis.results import merge_results, read_results
from mmatm.analysis.tables import record, render
from mmatm.errors import InputError
from mmatm.utils.command_line import run

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--run', action='store_true', help='first test every config that has weights')
    parser.add_argument('--gpus', type=int, default=1, help='processes of each test; more than one by dist_test.sh')
    parser.add_argument(
        '--work-dirs', type=Path, default=ROOT / 'work_dirs', help='directory of the work_dirs; by default %(default)s'
    )
    parser.add_argument(
        '--checkpoints',
        type=Path,
        default=ROOT / 'checkpoints',
        help='directory of CONFIG_NAME.pth; by default %(default)s',
    )
    parser.add_argument(
        '--count',
        nargs='*',
        metavar='WORD',
        help='count only configs with one of these words in their names, and those without counts in '
        'docs/results.json; by default all are counted, which takes minutes',
    )
    parser.add_argument(
        '--out', type=Path, default=ROOT, help='directory to write docs/ and configs/ into; by default %(default)s'
    )
    args = parser.parse_args()
    args.work_dirs, args.checkpoints, args.out = (
        path.absolute() for path in (args.work_dirs, args.checkpoints, args.out)
    )
    os.chdir(ROOT)  # where the configs look for data

    tables, streets = read_tables(ROOT / 'docs'), read_streets(ROOT / 'docs')
    failed = test_all(tables, args) if args.run else []
    known = json.loads((ROOT / 'docs/results.json').read_text())
    results = merge_results(known['results'], read_results(args.work_dirs))
    kept = set() if args.count is None else {n for n in known['counts'] if not any(word in n for word in args.count)}
    counts = count_all(tables, {name: known['counts'][name] for name in kept})
    texts = {
        'docs/results.json': json.dumps(record(tables, counts, results), indent=1) + '\n',
        'docs/results.md': render(tables, streets, counts, results),
        **{f'{paper["configs"]}/metafile.yml': metafile(own, counts) for paper, own in by_paper(tables)},
    }
    for name, text in texts.items():
        (args.out / name).parent.mkdir(parents=True, exist_ok=True)
        (args.out / name).write_text(text)
    print(f'written into {args.out}: {", ".join(texts)}')
    lines = missing(tables, args.checkpoints, args.work_dirs)
    if lines:
        print('some rows are not measured, because these are missing:', *lines, sep='\n  ')
    if failed:
        raise InputError('\n  '.join(['these tests failed, see above:', *failed]))


def test_all(tables: list[dict], args: argparse.Namespace) -> list[str]:
    """Tests every config of the tables with weights, and returns the commands that failed."""
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
