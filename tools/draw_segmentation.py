#!/usr/bin/env python
"""Draws image, ground truth and prediction of a segmentor side by side."""

from pathlib import Path

from mmatm.utils.command_line import read_config, run, runner_parser
from mmatm.visualization.segmentation import draw_segmentation


def main() -> None:
    parser = runner_parser(__doc__)
    parser.add_argument('checkpoint')
    parser.add_argument(
        '--count', type=int, default=6, help='number of images, spread over the test data; by default %(default)s'
    )
    parser.add_argument('--out', help='the figure to write; by default segmentation.png in the work_dir')
    args = parser.parse_args()
    cfg = read_config(args)
    out = args.out or str(Path(cfg.work_dir) / 'segmentation.png')
    draw_segmentation(cfg, args.checkpoint, out, args.count)
    print(f'drawn: {out}')


if __name__ == '__main__':
    run(main)
