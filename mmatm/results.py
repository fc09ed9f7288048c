"""What a test leaves behind: a small file with its metrics and all that they depend on."""

import hashlib
import json
import logging
import numbers
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from mmatm.checkpoint import local_file, read_checkpoint
from mmatm.environment import environment
from mmatm.stack import FORKS, UPSTREAM, installed

# Options that say where the data lies and how it is read, which is nobody else's business.
_NEUTRAL = (
    'data_root',
    'data_prefix',
    'ann_file',
    'num_workers',
    'persistent_workers',
    'randomness.seed',
    'check_data',
)


def write_result(
    cfg: Config,
    options: dict[str, Any] | None,
    checkpoint: str,
    augmented: bool,
    pictures: int,
    metrics: dict[str, Any],
    processes: int,
) -> Path:
    """Writes `result_{checkpoint}.json` into the work folder.

    Args:
        cfg: The config that was tested with.
        options: What `--cfg-options` changed in it.
        checkpoint: The file with the weights.
        augmented: Whether with test-time augmentation.
        pictures: Number of pictures tested on.
        metrics: As the evaluator gave them; only numbers are kept.
        processes: Number of processes.

    Returns:
        The file.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    dataset = cfg.test_dataloader.dataset
    meta = read_checkpoint(checkpoint).get('meta') or {}
    result = dict(
        config=Path(cfg.filename).stem,
        options={
            key.removeprefix('+'): Path(value).name if str(value).startswith('/') else str(value)
            for key, value in (options or {}).items()
            if not any(name in key for name in _NEUTRAL)
        },
        checkpoint=Path(checkpoint).name,
        checkpoint_sha256=_sha256(checkpoint),
        augmented=augmented,
        data=dict(type=dataset.get('type'), pictures=pictures),
        metrics={name: float(value) for name, value in metrics.items() if isinstance(value, numbers.Number)},
        finished=_finished(meta, cfg),
        training=summarize_training(Path(checkpoint).parent, cfg, meta.get('iter')),
        environment={**environment(device), **installed([*UPSTREAM, *FORKS]), 'processes': processes},
        date=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
    )
    path = Path(cfg.work_dir) / f'result_{Path(checkpoint).stem}{"_tta" if augmented else ""}.json'
    path.write_text(json.dumps(result, indent=2) + '\n')
    return path


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All result files below a folder; others of such a name are named in a warning."""
    results = []
    for path in sorted(folder.rglob('result_*.json')):
        try:
            result = json.loads(path.read_text())
        except json.JSONDecodeError:
            result = None
        if isinstance(result, dict) and 'finished' in result:
            results.append(result)
        else:
            print_log(f'{path} is no result of tools/test.py: left out', 'current', logging.WARNING)
    return results


def summarize_training(folder: Path, cfg: Config, last: int | None = None) -> dict[str, Any] | None:
    """What MMEngine's logs in a work folder tell of the training there up to an iteration, or None without logs.

    Returns:
        `iterations`, `first_loss` and `last_loss` (means of a logging interval), `seconds_per_iteration` (the median
        of the intervals), `batch_size` (a process), `peak_memory_mib` (None on CPU) and `seed` (None if not fixed).
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
        batch_size=(cfg.get('train_dataloader') or {}).get('batch_size'),
        peak_memory_mib=max((entry.get('memory', 0) for entry in entries), default=0) or None,
        seed=(cfg.get('randomness') or {}).get('seed'),
    )


def _finished(meta: dict[str, Any], cfg: Config) -> bool:
    """Whether a checkpoint is of the end of the config's schedule; published files do not say and count as such."""
    schedule = cfg.get('train_cfg') or {}
    epochs, iterations = schedule.get('max_epochs'), schedule.get('max_iters')
    if 'iter' not in meta:
        return True
    return meta.get('epoch', 0) >= epochs if epochs else meta['iter'] >= (iterations or 0)


def _sha256(path: str) -> str:
    with local_file(path) as local_path:
        return hashlib.sha256(Path(local_path).read_bytes()).hexdigest()
