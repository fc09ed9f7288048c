#!/usr/bin/env python
"""Fetches published weights into checkpoints/, where the configs look for them."""

import argparse
import sys
from pathlib import Path

from mmatm.apis.fetch_weights import fetch_weights, list_weights
from mmatm.errors import InputError
from mmatm.utils.command_line import run

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', metavar='NAME', help='a config, such as atmnet_t_in1k')
    parser.add_argument('--list', action='store_true', help='only list the published weights and those already here')
    args = parser.parse_args()
    if bool(args.names) == args.list:
        raise InputError('give either names of configs or --list')
    if args.list:
        print(*list_weights(), sep='\n')
        return

    failed = []
    for name in dict.fromkeys(args.names):
        try:
            print(fetch_weights(name, ROOT / 'configs'), flush=True)
        except InputError as error:
            print(f'{name}: {error}', file=sys.stderr, flush=True)
            failed.append(name)
    if failed:
        raise InputError(f'these could not be fetched, see above: {" ".join(failed)}')


if __name__ == '__main__':
    run(main)
