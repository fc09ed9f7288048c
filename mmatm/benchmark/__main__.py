"""Measures ATMNet beside its DeformConv baseline and its peers: a table on the terminal, and everything as JSON."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmatm.utils.environment import environment

from .measure import peak_memory, precision, profile, time_all
from .problems import LEVELS, Problem, prepare, problems
from .report import markdown, ratios, split_docs, update_docs

SIZES = ('xt', 't', 's', 'b', 'l')
_TYPES = {'none': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def main(arguments: list[str] | None = None) -> None:
    """The command; `arguments` are those of the command line unless given."""
    args = parse(arguments)
    report = dict(
        environment=environment(args.device),
        settings=dict(device=args.device, autocast=args.autocast, compile=args.compile),
        results=[],
        precision=precision(args.device) if 'precision' in args.levels else [],
        profiles={},
    )
    for problem in problems([level for level in LEVELS if level in args.levels], args.archs, args.device):
        entry = measure(problem, args)
        report['results'].append(entry)
        figures = ', '.join(f'{way} {figures["median_ms"]:.2f} ms' for way, figures in entry['ways'].items())
        print(f'{problem}: {figures}', file=sys.stderr, flush=True)
    report['ratios'] = ratios(report['results'])
    if 'profile' in args.levels and args.device == 'cpu':
        for training in (False, True):
            problem = Problem('backbone', 't', 1, 512, 512, training)
            run = prepare(problem, 'mmatm', args.device, _TYPES[args.autocast], args.compile)
            report['profiles'][str(problem)] = profile(run)

    text = markdown(report)
    print(text)
    out = args.docs / f'benchmarks_{args.name}.json' if args.docs else args.out / f'benchmark_{args.name}.json'
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + '\n')
    print(f'written: {out}')
    if args.docs:
        update_docs(args.docs / 'benchmarks.md', args.name, text)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = argparse.ArgumentParser(prog='python -m mmatm.benchmark', description=__doc__)
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    levels = (*LEVELS, 'precision', 'profile')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default=default, help='default: %(default)s')
    parser.add_argument('--levels', nargs='+', choices=levels, default=levels, help='what to measure; default: all')
    parser.add_argument('--archs', nargs='+', choices=SIZES, default=SIZES, help='sizes; default: all')
    parser.add_argument('--autocast', choices=_TYPES, help='default: none on the CPU, bf16 on a GPU')
    parser.add_argument('--compile', action='store_true', help='all ways through torch.compile')
    parser.add_argument('--seconds', type=float, default=20.0, help='for each problem, all ways; default: %(default)s')
    parser.add_argument('--out', type=Path, default=Path('work_dirs'), help='folder of the JSON; default: %(default)s')
    parser.add_argument('--docs', type=Path, help='write into benchmarks.md of this folder, and the JSON beside it')
    args = parser.parse_args(arguments)
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('there is no GPU that PyTorch can use; leave --device out to measure the CPU')
    usual = 'bf16' if args.device == 'cuda' else 'none'
    args.autocast = args.autocast or usual
    args.name = '-'.join(
        [args.device, *([] if args.autocast == usual else [args.autocast]), *(['compiled'] if args.compile else [])]
    )
    if args.docs:
        try:
            split_docs(args.docs / 'benchmarks.md', args.name)
        except (OSError, ValueError) as error:
            parser.error(f'--docs: {error}')
    return args


def measure(problem: Problem, args: argparse.Namespace) -> dict[str, Any]:
    """One problem in all its ways, with the problem's own description."""
    conditions = args.device, _TYPES[args.autocast], args.compile
    runs = {way: prepare(problem, way, *conditions) for way in problem.ways}
    figures = time_all(runs, args.seconds, args.device)
    if problem.level == 'backbone' and problem.training:
        runs.clear()
        for way in problem.ways:
            figures[way]['peak_mib'] = peak_memory(args.device, prepare, problem, way, *conditions)
    return dict(asdict(problem), name=str(problem), ways=figures)


if __name__ == '__main__':
    main()
