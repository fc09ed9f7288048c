#!/usr/bin/env python
"""Draws what a backbone of mmatm does to images: where tokens look, what they attend to, which frequencies pass.

The model may be any segmentor, detector or classifier.
"""

from pathlib import Path

from mmatm.apis.inference import figure_paths, find_images, load_model
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.utils.command_line import config_parser, run
from mmatm.visualization.features import Features, require_backbone
from mmatm.visualization.panels import check_format, read_image, save_figure
from mmatm.visualization.views import VIEWS


def main() -> None:
    parser = config_parser(__doc__)
    parser.add_argument('checkpoint')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='files, folders, or quoted patterns')
    views = '; '.join(f'{view.name}: {view.shows}' for view in VIEWS.values())
    parser.add_argument('--view', choices=list(VIEWS), required=True, help=views)
    parser.add_argument(
        '--layer',
        nargs='+',
        default=(),
        metavar='NAME',
        help='blocks of the backbone, such as stages.2.blocks.0; by default the last of the third stage; of '
        'spectra the last of each stage',
    )
    parser.add_argument(
        '--point',
        nargs=2,
        type=float,
        action='append',
        default=[],
        metavar=('X', 'Y'),
        help='position of a query token, in pixels of the image; may be given several times; by default the middle',
    )
    parser.add_argument(
        '--short-side', type=int, metavar='PIXELS', help='resize the shorter side of the images to this'
    )
    parser.add_argument(
        '--out',
        type=Path,
        help='of one image the figure to write, PNG, SVG or PDF by its suffix; of several the folder to write '
        'IMAGE.png to; by default work_dirs/visualize/VIEW',
    )
    args = parser.parse_args()
    view = VIEWS[args.view]
    images = find_images(args.images)
    if args.out and args.out.suffix:
        if len(images) > 1:
            raise InputError(f'{args.out} is one figure, for {len(images)} images; give a folder')
        check_format(str(args.out))
        figures = {images[0]: args.out}
    else:
        figures = figure_paths(images, args.out or Path('work_dirs/visualize') / view.name)

    model = load_model(load_config(args.config, args.cfg_options), args.checkpoint)
    backbone = require_backbone(model)
    view.check(backbone, args.layer, args.point)  # refuses what cannot be drawn before images are read
    for path, out in figures.items():
        image = read_image(model, str(path), args.short_side)
        features = Features(backbone, image.inputs, view.differentiable)
        save_figure(view.draw(features, image, args.layer, [tuple(point) for point in args.point]), str(out))
        print(f'drawn: {out}')


if __name__ == '__main__':
    run(main)
