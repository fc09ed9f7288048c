"""Progress bars where a person watches: on a terminal."""

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from mmatm.engine.curves import learning_rate

_SECONDS_BETWEEN_DRAWINGS = 0.1


@contextlib.contextmanager
def progress_bar(runner: Runner) -> Iterator[None]:
    """Shows a bar while a runner works, if this is the main process and standard output is a terminal.

    The bar takes the place of the lines that `LoggerHook` writes every few iterations; the log file keeps them. All
    else that is printed or logged appears above the bar.
    """
    # FORCE_COLOR alone makes a terminal for rich, but rich knows terminals that cannot rewrite a line.
    if not (is_main_process() and sys.stdout.isatty() and Console().is_interactive):
        yield
        return
    hook = ProgressBarHook()
    runner.register_hook(hook)
    try:
        yield
    finally:
        hook.close()
        runner.hooks.remove(hook)


class ProgressBarHook(Hook):
    """One line with what runs, iterations, loss, learning rate, time spent and time left; see `progress_bar`."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._live: Live | None = None
        self._redirected: list[tuple[logging.StreamHandler, TextIO]] = []
        self._drawn = 0.0
        # By mode: what the bar shows, when it began, and (time, iterations done) after its first iteration, which
        # is too slow to tell the time left.
        self._shown: dict[str, _Row] = {}
        self._begun: dict[str, float] = {}
        self._first: dict[str, tuple[float, int]] = {}

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode != 'train' or mode not in self._shown:
            self._shown[mode] = _Row()
            self._begun[mode] = time.monotonic()
            self._first.pop(mode, None)
        row = self._shown[mode]
        if mode == 'train' and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            row.name, row.done, row.total = mode, runner.iter, runner.max_iters
        else:
            row.name, row.done, row.total = mode, 0, len(getattr(runner, f'{mode}_dataloader'))
            if mode == 'train':
                row.name = f'epoch {runner.epoch + 1}/{runner.max_epochs}'
        if self._live is None:
            self._open(runner)
        self._draw(row)

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = 'train'
    ) -> None:
        row, now = self._shown[mode], time.monotonic()
        row.done = batch_idx + 1
        # The time left of a training is that of all its epochs.
        done, total = (runner.iter + 1, runner.max_iters) if mode == 'train' else (row.done, row.total)
        since, first = self._first.setdefault(mode, (now, done))
        if now - self._drawn < _SECONDS_BETWEEN_DRAWINGS and row.done < row.total:
            return
        row.spent = now - self._begun[mode]
        row.left = (now - since) / (done - first) * (total - done) if done > first else None
        if mode == 'train':
            row.state = _loss_and_rate(runner)
        self._draw(row)

    def after_val(self, runner: Runner) -> None:
        if 'train' in self._shown:
            self._draw(self._shown['train'])

    def close(self) -> None:
        """Leaves the bar as it stands, and the terminal and the loggers as they were."""
        for handler, stream in self._redirected:
            handler.setStream(stream)
            handler.removeFilter(_is_no_iteration)
        self._redirected.clear()
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.stop()

    def _open(self, runner: Runner) -> None:
        terminals = [stream for stream in (sys.stdout, sys.stderr) if stream.isatty()]
        self._live = Live(
            console=Console(file=sys.stdout, markup=False, emoji=False, highlight=False, soft_wrap=True),
            auto_refresh=False,  # by a thread, which must not run when data loaders fork their workers
            redirect_stderr=sys.stderr in terminals,
        )
        self._live.start()
        self._live.console.show_cursor()  # a training that is killed could not bring it back
        loggers = [runner.logger, logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
        for handler in {handler for logger in loggers for handler in getattr(logger, 'handlers', ())}:
            stream = vars(handler).get('stream')
            if stream in terminals:
                self._redirected.append((handler, stream))
                handler.setStream(sys.stdout)  # now rich's, that writes above the bar
                handler.addFilter(_is_no_iteration)

    def _draw(self, row: '_Row') -> None:
        self._drawn = time.monotonic()
        if self._live.is_started:
            try:
                self._live.update(row.table(self._live.console.width), refresh=True)
            except OSError:  # the terminal is gone; the training goes on
                self.close()


@dataclasses.dataclass
class _Row:
    name: str = ''
    done: int = 0
    total: int = 0
    state: str = ''
    spent: float = 0.0
    left: float | None = None

    def table(self, width: int) -> Table:
        times = f'{_clock(self.spent)} left {_clock(self.left)}'
        cells = self.name, ProgressBar(self.total, self.done), f'{self.done}/{self.total}', self.state, times
        table = Table.grid(padding=(0, 1))
        for cell in cells:
            table.add_column(no_wrap=isinstance(cell, str))  # on a narrow terminal the bar shrinks first
        table.add_row(*cells)
        table.width = width - 3  # room for the ^C of an interrupt
        return table


def _is_no_iteration(record: logging.LogRecord) -> bool:
    return record.module != 'logger_hook' or not record.funcName.endswith('_iter')


def _loss_and_rate(runner: Runner) -> str:
    """Loss, averaged as in the log, and learning rate; what the model does not have is left out."""
    scalars = runner.message_hub.log_scalars
    parts = []
    if 'train/loss' in scalars:
        parts.append(f'loss {scalars["train/loss"].mean(runner.log_processor.window_size):.4f}')
    if rate := learning_rate(scalars):
        parts.append(f'lr {rate.current():.1e}')
    return ' '.join(parts)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return '-:--:--'
    minutes = int(seconds) // 60
    return f'{minutes // 60}:{minutes % 60:02}:{int(seconds) % 60:02}'
