#!/usr/bin/env python
"""Writes a config that inherits another one and has ATMNet as its backbone, and says what changed and why."""

import argparse
import shutil
import textwrap
from itertools import groupby
from pathlib import Path
from typing import Any

from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.models import ATMNet
from mmatm.swap import Swap, base_name, swap_backbone, swapped_text
from mmatm.swap.model_check import ModelCheckError, check_model
from mmatm.utils.command_line import run

SIZES = [*ATMNet.SIZES, *ATMNet.ALIASES]


def account(swap: Swap) -> str:
    """What the user has to know, and what changed, with the reason below the changes that have it in common."""
    lines = [f'note: {note}' for note in swap.notes]
    for why, changes in groupby(swap.changes, lambda change: change.why):
        lines += [f'{change.name}: {brief(change.old)} -> {brief(change.new)}' for change in changes]
        lines.append(f'    {why}')
    columns = shutil.get_terminal_size((120, 24)).columns
    return '\n'.join(textwrap.fill(line, columns, subsequent_indent=' ' * 6) for line in lines)


def brief(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, dict):
        return value.get('type') or f'{len(value)} entries'
    words = str(value)
    return words if len(words) <= 60 else f'{words[:57]}...'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a file, or a config of an installed toolbox, as mmdet::retinanet/NAME.py')
    parser.add_argument('--arch', default='t', choices=SIZES, metavar='SIZE', help=f'one of {", ".join(SIZES)}')
    parser.add_argument('--weights', metavar='FILE', help='the ImageNet weights to start from')
    parser.add_argument('--out', metavar='FILE', help='by default the name of CONFIG with _atmnet_SIZE, here')
    parser.add_argument('--check', action='store_true', help='build the model and run it on dummy inputs, on CPU')
    args = parser.parse_args()

    out = Path(args.out or f'{Path(args.config).stem}_atmnet_{args.arch}.py')
    if out.suffix != '.py':
        raise InputError(f'{out} is to be a config: give it the ending .py')
    if not out.parent.is_dir():
        raise InputError(f'there is no folder {out.parent} to write {out.name} into')
    swap = swap_backbone(args.config, args.arch, args.weights)
    text = swapped_text(swap, base_name(args.config, swap.cfg, out.parent))
    if out.exists() and out.read_text() != text:
        raise InputError(f'{out} is there already, with something else in it; name another file with --out')
    out.write_text(text)
    verdict = None
    try:
        if args.check:
            verdict = check_model(load_config(str(out)))
    except ModelCheckError as error:
        raise InputError(f'{out} was written, but the model fails at {error}') from error
    finally:  # below what the model's parts had to say
        print(account(swap), f'wrote {out}', sep='\n')
    if verdict:
        print(verdict)


if __name__ == '__main__':
    run(main)
