"""What the commands in tools/ share."""

import argparse
import hashlib
import os
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from mmengine.config import Config, DictAction

from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.utils.config_errors import config_of, explain
from mmatm.utils.files import first_to_do
from mmatm.utils.quiet import silence

silence()  # here, as worker processes that are spawned import the command again


def config_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments that every command on a config has; `load_config` takes them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='a file, or a config of an installed toolbox such as mmseg::upernet/NAME.py')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change entries of the config; +KEY=VALUE adds one. Write lists as KEY="[a,b]" and entries of lists as '
        'KEY.0.NAME',
    )
    return parser


def runner_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments of every command that runs a config's model; `read_config` takes them."""
    parser = config_parser(description)
    parser.add_argument('--work-dir', help='directory for logs and checkpoints; by default work_dirs/CONFIG_NAME')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed run; by default %(default)s',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def read_config(args: argparse.Namespace) -> Config:
    """The config that the arguments of `runner_parser` ask for."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options)
    if cfg.get('runner_type', 'mmatm.Runner') not in ('Runner', 'mmatm.Runner'):
        raise InputError(f'runner_type={cfg.runner_type} is not supported here; use the toolbox of the config')
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def run(main: Callable[[], None]) -> None:
    """Runs a command; errors that the user can fix are printed as one message, without a traceback.

    Each of several processes prints its own, unless another one on its node has printed the same. They know of each
    other by the folder `MMATM_SAID`, which tools/dist_*.sh and tools/slurm_*.sh set; without it all print theirs.
    """
    try:
        main()
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        if int(os.environ.get('WORLD_SIZE', '1')) == 1:
            sys.exit(f'error: {message}')
        rank, node, said = os.environ.get('RANK', '?'), socket.gethostname(), os.environ.get('MMATM_SAID')
        note = said and Path(said) / hashlib.sha256(message.encode()).hexdigest()
        with first_to_do(note) if note else nullcontext(True) as first:
            if first:
                # Before the end of the block: a launcher ends all processes as soon as one has ended.
                print(f'error in process {rank} on {node}: {message}', file=sys.stderr, flush=True)
        sys.exit(1)


def _message(error: Exception) -> str | None:
    """The message for the user, or None for errors that need a traceback."""
    cause = error.__cause__ if isinstance(error, InputError) else error
    cfg = config_of(error)
    explanation = explain(cause, cfg) if cause is not None and cfg is not None else None
    return '\n'.join(filter(None, (str(error) if isinstance(error, InputError) else None, explanation))) or None
