"""Keeps out of what the commands print what the toolboxes say of themselves and a user can do nothing about."""

import os
import re
import sys
import warnings
from dataclasses import dataclass
from logging import LogRecord
from typing import Any

from mmengine.logging import MMLogger
from mmengine.model import BaseModule


@dataclass(frozen=True)
class Known:
    """A warning, or a warning in MMEngine's log, that is not printed.

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
    Known('Default ``avg_non_ignore`` is False', r'mmseg\.models\.losses\.cross_entropy_loss'),
    # The toolbox's base configs have this hook, and it is for drawing when asked.
    Known('The draw is False', r'mmseg\.engine\.hooks\.visualization_hook'),
    # PyTorch's, of how DETR's relatives make their grids.
    Known('torch.meshgrid: in an upcoming release', _TOOLBOXES),
    # MMEngine's own hooks use what MMEngine deprecates.
    Known('"FileClient" will be deprecated', r'mmengine\.hooks\..*'),
    Known('"HardDiskBackend" is the alias', r'mmengine\.hooks\..*'),
    # The metric's results have their own names, mIoU among them.
    Known(r'The prefix is not set in metric class IoUMetric\.', r'mmengine\.evaluator\.metric'),
    # How MMEngine looks up its own functions that join samples to a batch; the toolboxes have no such registry.
    Known(
        r'Failed to search registry with scope "(mmdet|mmpretrain|mmseg)" in the "function" registry tree',
        r'mmengine\.registry\.registry',
    ),
    # The user may choose the threads; all processes say the same.
    Known(r'Setting (MKL|OMP)_NUM_THREADS', r'mmengine\.utils\.dl_utils\.setup_env', first_process=True),
)
# What stands between who causes a warning and its being printed.
_BETWEEN = re.compile(
    r'(warnings|_py_warnings|logging|importlib|pkg_resources|mmengine\.logging|mmengine\.fileio|mmseg\.models\.builder|'
    r'torch\.functional|mmatm\.quiet)(\..*)?|'
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

    warnings.showwarning = show_unknown
    MMLogger.filter = _filter_log


def _filter_log(logger: MMLogger, record: LogRecord) -> bool | LogRecord:
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


def _no_dump(record: LogRecord) -> bool:
    return (record.module, record.funcName) != ('base_module', '_dump_init_info')
