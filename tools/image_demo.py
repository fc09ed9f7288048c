#!/usr/bin/env python
"""Predicts images with any detector, segmentor or classifier: draws the predictions and writes them as JSON."""

import argparse
from pathlib import Path

from rich.progress import track

from mmatm.apis.inference import find_images, predict_images
from mmatm.config import load_config
from mmatm.utils.command_line import add_config, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='files, folders, or quoted patterns')
    add_config(parser)
    parser.add_argument('checkpoint')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/image_demo'), help='folder for the results')
    parser.add_argument('--score-thr', type=float, default=0.3, help='draw boxes and masks from this score on')
    parser.add_argument('--device', help='by default the GPU if there is one')
    args = parser.parse_args()

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
    )
    print(f'{task}: images in {args.out}/vis, predictions in {args.out}/preds')


if __name__ == '__main__':
    run(main)
