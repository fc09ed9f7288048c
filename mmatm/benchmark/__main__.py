"""Measures backbones beside their peers, and ATMNet's operation and mixer beside the DeformConv baseline: tables on the
terminal, and everything as JSON."""

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmatm.errors import InputError
from mmatm.models import ATMNet, backbone_class, backbones
from mmatm.utils.environment import environment

from .measure import peak_memory, precision, profile, time_all
from .problems import ATMNET, BASELINES, LEVELS, Problem, prepare, problems
from .report import markdown, ratios, split_docs, update_docs

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
    levels = [level for level in LEVELS if level in args.levels]
    todo = problems(levels, args.networks, args.device, args.sizes, args.peers, args.ways)
    minutes = len(todo) * args.seconds / 60
    print(
        f'{len(todo)} problems of {args.seconds:g} s, and more where that is too short for 5 runs: at least '
        f'{minutes:.0f} minutes',
        file=sys.stderr,
        flush=True,
    )
    interrupted = False
    try:
        for problem in todo:
            entry = measure(problem, args)
            report['results'].append(entry)
            figures = ', '.join(f'{way} {figures["median_ms"]:.2f} ms' for way, figures in entry['ways'].items())
            print(f'{problem}: {figures}', file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        interrupted = True
    report['ratios'] = ratios(report['results'])
    if 'profile' in args.levels and args.device == 'cpu' and not interrupted:
        for kind, arch in args.profiled:
            for training in (False, True):
                problem = Problem('backbone', arch, 1, 512, 512, training, backbone=kind)
                run = prepare(problem, 'mmatm', args.device, _TYPES[args.autocast], args.compile)
                report['profiles'][str(problem)] = profile(run)

    print(markdown(report))
    # What is not whole does not go into the docs.
    docs = None if interrupted else args.docs
    out = docs / f'benchmarks_{args.name}.json' if docs else args.out / f'benchmark_{args.name}.json'
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + '\n')
    print(f'written: {out}')
    if docs:
        print(f'written: {", ".join(map(str, write_page(report, docs, args.name)))}')
    if interrupted:
        sys.exit(f'interrupted after {len(report["results"])} of {len(todo)} problems')


def write_page(report: dict[str, Any], docs: Path, name: str) -> list[Path]:
    """Puts a report's tables into benchmarks.md, and its chart beside it if whole backbones were measured.

    Returns:
        The files that were written.
    """
    page, chart = docs / 'benchmarks.md', docs / f'benchmarks_{name}.svg'
    drawn = any(entry['level'] == 'backbone' for entry in report['results'])
    if drawn:
        from .chart import draw  # Matplotlib is needed for nothing else

        draw(report, chart)
    update_docs(page, name, markdown(report, chart.name if drawn else None))
    return [page, chart] if drawn else [page]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = argparse.ArgumentParser(prog='python -m mmatm.benchmark', description=__doc__)
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    levels = (*LEVELS, 'precision', 'profile')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default=default, help='default: %(default)s')
    parser.add_argument(
        '--levels', nargs='+', choices=levels, help='what to measure; default: all, backbone with --networks'
    )
    parser.add_argument(
        '--networks',
        nargs='+',
        metavar='TYPE:SIZE',
        help='backbones, as mmatm.CASViT:s mmatm.RIFormer:s12; default: all sizes of ATMNet, with what it is made of',
    )
    parser.add_argument(
        '--sizes', nargs='+', default=[], metavar='BxHxW', help='images for whole backbones, as 800x1344 or 2x512x512'
    )
    parser.add_argument(
        '--ways', nargs='+', default=[], help="what to measure beside mmatm's own, as 'Swin-T'; default: everything"
    )
    parser.add_argument('--no-peers', dest='peers', action='store_false', help="leave out the toolboxes' backbones")
    parser.add_argument('--autocast', choices=_TYPES, help='default: none on the CPU, bf16 on a GPU')
    parser.add_argument('--compile', action='store_true', help='compile everything with torch.compile')
    parser.add_argument(
        '--seconds', type=float, default=20.0, help='time for each problem, all ways together; default: %(default)s'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs'), help='output directory of the JSON; default: %(default)s'
    )
    parser.add_argument(
        '--docs', type=Path, help='write into benchmarks.md in this directory, JSON and chart beside it'
    )
    args = parser.parse_args(arguments)
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('there is no GPU that PyTorch can use; leave --device out to measure the CPU')
    args.profiled = [(ATMNET, 't')]
    chosen = ['backbones'] if args.networks else []
    known = {way for each in problems(LEVELS, [(kind, '') for kind in BASELINES], args.device) for way in each.ways}
    if unknown := sorted(set(args.ways) - known):
        parser.error(f'--ways: there is no {", ".join(unknown)}; there are {", ".join(sorted(known))}')
    if args.networks:
        args.levels = args.levels or ('backbone',)
        if not {'backbone', 'profile'} & set(args.levels):
            parser.error('--networks are measured at the levels backbone and profile; add one of them to --levels')
        try:
            args.networks = args.profiled = [_backbone(entry) for entry in args.networks]
        except InputError as error:
            parser.error(f'--networks: {error}')
    else:
        args.levels = args.levels or levels
        args.networks = [(ATMNET, arch) for arch in ATMNet.SIZES]
    usual = 'bf16' if args.device == 'cuda' else 'none'
    args.autocast = args.autocast or usual
    args.name = '-'.join(
        [args.device, *([] if args.autocast == usual else [args.autocast]), *(['compiled'] if args.compile else [])]
        + chosen
        + [size.removeprefix('1x') if size.count('x') == 2 else size for size in args.sizes]
    )
    for size in args.sizes:
        if not re.fullmatch(r'([1-9]\d*x)?[1-9]\d*x[1-9]\d*', size):
            parser.error(f'--sizes: {size} is not of the form BxHxW or HxW, as 2x800x1344')
    args.sizes = [(1, *map(int, size.split('x')))[-3:] for size in args.sizes]
    if args.docs:
        try:
            split_docs(args.docs / 'benchmarks.md', args.name)
        except (OSError, ValueError) as error:
            parser.error(f'--docs: {error}')
    return args


def _backbone(entry: str) -> tuple[str, str]:
    """The type and the size that an argument names.

    Raises:
        InputError: There is no such backbone.
    """
    kind, _, arch = entry.partition(':')
    found = backbone_class(kind)
    if found is None:
        known = ', '.join(f'mmatm.{name}' for name in backbones())
        raise InputError(f'{kind} is not a backbone of mmatm or a subclass of mmatm.models.Backbone; there are {known}')
    if found.short_name(arch) is None:
        sizes = ', '.join(f'{kind}:{size}' for size in found.SIZES)
        raise InputError(f'{entry} has no size of {found.TITLE}; there are {sizes}')
    return kind, found.short_name(arch)


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
