#!/usr/bin/env python
"""Exports a classifier, segmentor or single-stage detector to ONNX, from normalised images to raw outputs."""

from pathlib import Path

from mmatm.apis.export import TOLERANCE, export_onnx, require_exportable
from mmatm.apis.inference import load_model
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.utils.command_line import config_parser, run


def main() -> None:
    parser = config_parser(__doc__)
    parser.add_argument('checkpoint', nargs='?', help='the weights; by default random ones, to try the export')
    parser.add_argument('--fuse', action='store_true', help='turn the backbone into its form for inference first')
    parser.add_argument('--out', metavar='FILE', help='the file to write; by default work_dirs/export_onnx/CONFIG.onnx')
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='the image size to measure the time at, and the largest of the three sizes to check the graph with; by '
        'default 224 224 for classifiers, else 512 512',
    )
    args = parser.parse_args()
    out = Path(args.out or f'work_dirs/export_onnx/{Path(args.config).stem}.onnx')
    if out.is_dir():
        raise InputError(f'--out {out} is a directory; give the name of a file')
    cfg = load_config(args.config, args.cfg_options)
    require_exportable(cfg)
    shape = args.shape or ([224, 224] if cfg.get('default_scope') == 'mmpretrain' else [512, 512])
    model = load_model(cfg, args.checkpoint, args.fuse)
    print(
        f'exporting {type(model).__name__} with {args.checkpoint or "random weights"}; this takes minutes', flush=True
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    exported = export_onnx(model, out, tuple(shape))
    for key, value in exported.metadata.items():
        print(f'{key}: {value if len(value) <= 120 else value[:117] + "..."}')
    for name, axes in exported.outputs.items():
        print(f'output {name}: {" x ".join(map(str, axes))}')
    if exported.size_divisor > 1:
        print(f'height and width have to be multiples of {exported.size_divisor}, as in PyTorch')
    print(f'the graph has standard operators of opset {exported.opset} only')
    print(f'largest deviation from PyTorch (accepted: {TOLERANCE:g}):')
    for check in exported.checks:
        print(f'  {check}')
    print(
        f'one image of {shape[0]}x{shape[1]}: PyTorch {exported.torch_ms:.1f} ms, '
        f'ONNX Runtime {exported.onnx_ms:.1f} ms, ratio {exported.onnx_ms / exported.torch_ms:.2f}'
    )
    print(f'wrote {out}')


if __name__ == '__main__':
    run(main)
