#!/usr/bin/env python
"""Writes a config that inherits another one and has ATMNet as its backbone, and says what changed and why."""

import argparse
import os
from pathlib import Path

from mmatm.archs import ARCHS
from mmatm.command_line import run
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.model_check import check_model
from mmatm.swap import swap_backbone, swapped_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a file, or a config of an installed toolbox, as mmdet::retinanet/NAME.py')
    parser.add_argument('--arch', default='t', choices=list(ARCHS), metavar='SIZE', help=f'one of {", ".join(ARCHS)}')
    parser.add_argument('--weights', metavar='FILE', help='the ImageNet weights to start from')
    parser.add_argument('--out', metavar='FILE', help='by default the name of CONFIG with _atmnet_SIZE, here')
    parser.add_argument('--check', action='store_true', help='build the model and run it on made-up pictures, on CPU')
    args = parser.parse_args()

    out = Path(args.out or f'{Path(args.config).stem}_atmnet_{args.arch}.py')
    swap = swap_backbone(args.config, args.arch, args.weights)
    base = args.config if '::' in args.config else os.path.relpath(args.config, out.parent)
    text = swapped_text(swap, base)
    if out.exists() and out.read_text() != text:
        raise InputError(f'{out} is there already, with something else in it; name another file with --out')
    out.write_text(text)
    for change in swap.changes:
        print(f'{change.name}: {change.old} -> {change.new}\n    {change.why}')
    for note in swap.notes:
        print(f'note: {note}')
    print(f'wrote {out}')
    if args.check:
        print(check_model(load_config(str(out))))


if __name__ == '__main__':
    run(main)
