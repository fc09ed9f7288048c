#!/usr/bin/env python
"""Makes the dataset of shapes: scenes in the layouts of ADE20K and COCO, single shapes in that of ImageNet."""

import argparse

from mmatm.datasets.shapes import write_shapes
from mmatm.utils.command_line import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', nargs='?', default='data/shapes', help='output directory; by default %(default)s')
    parser.add_argument(
        '--count',
        type=int,
        default=400,
        help='number of images for training; a quarter of that is added for validation; by default %(default)s',
    )
    parser.add_argument('--size', type=int, default=96, help='height and width in pixels; by default %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='of the random shapes; by default %(default)s')
    args = parser.parse_args()
    write_shapes(args.folder, args.count, args.size, args.seed)
    print(f'{args.folder}: {args.count} images for training, {max(1, args.count // 4)} for validation')


if __name__ == '__main__':
    run(main)
