#!/usr/bin/env python
"""Draws which frequencies the spectral mixers of DFFormer, CDFFormer, the reading of DSM and AFFNet let through.

For each image there is a figure with a row for each stage. The model may be any segmentor, detector or classifier.
"""

from pathlib import Path

from mmatm.apis.inference import figure_paths, find_images, load_model
from mmatm.config import load_config
from mmatm.utils.command_line import config_parser, run
from mmatm.visualization.filters import draw_filters, find_mixers
from mmatm.visualization.panels import read_image, save_figure
from mmatm.visualization.receptive_field import require_backbone


def main() -> None:
    parser = config_parser(__doc__)
    parser.add_argument('checkpoint')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='files, folders, or quoted patterns')
    parser.add_argument(
        '--short-side', type=int, metavar='PIXELS', help='resize the shorter side of the images to this'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/visualize_filters'),
        help='the folder to write IMAGE.png to; by default %(default)s',
    )
    args = parser.parse_args()
    figures = figure_paths(find_images(args.images), args.out)

    model = load_model(load_config(args.config, args.cfg_options), args.checkpoint)
    backbone = require_backbone(model)
    find_mixers(backbone)  # refuses other backbones before images are read
    for image, out in figures.items():
        save_figure(draw_filters(backbone, read_image(model, str(image), args.short_side)), str(out))
        print(f'drawn: {out}')


if __name__ == '__main__':
    run(main)
