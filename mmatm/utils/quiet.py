"""Hides warnings of the toolboxes about themselves, which a user can do nothing about, from the commands' output."""

import logging
import os
import re
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import mmengine.logging
from mmengine.logging import MMLogger, print_log
from mmengine.model import BaseModule


@dataclass(frozen=True)
class Known:
    """A Python warning, or a warning in MMEngine's log, that is not printed.

    Attributes:
        words: A pattern of its beginning.
        said_by: A pattern of the module that causes it. What a user's module causes is printed.
        category: Of Python's warnings.
        first_process: Whether the first of several processes prints it, as it is for the user.
    """

    words: str
    said_by: str
    category: type[Warning] = UserWarning
    first_process: bool = False


_TOOLBOXES = r'(mmcv|mmdet|mmengine|mmpretrain|mmseg)(\..*)?'
KNOWN = (
    # How MMEngine finds packages; the version of setuptools that still lets it is pinned.
    Known('pkg_resources is deprecated as an API', r'mmengine\.utils\.package_utils'),
    # The heads of mmsegmentation build their losses so.
    Known('``build_loss`` would be deprecated soon', _TOOLBOXES),
    # The mean that all published models have; it is said even if the config asks for it.
    Known('Default ``avg_non_ignore`` is False', r'(mmdet|mmseg)\.models\.losses\.cross_entropy_loss'),
    # The toolbox's base configs have this hook, and it is for drawing when asked.
    Known('The draw is False', r'mmseg\.engine\.hooks\.visualization_hook'),
    # PyTorch's, of how DETR's relatives make their grids.
    Known(r'torch\.meshgrid: in an upcoming release', _TOOLBOXES),
    # PyTorch's, of how parts of mmdet copy numbers and go back to float32.
    Known('To copy construct from a tensor, it is recommended', _TOOLBOXES),
    Known(r'`torch\.cuda\.amp\.\w+\(args\.\.\.\)` is deprecated', _TOOLBOXES, FutureWarning),
    # MMEngine uses itself what it deprecates.
    Known('"FileClient" will be deprecated', _TOOLBOXES),
    Known('"HardDiskBackend" is the alias', _TOOLBOXES),
    # The metric's results have their own names, mIoU among them.
    Known(r'The prefix is not set in metric class IoUMetric\.', r'mmengine\.evaluator\.metric'),
    # How MMEngine looks up its own functions that join samples to a batch; the toolboxes have no such registry.
    Known(
        r'Failed to search registry with scope "(mmdet|mmpretrain|mmseg)" in the "function" registry tree',
        r'mmengine\.registry\.registry',
    ),
    # The forks' debug line on a package of their own, which is printed as it names no logger.
    Known('Could not import OneDL', _TOOLBOXES),
    # The user may choose the threads; all processes say the same.
    Known(r'Setting (MKL|OMP)_NUM_THREADS', r'mmengine\.utils\.dl_utils\.setup_env', first_process=True),
)
# Modules between the one that causes a warning and the one that prints it.
_BETWEEN = re.compile(
    r'(warnings|_py_warnings|typing_extensions|logging|importlib|pkg_resources|torch|mmengine\.logging|mmengine\.fileio|'
    r'mmseg\.models\.builder|mmatm\.utils\.quiet)(\..*)?|'
    r'_frozen_importlib(_external)?'
)


def silence() -> None:
    """Keeps `KNOWN` out of this process's output, and out of that of processes that are forked from it.

    Settings of the user's, by `python -W` or PYTHONWARNINGS, take precedence: nothing is kept out then.
    """
    if sys.warnoptions:
        return
    show = warnings.showwarning

    def show_unknown(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if not _is_known(str(message), category):
            show(message, category, *args, **kwargs)

    def print_unknown(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
        if logger is not None or not _is_known(str(msg), UserWarning):
            print_log(msg, logger, level)

    warnings.showwarning = show_unknown
    MMLogger.filter = _filter_log
    mmengine.logging.print_log = print_unknown  # for what is imported from now on


def _filter_log(logger: MMLogger, record: logging.LogRecord) -> bool | logging.LogRecord:
    known = record.levelname == 'WARNING' and _is_known(record.getMessage(), UserWarning)
    return not known and super(MMLogger, logger).filter(record)


def _is_known(words: str, category: type[Warning]) -> bool:
    module = _cause()
    first = os.environ.get('RANK', '0') == '0'
    return any(
        issubclass(category, known.category)
        and re.match(known.words, words)
        and re.fullmatch(known.said_by, module)
        and not (known.first_process and first)
        for known in KNOWN
    )


def _cause() -> str:
    """The module whose code led to what is about to be printed."""
    frame = sys._getframe()
    while frame is not None and _BETWEEN.fullmatch(frame.f_globals.get('__name__', '')):
        frame = frame.f_back
    return frame.f_globals.get('__name__', '') if frame is not None else ''


def init_weights(model: BaseModule) -> None:
    """Initialises a model as MMEngine does, without its dump of each parameter.

    In trainings the dump goes to the log file, and only there; without one MMEngine prints it, thousands of lines.
    """
    logger = MMLogger.get_current_instance()
    logger.addFilter(_no_dump)
    try:
        model.init_weights()
    finally:
        logger.removeFilter(_no_dump)


def _no_dump(record: logging.LogRecord) -> bool:
    return (record.module, record.funcName) != ('base_module', '_dump_init_info')
