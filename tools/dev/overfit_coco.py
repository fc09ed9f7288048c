#!/usr/bin/env python
"""Overfits a detector to a few COCO images, from scratch at reduced size, and tests it on them in one process and in
two: a sound one reaches nearly 100 AP. The images are those of the training set whose smallest object is largest."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from mmatm.apis.inference import require_task
from mmatm.config import load_config, walk
from mmatm.errors import InputError
from mmatm.utils.command_line import run

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', default=str(ROOT / 'configs/mask_rcnn_atmnet_xt_1x_coco.py'))
    parser.add_argument('--data-root', type=Path, default=ROOT / 'data/coco', help='directory of COCO')
    parser.add_argument('--images', type=int, default=8, help='number of images; by default %(default)s')
    parser.add_argument('--epochs', type=int, default=100, help='by default %(default)s')
    parser.add_argument(
        '--scale', type=int, nargs=2, default=(256, 192), metavar=('LONG', 'SHORT'), help='of the images, in pixels'
    )
    parser.add_argument('--work-dir', type=Path, help='by default work_dirs/overfit_CONFIG')
    args = parser.parse_args()
    cfg = load_config(args.config)
    require_task(cfg, 'detection')
    work_dir = (args.work_dir or ROOT / 'work_dirs' / f'overfit_{Path(args.config).stem}').absolute()
    work_dir.mkdir(parents=True, exist_ok=True)
    annotations = work_dir / 'annotations.json'
    annotations.write_text(json.dumps(choose(args.data_root, args.images)))

    scale = f'({args.scale[0]},{args.scale[1]})'
    options = [
        f'test_evaluator.ann_file={annotations}',
        f'val_evaluator.ann_file={annotations}',
        f'train_dataloader.dataset.pipeline.2.scale={scale}',
        'train_dataloader.dataset.pipeline.3.prob=0.0',
        'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=1',
        '+model.backbone.drop_path_rate=0.0',
        'optim_wrapper.optimizer.lr=3e-4',
        '+optim_wrapper.clip_grad.max_norm=5.0',
        'param_scheduler.0.end=20',
        f'param_scheduler.1.milestones=[{args.epochs * 4 // 5}]',
        f'param_scheduler.1.end={args.epochs}',
        f'train_cfg.max_epochs={args.epochs}',
        f'train_cfg.val_interval={args.epochs}',
        f'default_hooks.checkpoint.interval={args.epochs}',
        'default_hooks.logger.interval=1',
        '+randomness.seed=0',
    ]
    for split in ('train', 'val', 'test'):
        options += [
            f'{split}_dataloader.dataset.ann_file={annotations}',
            f'{split}_dataloader.dataset.data_prefix.img={args.data_root.absolute()}/train2017/',
        ]
        if split != 'train':
            options += [f'{split}_dataloader.dataset.pipeline.1.scale={scale}', f'{split}_dataloader.num_workers=1']

    # Of 512 samples an image, 128 would go through the mask head: most of the time.
    samplers = [key for key, _ in walk(cfg.model) if re.search(r'rcnn.*sampler\.num$', key)]
    options += [f'model.{key}=64' for key in samplers]
    common = ['--work-dir', str(work_dir), '--cfg-options', *options]
    train = [sys.executable, str(ROOT / 'tools/train.py'), args.config, '--from-scratch', *common]
    if subprocess.run(train, check=False).returncode:
        raise InputError('the training failed, see above')
    checkpoint = str(work_dir / f'epoch_{args.epochs}.pth')
    one = [sys.executable, str(ROOT / 'tools/test.py'), args.config, checkpoint, *common]
    two = [str(ROOT / 'tools/dist_test.sh'), args.config, checkpoint, '2', *common]
    found = [test(command) for command in (one, two)]
    training = json.loads((work_dir / f'result_epoch_{args.epochs}.json').read_text())['training']
    print(f'loss {training["first_loss"]} to {training["last_loss"]} in {training["iterations"]} iterations')
    print('one process:', *found[0])
    print('two processes:', *found[1])
    if not found[0] or found[0] != found[1]:
        raise InputError('the metrics of one process and of two differ')


def choose(data_root: Path, count: int) -> dict:
    """The annotations of the images to overfit to."""
    path = data_root / 'annotations/instances_train2017.json'
    if not path.is_file():
        raise InputError(f'there is no {path}; give the directory of COCO with --data-root')
    coco = json.loads(path.read_text())
    objects: dict[int, list[dict]] = {}
    for annotation in coco['annotations']:
        objects.setdefault(annotation['image_id'], []).append(annotation)
    smallest = {image: min(a['area'] for a in found) for image, found in objects.items()}
    crowded = {image for image, found in objects.items() if any(a['iscrowd'] for a in found)}
    chosen = set(sorted(set(smallest) - crowded, key=smallest.__getitem__)[-count:])
    return {
        **coco,
        'images': [image for image in coco['images'] if image['id'] in chosen],
        'annotations': [annotation for annotation in coco['annotations'] if annotation['image_id'] in chosen],
    }


def test(command: list[str]) -> list[str]:
    """The figures that a test prints."""
    env = {**os.environ, 'PYTHON': sys.executable}  # of dist_test.sh
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=env)
    if done.returncode:
        print(done.stdout)
        raise InputError('the test failed, see above')
    return re.findall(r'coco/(?:bbox|segm)_mAP: \S+', done.stdout)


if __name__ == '__main__':
    run(main)
