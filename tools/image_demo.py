#!/usr/bin/env python
"""Runs any detector, segmentor or classifier on images: draws the predictions and writes them as JSON."""

import shlex
from pathlib import Path

from rich.progress import track

from mmatm.apis.inference import find_images, predict_images
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.utils.command_line import config_parser, run

CONFIGS = ('.py', '.json', '.yaml', '.yml')


def main() -> None:
    parser = config_parser(__doc__)
    parser.add_argument('checkpoint')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='files, folders, or quoted patterns')
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/image_demo'), help='output directory; by default %(default)s'
    )
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='lowest score of boxes and masks to draw; by default %(default)s'
    )
    parser.add_argument('--fuse', action='store_true', help='turn the backbone into its form for inference first')
    parser.add_argument('--device', help='such as cpu or cuda:0; by default the GPU if there is one')
    args = parser.parse_args()
    refuse_former_order(args.config, args.checkpoint, *args.images)

    images = find_images(args.images)
    cfg = load_config(args.config, args.cfg_options)
    task = predict_images(
        cfg,
        args.checkpoint,
        images,
        args.out,
        args.device,
        args.score_thr,
        progress=lambda items: track(items, f'{len(items)} images'),
        fuse=args.fuse,
    )
    print(f'{task}: images in {args.out}/vis, predictions in {args.out}/preds')


def refuse_former_order(*arguments: str) -> None:
    """Names the order of the arguments if they stand as they did before: IMAGE... CONFIG CHECKPOINT."""
    *images, config, checkpoint = arguments
    if config.endswith(CONFIGS) and not arguments[0].endswith(CONFIGS):
        right = shlex.join([config, checkpoint, *images])
        raise InputError(
            'the arguments are now CONFIG CHECKPOINT IMAGE..., as in all tools: '
            f'python tools/image_demo.py {right} and your options'
        )


if __name__ == '__main__':
    run(main)
