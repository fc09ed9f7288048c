#!/usr/bin/env python
"""Draws where ATMNet's tokens look in an image, or the effective receptive field of any backbone of mmatm.

The model may be any segmentor, detector or classifier.
"""

from pathlib import Path

from mmatm.apis.inference import load_model
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.utils.command_line import config_parser, run
from mmatm.visualization.offsets import draw_distribution, draw_offsets, find_offset_layers
from mmatm.visualization.panels import check_format, read_image, save_figure
from mmatm.visualization.receptive_field import draw_receptive_field, find_layers, require_backbone

MODES = {
    'offsets': "where the channels of chosen tokens look along their row and column, the paper's Figure 5 (ATMNet)",
    'receptive-field': 'which pixels move the output of chosen tokens (any backbone)',
    'distribution': 'how far all tokens look, by stage (ATMNet)',
}


def main() -> None:
    parser = config_parser(__doc__)
    parser.add_argument('checkpoint')
    parser.add_argument('image')
    parser.add_argument('--mode', choices=list(MODES), default='offsets', help='; '.join(map(': '.join, MODES.items())))
    parser.add_argument(
        '--layer',
        nargs='+',
        metavar='NAME',
        help='blocks of the backbone, such as stages.2.blocks.0; by default the last block of the third stage',
    )
    parser.add_argument(
        '--point',
        nargs=2,
        type=float,
        action='append',
        metavar=('X', 'Y'),
        help='position of a query token, in pixels of the image; may be given several times; by default the middle',
    )
    parser.add_argument('--short-side', type=int, metavar='PIXELS', help='resize the shorter side of the image to this')
    parser.add_argument(
        '--out', help='the figure to write, PNG, SVG or PDF; by default work_dirs/visualize_offsets/IMAGE_MODE.png'
    )
    args = parser.parse_args()
    if args.mode == 'distribution' and (args.layer or args.point):
        raise InputError('--mode distribution shows all layers and tokens; leave out --layer and --point')
    out = args.out or f'work_dirs/visualize_offsets/{Path(args.image).stem}_{args.mode.replace("-", "_")}.png'
    check_format(out)

    model = load_model(load_config(args.config, args.cfg_options), args.checkpoint)
    backbone = require_backbone(model)
    find = find_layers if args.mode == 'receptive-field' else find_offset_layers
    names = list(find(backbone, args.layer))
    image = read_image(model, args.image, args.short_side)
    if args.mode == 'distribution':
        figure = draw_distribution(backbone, image)
    else:
        layers = args.layer or ([name for name in names if name.startswith('stages.2.')] or names)[-1:]
        height, width = (side / image.scale for side in image.pixels.shape[:2])
        points = [tuple(point) for point in args.point or [(width // 2, height // 2)]]
        draw = draw_offsets if args.mode == 'offsets' else draw_receptive_field
        figure = draw(backbone, image, layers, points)
    save_figure(figure, out)
    print(f'drawn: {out}')


if __name__ == '__main__':
    run(main)
