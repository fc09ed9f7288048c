#!/usr/bin/env python
"""Trains the detector, segmentor or classifier of a config."""

from functools import partial

from mmatm.checkpoint import checkpoint_to_resume
from mmatm.datasets.missing_data import require_data
from mmatm.engine.checkpoint_hook import explain_full_disk
from mmatm.engine.curves import add_tensorboard
from mmatm.engine.runner import Runner
from mmatm.errors import InputError, raise_all
from mmatm.pretrained import fetch_pretrained, require_pretrained, without_pretrained
from mmatm.utils.command_line import read_config, run, runner_parser


def main() -> None:
    parser = runner_parser(__doc__)
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from a checkpoint, by default the newest whole one in the work_dir',
    )
    parser.add_argument('--from-scratch', action='store_true', help='start from random, not pretrained weights')
    parser.add_argument('--tensorboard', action='store_true', help="write TensorBoard's event files too")
    args = parser.parse_args()
    cfg = read_config(args)

    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise InputError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    if args.tensorboard:
        add_tensorboard(cfg)
    if args.from_scratch and 'load_from' not in (args.cfg_options or {}):
        cfg.load_from = None  # the config's own pretrained weights
    if args.resume:
        cfg.resume = args.resume
    load_from = cfg.get('load_from')
    resumed = checkpoint_to_resume(cfg.get('resume'), load_from, cfg.work_dir)
    if args.from_scratch and (load_from or args.resume not in (None, 'auto')):
        raise InputError(
            f'--from-scratch starts from random weights, but {load_from or args.resume} is to be loaded; give only one '
            'of the two'
        )
    if args.from_scratch:
        cfg.model = without_pretrained(cfg.model, keep=lambda found: found.of_teacher)
    starts = not resumed and not load_from
    raise_all([
        *([partial(require_pretrained, cfg.model)] if starts else []),
        partial(require_data, cfg, ('train', 'val') if cfg.get('val_cfg') else ('train',)),
    ])  # fmt: skip
    if starts:
        fetch_pretrained(cfg.model)

    with explain_full_disk(cfg.work_dir):  # it writes the config there
        runner = Runner.from_cfg(cfg)
    runner.train()


if __name__ == '__main__':
    run(main)
