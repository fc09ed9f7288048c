"""Curves of a training: loss, learning rate and metrics, as a figure and for TensorBoard."""

import contextlib
import importlib.util
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.hooks.runtime_info_hook import _is_scalar
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from mmatm.errors import InputError
from mmatm.utils.files import whole_file

# By the iteration of the validation, its metrics by name.
Metrics = dict[int, dict[str, float]]

_MAX_POINTS = 1000
_MAX_LINES = 8
_KEY = 'curves'  # in the message hub; what begins with train, val or test there is logged


class CurvesHook(Hook):
    """Draws the training so far into `curves.png` in the work_dir after each validation.

    Losses and learning rates are MMEngine's, which checkpoints keep. The metrics are kept in checkpoints too, and in
    `curves.json`: a checkpoint is saved before the validation of the same iteration.
    """

    priority = 'LOW'  # after the metrics are logged, before the best checkpoint is saved

    _training = False

    def before_train(self, runner: Runner) -> None:
        self._training = True
        path = Path(runner.work_dir) / 'curves.json'
        with _only_warn(runner):
            if runner.iter == 0:
                path.unlink(missing_ok=True)  # of an earlier training
            elif path.exists():
                found = {int(iteration): metrics for iteration, metrics in json.loads(path.read_text()).items()}
                found = {iteration: metrics for iteration, metrics in found.items() if iteration <= runner.iter}
                runner.message_hub.update_info(_KEY, {**runner.message_hub.get_info(_KEY, {}), **found})

    def after_train(self, runner: Runner) -> None:
        self._training = False

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        if not self._training:
            return
        numbers = {name: float(value) for name, value in (metrics or {}).items() if _is_scalar(value)}
        measured = {**runner.message_hub.get_info(_KEY, {}), runner.iter: numbers}
        runner.message_hub.update_info(_KEY, measured)
        folder, scalars = Path(runner.work_dir), runner.message_hub.log_scalars
        losses, rates = (
            np.array([]) if found is None else found.data[0]
            for found in (scalars.get('train/loss'), learning_rate(scalars))
        )
        title = Path(runner.cfg.filename).stem if runner.cfg.filename else folder.resolve().name
        with _only_warn(runner):
            with whole_file(folder / 'curves.json') as path:
                path.write_text(json.dumps(measured))
            with whole_file(folder / 'curves.png') as path:
                draw_curves(path, title, runner.iter, losses, rates, measured)


@contextlib.contextmanager
def _only_warn(runner: Runner) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, the training is worth more than its figure
        # MMEngine's loggers give a warning only once.
        runner.logger.warning(f'curves.png could not be updated: {type(error).__name__}: {error}')


def learning_rate(scalars: Mapping[str, HistoryBuffer]) -> HistoryBuffer | None:
    """The learning rates of a training among MMEngine's scalars, without the factors for single layers."""
    return scalars.get('train/base_lr', scalars.get('train/lr'))


def draw_curves(
    path: Path, title: str, iterations: int, losses: np.ndarray, rates: np.ndarray, measured: Metrics
) -> None:
    """Draws a training: a panel each for loss, learning rate and every group of metrics.

    Args:
        path: The PNG to write.
        title: Stands above the panels.
        iterations: Iterations done.
        losses: Of the last iterations, one each; what is not finite is left out.
        rates: Learning rates, likewise.
        measured: The metrics; what is not finite, or COCO's -1 for "there are none", is left out.
    """
    from matplotlib.figure import Figure  # without pyplot: no display, and nothing stays behind

    groups = _group(measured)
    rows = math.ceil((2 + len(groups)) / 2)
    figure = Figure(figsize=(12, 3.4 * rows + 0.4), layout='constrained')
    figure.suptitle(title)
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for axis in axes:
        axis.set_xlabel('iteration')
        axis.set_xlim(0, iterations * 1.02)
        axis.grid(alpha=0.3)
    for axis in axes[2 + len(groups) :]:
        axis.remove()

    window = max(len(losses) // 50, 10)
    axes[0].set_ylabel('training loss')
    axes[0].plot(*_thin(losses, iterations), color='tab:blue', alpha=0.3, linewidth=0.8, label='each iteration')
    smooth = _running_mean(losses, window)
    axes[0].plot(*_thin(smooth, iterations), color='tab:blue', label=f'mean of {window} iterations')
    axes[0].legend(fontsize=8)
    finite = losses[np.isfinite(losses)]
    if len(finite):
        low, high = np.percentile(finite, [0.5, 99.5])  # a single outlier does not flatten the rest
        margin = 0.1 * (high - low) or 0.1
        axes[0].set_ylim(low - margin, high + margin)
    axes[1].set_ylabel('learning rate')
    axes[1].plot(*_thin(rates, iterations), color='tab:orange')
    for axis, (name, lines) in zip(axes[2:], groups, strict=False):
        axis.set_ylabel(name)
        for label, points in lines.items():
            last = list(points.values())[-1]
            axis.plot(points.keys(), points.values(), marker='o', markersize=3, label=f'{label} {last:.3g}')
        axis.legend(fontsize=8)
    figure.savefig(path, format='png', dpi=100)


def _group(measured: Metrics) -> list[tuple[str, dict[str, dict[int, float]]]]:
    """Sorts metrics into panels by name and scale: (name of the panel, by label the values by iteration)."""
    lines: dict[str, dict[int, float]] = {}
    for iteration, metrics in sorted(measured.items()):
        for name, value in metrics.items():
            if math.isfinite(value) and value != -1:
                lines.setdefault(name, {})[iteration] = value
    groups: dict[tuple, dict[str, dict[int, float]]] = {}
    for name, points in lines.items():
        prefix = re.match(r'(.*/)?((bbox|segm|proposal)_)?', name)[0]
        label = name.removeprefix(prefix)
        scale = max(abs(value) for value in points.values()) > 1  # percentages, or shares of 1
        groups.setdefault((prefix, 'loss' in label, scale), {})[label] = points
    panels = []
    for (prefix, *_), group in groups.items():
        labels = list(group)
        for begin in range(0, len(labels), _MAX_LINES):
            part = {label: group[label] for label in labels[begin : begin + _MAX_LINES]}
            panels.append((f'validation {prefix.rstrip("/_")}'.strip(), part))
    return panels


def _thin(values: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """At most some points to draw for the values of the last iterations: the lowest and highest of each stretch."""
    values = np.where(np.isfinite(values), values, np.nan)
    begins = np.linspace(0, len(values), min(len(values), _MAX_POINTS), endpoint=False).astype(int)
    if len(begins) == 0:
        return np.array([]), np.array([])
    extremes = np.stack([np.fmin.reduceat(values, begins), np.fmax.reduceat(values, begins)], 1)
    return np.repeat(begins + 1 + iterations - len(values), 2), extremes.ravel()


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last values up to each; what is not finite is left out."""
    finite = np.isfinite(values)
    sums = np.cumsum([0.0, *np.where(finite, values, 0)])
    counts = np.cumsum([0, *finite])
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(end - window, 0)
    with np.errstate(invalid='ignore'):
        return (sums[end] - sums[begin]) / (counts[end] - counts[begin])


def add_tensorboard(cfg: Config) -> None:
    """Lets a config's runs write TensorBoard's event files too.

    Raises:
        InputError: TensorBoard is not installed.
    """
    if importlib.util.find_spec('tensorboard') is None:
        raise InputError('--tensorboard needs the package tensorboard: pip install tensorboard')
    if cfg.get('visualizer') is None:
        cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    backends = cfg.visualizer.get('vis_backends') or []
    backends = [backends] if isinstance(backends, dict) else list(backends)
    if not any('TensorboardVisBackend' in str(backend['type']) for backend in backends):
        backends.append(dict(type='TensorboardVisBackend'))
    cfg.visualizer.vis_backends = backends
