#!/usr/bin/env python
"""Evaluates a checkpoint of a detector, segmentor or classifier with its config."""

from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.dist import get_world_size, is_main_process
from mmengine.evaluator import DumpResults

from mmatm.analysis.results import write_result
from mmatm.config import innermost_dataset, load_config
from mmatm.engine.fuse_hook import fuse_before_test
from mmatm.engine.runner import Runner
from mmatm.errors import InputError
from mmatm.utils.command_line import read_config, run, runner_parser


def main() -> None:
    parser = runner_parser(__doc__)
    parser.add_argument('checkpoint')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: several scales, flips')
    parser.add_argument('--fuse', action='store_true', help="test the backbone's form for inference")
    parser.add_argument('--out', help='a .pkl file for the predictions, or a directory for label maps of segmentation')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='output directory for images with the predictions drawn over them')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds between images of --show; by default %(default)s'
    )
    args = parser.parse_args()
    cfg = read_config(args)
    recipe = load_config(args.config)
    cfg.load_from, cfg.resume = args.checkpoint, False  # a training's own config may ask for it
    if args.show or args.show_dir:
        draw_predictions(cfg, args.show, args.show_dir, args.wait_time)
    if args.fuse:
        fuse_before_test(cfg)
    if args.tta:
        test_with_augmentation(cfg)
    pickle_file = args.out is not None and Path(args.out).suffix in ('.pkl', '.pickle')
    if args.out is not None and not pickle_file:
        save_label_maps(cfg, args.out)

    runner = Runner.from_cfg(cfg)
    if pickle_file:
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    metrics = runner.test()
    if is_main_process():
        sha256, meta = runner.tested
        path = write_result(
            cfg, recipe, args.cfg_options, args.checkpoint, sha256, meta, args.tta,
            runner.test_dataloader.dataset, metrics, get_world_size(),
        )  # fmt: skip
        print(f'result: {path}')


def draw_predictions(cfg: Config, show: bool, folder: str | None, wait_time: float) -> None:
    """Turns the toolbox's own drawing on; its hooks differ in how they are told."""
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        raise InputError('--show and --show-dir need default_hooks.visualization in the config')
    hook.update(show=show, wait_time=wait_time, interval=1)
    kind = hook['type'].rsplit('.', 1)[-1]
    hook['enable' if kind == 'VisualizationHook' else 'draw'] = True
    if folder and kind == 'SegVisualizationHook':
        cfg.visualizer['save_dir'] = folder
    elif folder:
        hook['test_out_dir' if kind == 'DetVisualizationHook' else 'out_dir'] = str(Path(folder).absolute())


def test_with_augmentation(cfg: Config) -> None:
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise InputError('--tta needs tta_model and tta_pipeline in the config')
    innermost_dataset(cfg.test_dataloader.dataset).pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def save_label_maps(cfg: Config, folder: str) -> None:
    evaluator = cfg.test_evaluator
    if not isinstance(evaluator, dict) or not evaluator['type'].endswith('IoUMetric'):
        raise InputError(
            f'--out {folder} is a directory, which is for label maps of semantic segmentation; give a .pkl file'
        )
    evaluator.update(output_dir=folder, keep_results=True)


if __name__ == '__main__':
    run(main)
