"""The result of a test as a small file: its metrics and everything that they depend on."""

import hashlib
import json
import logging
import numbers
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from mmatm.datasets.data_check import leaves
from mmatm.engine.recipe import NEUTRAL, differences, joined, read_text
from mmatm.utils.environment import environment

# Parts of options that the result has elsewhere, or that decide nothing.
_OF_THE_RUN = {'seed', 'check_data', 'work_dir', 'default_hooks', 'visualizer', 'vis_backends'}


def write_result(
    cfg: Config,
    recipe: Config,
    options: dict[str, Any] | None,
    checkpoint: str,
    sha256: str,
    meta: dict[str, Any],
    augmented: bool,
    dataset: Any,
    metrics: dict[str, Any],
    processes: int,
) -> Path:
    """Writes `result_{checkpoint}.json` into the work_dir.

    Args:
        cfg: The config that was tested with.
        recipe: The same config as it is in its file.
        options: What `--cfg-options` changed in it.
        checkpoint: The file with the weights.
        sha256: Its digest.
        meta: What it records of its training.
        augmented: Whether with test-time augmentation.
        dataset: The dataset that was tested on.
        metrics: As the evaluator returned them; only numbers are kept.
        processes: Number of processes.

    Returns:
        The file.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    result = dict(
        config=Path(recipe.filename).stem,
        options={
            key.removeprefix('+'): Path(value).name if str(value).startswith('/') else str(value)
            for key, value in (options or {}).items()
            if not any(part in NEUTRAL | _OF_THE_RUN for part in key.removeprefix('+').split('.'))
        },
        changed=_changed(meta, recipe),
        checkpoint=Path(checkpoint).name,
        checkpoint_sha256=sha256,
        augmented=augmented,
        data=identify(dataset),
        metrics={name: float(value) for name, value in metrics.items() if isinstance(value, numbers.Number)},
        finished=_finished(meta, recipe),
        training=_training(Path(checkpoint).parent, meta),
        environment={**environment(device), 'processes': processes},
        date=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
    )
    path = Path(cfg.work_dir) / f'result_{Path(checkpoint).stem}{"_tta" if augmented else ""}.json'
    path.write_text(json.dumps(result, indent=2) + '\n')
    return path


def identify(dataset: Any) -> dict[str, Any]:
    """What a dataset is by its content, wherever it lies.

    Returns:
        `type`; the number of `images`; `images_sha256` of the sorted names of images and label maps;
        `annotations_sha256` of the annotation files of the whole set and the number of `objects` in them, None if there
        are none.
    """
    names, files = [], []
    for part in leaves(dataset):
        if (file := getattr(part, 'ann_file', None)) and Path(file).is_file():
            files.append(Path(file).read_bytes())
        for i in range(len(part)):
            sample = part.get_data_info(i)
            paths = (sample.get(key) for key in ('img_path', 'seg_map_path'))
            names.append(' '.join(Path(path).name for path in paths if path))
    objects = [found for found in map(_objects, files) if found is not None]
    return dict(
        type=type(dataset).__name__,
        images=len(dataset),
        images_sha256=hashlib.sha256('\n'.join(sorted(names)).encode()).hexdigest(),
        annotations_sha256=hashlib.sha256(b''.join(files)).hexdigest() if files else None,
        objects=sum(objects) if objects else None,
    )


def _objects(file: bytes) -> int | None:
    """The objects in an annotation file of COCO's format."""
    try:
        return len(json.loads(file)['annotations'])
    except (ValueError, KeyError, TypeError):
        return None


def _changed(meta: dict[str, Any], recipe: Config) -> dict[str, str]:
    """The settings in which a checkpoint's training differs from a recipe; none for published files, without a record.

    The batch of all processes is one of them, if the recipe has its `base_batch_size`.
    """
    if 'cfg' not in meta:
        return {}
    note = meta.get('mmatm') or {}
    try:
        training = read_text(meta['cfg'])
        before, last = note.get('changed', {}), differences(training, read_text(recipe.pretty_text))
    except ValueError:
        return {'settings': 'cannot be read'}
    # What was resumed had other settings than what it began with.
    changed = {**last, **joined(before, {key: last.get(key, 'as in the config') for key in before})}
    batch, wanted = _batch(meta), (recipe.get('auto_scale_lr') or {}).get('base_batch_size')
    if wanted is not None and batch != wanted:
        changed['batch of all processes'] = str(batch or 'not recorded')
    elif wanted is not None:  # by more processes of less each
        changed.pop('train_dataloader.batch_size', None)
    return changed


def _batch(meta: dict[str, Any]) -> int | None:
    """The images between two steps of the optimizer, of all processes."""
    note = meta.get('mmatm') or {}
    return note.get('batch_size') and note['batch_size'] * note['processes'] * note.get('summed', 1)


def _training(folder: Path, meta: dict[str, Any]) -> dict[str, Any] | None:
    """What a checkpoint, and the logs beside it, tell of its training; None without logs."""
    found = summarize_training(folder, meta.get('iter'))
    if found is None:
        return None
    note = meta.get('mmatm') or {}
    known = {key: note.get(key) for key in ('batch_size', 'processes', 'samples')}
    return {**found, **known, 'seed': meta.get('seed')}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All result files below a folder; a warning names other files of such a name."""
    results = []
    for path in sorted(folder.rglob('result_*.json')):
        try:
            result = json.loads(path.read_text())
        except json.JSONDecodeError:
            result = None
        if isinstance(result, dict) and 'changed' in result:
            # Earlier files say pictures.
            data = {key.replace('pictures', 'images'): value for key, value in result['data'].items()}
            results.append({**result, 'data': data})
        else:
            print_log(f'skipped {path}: not a result of this version of tools/test.py', 'current', logging.WARNING)
    return results


def merge_results(known: Iterable[dict], new: Iterable[dict]) -> list[dict]:
    """Results of tests, the newest of each config with its options, checkpoint, data and augmentation."""
    newest: dict[tuple[str, ...], dict] = {}
    for result in sorted([*known, *new], key=lambda result: result['date']):
        same = ('config', 'checkpoint_sha256', 'augmented', 'data', 'options', 'changed')
        key = tuple(str(result[name]) for name in same)
        newest[key] = result
    return sorted(newest.values(), key=lambda result: (result['config'], result['date']))


def summarize_training(folder: Path, last: int | None = None) -> dict[str, Any] | None:
    """A summary of MMEngine's logs in a work_dir up to an iteration, or None without logs.

    Returns:
        `iterations`, `first_loss` and `last_loss` (means of a logging interval), `seconds_per_iteration` (the median
        of the intervals) and `peak_memory_mib` (None on CPU).
    """
    entries: list[dict] = []
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        # The last line of a training that was killed may be cut short.
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith('}')]
        new = [line for line in lines if 'loss' in line and 'time' in line]
        if new:  # resumed, or begun anew
            entries = [entry for entry in entries if entry['step'] < new[0]['step']] + new
    entries = [entry for entry in entries if last is None or entry.get('iter', entry['step']) <= last]
    if not entries:
        return None
    times = sorted(entry['time'] for entry in entries)
    return dict(
        iterations=entries[-1].get('iter', entries[-1]['step']),
        first_loss=round(entries[0]['loss'], 4),
        last_loss=round(entries[-1]['loss'], 4),
        seconds_per_iteration=round(times[len(times) // 2], 4),
        peak_memory_mib=max((entry.get('memory', 0) for entry in entries), default=0) or None,
    )


def _finished(meta: dict[str, Any], recipe: Config) -> bool:
    """Whether a checkpoint is from the end of the config's schedule; published ones without a record count as that."""
    schedule = recipe.get('train_cfg') or {}
    epochs, iterations = schedule.get('max_epochs'), schedule.get('max_iters')
    if 'iter' not in meta:
        return True
    return meta.get('epoch', 0) >= epochs if epochs else meta['iter'] >= (iterations or 0)
