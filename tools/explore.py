#!/usr/bin/env python
"""Serves a page, on this machine, to look into models: click a point of an image and see where that token looks.

The models may be any segmentors, detectors or classifiers with a backbone of mmatm.
"""

from pathlib import Path

from mmatm.apis.inference import find_images
from mmatm.errors import InputError
from mmatm.utils.command_line import config_parser, run
from mmatm.visualization.explorer import Explorer, Subject
from mmatm.visualization.page import serve


def main() -> None:
    parser = config_parser(__doc__)
    parser.add_argument('checkpoint')
    parser.add_argument(
        'images',
        nargs='*',
        metavar='IMAGE',
        help='files, folders, or quoted patterns; others can be dropped on the page',
    )
    parser.add_argument(
        '--beside', nargs=2, metavar=('CONFIG', 'CHECKPOINT'), help='a second model; --cfg-options are of the first'
    )
    parser.add_argument(
        '--short-side',
        type=int,
        default=512,
        metavar='PIXELS',
        help='resize the shorter side of images to this; by default %(default)s',
    )
    parser.add_argument(
        '--host', default='127.0.0.1', help='the address to listen on; by default %(default)s, this machine alone'
    )
    parser.add_argument('--port', type=int, default=7860, help='by default %(default)s')
    args = parser.parse_args()
    if args.short_side < 1:
        raise InputError(f'the shorter side of an image is 1 pixel or more, not {args.short_side}')
    images = find_images(args.images) if args.images else []
    subjects = [Subject.load(args.config, args.checkpoint, args.cfg_options)]
    if args.beside:
        subjects.append(Subject.load(*args.beside))
    serve(Explorer(subjects, args.short_side), [Path(image) for image in images], args.host, args.port)


if __name__ == '__main__':
    run(main)
