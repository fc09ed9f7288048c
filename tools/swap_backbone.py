#!/usr/bin/env python
"""Writes a config that inherits another one but has another backbone, and prints what changed and why."""

import argparse
import shutil
import textwrap
from itertools import groupby
from pathlib import Path
from typing import Any

from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.models import DEFAULT_BACKBONE, backbones
from mmatm.swap import Swap, base_name, swap_backbone, swapped_text
from mmatm.swap.model_check import ModelCheckError, check_model
from mmatm.utils.command_line import run


def account(swap: Swap) -> str:
    """The notes for the user, then the changes, each group followed by its common reason."""
    lines = [f'note: {note}' for note in swap.notes]
    for why, changes in groupby(swap.changes, lambda change: change.why):
        lines += [f'{change.name}: {brief(change.old)} -> {brief(change.new)}' for change in changes]
        lines.append(f'    {why}')
    columns = shutil.get_terminal_size((120, 24)).columns
    return '\n'.join(textwrap.fill(line, columns, subsequent_indent=' ' * 6) for line in lines)


def brief(value: Any) -> str:
    """A value in a few words; a dict without a type by its keys."""
    if isinstance(value, dict) and 'type' in value:
        return value['type']
    words = f'a dict of {", ".join(map(str, value)) or "nothing"}' if isinstance(value, dict) else str(value)
    return words if len(words) <= 60 else f'{words[:57]}...'


def main() -> None:
    sizes = '; '.join(f'{name} {", ".join([*kind.SIZES, *kind.ALIASES])}' for name, kind in backbones().items())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a file, or a config of an installed toolbox such as mmdet::retinanet/NAME.py')
    parser.add_argument(
        '--backbone',
        default=DEFAULT_BACKBONE,
        metavar='TYPE',
        help=f'the new backbone, by default {DEFAULT_BACKBONE}; your own by its name in a registry',
    )
    parser.add_argument('--arch', metavar='SIZE', help=f'size of the backbone; by default its own default; {sizes}')
    parser.add_argument('--weights', metavar='FILE', help='the pretrained weights (ImageNet) of the new backbone')
    parser.add_argument(
        '--out', metavar='FILE', help='the config to write; by default CONFIG_BACKBONE_SIZE.py in this directory'
    )
    parser.add_argument('--check', action='store_true', help='build the model and run it on dummy inputs, on CPU')
    args = parser.parse_args()

    out = args.out and Path(args.out)
    if out and out.suffix != '.py':
        raise InputError(f'--out {out} must end in .py, as it is a config')
    if out and not out.parent.is_dir():
        raise InputError(f'there is no folder {out.parent} to write {out.name} into')
    swap = swap_backbone(args.config, args.arch, args.weights, args.backbone)
    size = swap.arch if isinstance(swap.arch, str) else 'custom'
    out = out or Path(f'{Path(args.config).stem}_{swap.name.lower()}_{size}.py')
    text = swapped_text(swap, base_name(args.config, swap.cfg, out.parent))
    if out.exists() and out.read_text() != text:
        raise InputError(f'{out} exists already with other contents; name another file with --out')
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
