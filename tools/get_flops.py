#!/usr/bin/env python
"""Counts the parameters and FLOPs of a config's model by component, in the paper's convention."""

from mmatm.analysis.flops import count, image_shape
from mmatm.config import load_config
from mmatm.utils.command_line import config_parser, run


def main() -> None:
    parser = config_parser(__doc__)
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='size of the image; by default 800 1280 for detectors, else the size in the config. '
        'The paper counts UperNet at 512 2048',
    )
    args = parser.parse_args()
    cfg = load_config(args.config, args.cfg_options)
    shape = args.shape or image_shape(cfg)
    print(f'{args.config} at {shape[0]}x{shape[1]}')
    print(f'{"component":24}{"parameters (M)":>16}{"GFLOPs":>12}')
    for name, counted in count(cfg, shape).items():
        print(f'{name:24}{counted.params / 1e6:16.3f}{counted.flops / 1e9:12.2f}')


if __name__ == '__main__':
    run(main)
