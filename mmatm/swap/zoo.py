"""Swaps the backbone of every config of the installed toolboxes, and tells what came of it."""

import contextlib
import csv
import hashlib
import io
import json
import logging
import os
import re
import signal
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmatm.config import installed_configs, load_config
from mmatm.errors import InputError
from mmatm.models import Backbone
from mmatm.swap import NoMapsError, base_name, swap_backbone, swapped_text
from mmatm.swap.model_check import ModelCheckError, check_model, checked_part
from mmatm.utils.environment import versions
from mmatm.utils.files import alone, whole_file
from mmatm.utils.markdown import table

TOOLBOXES = ('mmdet', 'mmseg')
_TIMEOUT = 600  # seconds, of a check
_TOGETHER = 8
RUNS = 'runs'
# Of failures that a config has as it is: others are the toolbox's.
_DEFECTS = {
    'the environment, without a package or file': r'is not installed|pip install|urlopen|mim install',
    'the environment, without CUDA': r'for device cpu not found|process group has not been|CUDA|features.size',
}
OUTCOMES = {
    'run': 'swapped and run',
    'built': 'swapped and built',
    'refused': 'refused',
    'failed': 'failed',
}
# Some configs need them.
_OPTIONAL = ('lap', 'motmetrics', 'scikit-image', 'scikit-learn', 'timm', 'transformers', 'detectron2')
_HEAD = """# {name} in every config of mmdet and mmsegmentation

Written by `python tools/dev/swap_zoo.py`; every config's line is in [swap_zoo.csv](swap_zoo.csv). "swapped and
run": the backbone was swapped for {name} of size {arch} by a config of differences, which was read back and built a
model that predicted and, where it trains as a whole, had a finite loss, on dummy inputs on the CPU. "to be swapped and
run": the config passes the same check as it is, and its backbone returns feature maps. Equal models shared a check.
"""


@dataclass(frozen=True)
class Outcome:
    """What came of a config.

    Attributes:
        config: Its name, as MMEngine takes it.
        backbone: The types of its backbones.
        outcome: ``'run'``, ``'built'`` (but it did not run), ``'refused'`` or ``'failed'``.
        reason: Of all but ``'run'``: the refusal's message or the error.
        original: ``'runs'``, or the error with which the config as it is fails the same check.
        gives_maps: Whether the old backbone returns feature maps.
    """

    config: str
    backbone: str
    outcome: str
    reason: str
    original: str
    gives_maps: bool

    @property
    def counts(self) -> bool:
        """Whether the config should have been swapped and run."""
        return self.original == RUNS and self.gives_maps

    @property
    def defect(self) -> str:
        """Whose defect it is that the model did not run."""
        if self.outcome in ('run', 'refused'):
            return ''
        if self.original == RUNS or _stage(self.original) != _stage(self.reason):
            return 'mmatm'
        for whose, words in _DEFECTS.items():
            if re.search(words, self.original):
                return whose
        return 'the toolbox'


def _stage(reason: str) -> str:
    return reason.partition(':')[0]


def leaf_configs(toolbox: str) -> list[str]:
    """The names of a toolbox's configs but those under `_base_`."""
    root = installed_configs(toolbox)
    names = (path.relative_to(root).as_posix() for path in sorted(root.rglob('*.py')))
    return [f'{toolbox}::{name}' for name in names if '_base_/' not in name]


def examine(name: str, backbone: str, arch: str, cache: Path, compare: bool = True) -> Outcome:
    """Swaps the backbone of a config, and checks the model with it and as it was.

    Args:
        name: Of the config.
        backbone: The type of the new backbone.
        arch: Its size.
        cache: A folder for the results of checks. Models that are the same share one.
        compare: Whether to check the config as it is too, or leave that empty.
    """
    try:
        cfg = load_config(name)
    except Exception as error:
        return Outcome(name, '', 'failed', f'read: {_words(error)}', f'read: {_words(error)}', False)
    before, outcome, reason, gives_maps = '', 'run', '', True
    try:
        swap = swap_backbone(cfg, arch, backbone=backbone)
        old = [change.old for change in swap.changes if change.path[-1] == 'backbone']
        before = ', '.join(node['type'] for node in old)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'swapped.py'
            path.write_text(swapped_text(swap, base_name(name, swap.cfg, path.parent)))
            written = load_config(str(path))
        if without_scope(written) != without_scope(swap.cfg):
            raise AssertionError('the file that was written is another config')
        if swap_backbone(written, arch, backbone=backbone).changes:
            raise AssertionError('swapping again changes something')
        reason = _check(written, cache)
        if reason:
            outcome = 'failed' if reason.startswith('build') else 'built'
    except InputError as error:
        outcome, reason, gives_maps = 'refused', str(error), not isinstance(error, NoMapsError)
    except Exception as error:
        outcome, reason = 'failed', f'{type(error).__name__}: {_words(error)}'
    original = ''
    if not isinstance(cfg.get('model'), dict):
        original, gives_maps = 'no model', False
    elif compare:
        original = _check(cfg, cache) or RUNS
    return Outcome(name, before, outcome, reason, original, gives_maps)


def without_scope(node: Any) -> Any:
    """A config's content as plain lists and dicts, without the scopes that MMEngine notes on inheriting."""
    if isinstance(node, Config):
        node = node._cfg_dict
    if isinstance(node, dict):
        return {key: without_scope(value) for key, value in node.items() if key != '_scope_'}
    return [without_scope(entry) for entry in node] if isinstance(node, (list, tuple)) else node


def _check(cfg: Config, cache: Path) -> str:
    """The error with which a model fails the check, '' if it runs."""
    content = [cfg.get('default_scope'), cfg.get('find_unused_parameters'), without_scope(checked_part(cfg, 0))]
    key = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    path = cache / key
    if path.exists():
        return path.read_text()
    error = ''
    before = signal.signal(signal.SIGALRM, _stop)
    signal.alarm(_TIMEOUT)
    try:
        check_model(cfg)
    except (ModelCheckError, InputError, _Timeout) as failure:
        error = _words(failure)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    # One that is cut short would be read as that of a model that runs. All processes write into one folder.
    with alone(cache), whole_file(path) as whole:
        whole.write_text(error)
    return error


class _Timeout(BaseException):
    """Passes what catches exceptions."""


def _stop(*_: Any) -> None:
    raise _Timeout(f'forward: more than {_TIMEOUT} s')


def _words(error: BaseException) -> str:
    """An error's text in one line, without what is another on each machine or in each run."""
    words = ' '.join(str(error).split())
    words = re.sub(r'(/[\w.\-]+)+/(?=[\w.\-]+)', '', words)
    return re.sub(r'0x[0-9a-f]+', '0x...', words)[:250]


# All of them


def examine_all(names: Sequence[str], backbone: str, arch: str, folder: Path, jobs: int) -> Iterator[Outcome]:
    """Examines configs; what was stopped is resumed.

    Args:
        names: Of the configs.
        backbone: The type of the new backbone.
        arch: Its size.
        folder: Where the outcomes are kept, one JSON line each, and the checks of models.
        jobs: Processes, of one thread each.

    Yields:
        Outcomes, those kept from before first.
    """
    folder = folder.absolute()
    (folder / 'checks').mkdir(parents=True, exist_ok=True)
    path, of = folder / 'outcomes.jsonl', folder / 'environment.txt'
    now = f'{backbone} {arch}. {environment()}'
    if of.exists() and of.read_text() != now:
        raise InputError(
            f'{folder} holds outcomes of another environment or backbone; give another folder with --work-dir'
        )
    of.write_text(now)
    kept = {outcome.config: outcome for outcome in read_outcomes(path)}
    path.write_text(''.join(map(_line, kept.values())))  # without a line that was cut short
    yield from (kept[name] for name in names if name in kept)
    left = [name for name in names if name not in kept]
    # Neighbours often have the same model.
    tasks = [left[i : i + _TOGETHER] for i in range(0, len(left), _TOGETHER)]
    # New processes after some tasks: models leave memory behind.
    with get_context('spawn').Pool(jobs, _quiet, maxtasksperchild=10) as pool, path.open('a') as file:
        for outcomes in pool.imap_unordered(partial(_examine_some, backbone, arch, folder / 'checks'), tasks):
            for outcome in outcomes:
                file.write(_line(outcome))
                file.flush()
                yield outcome


def _line(outcome: Outcome) -> str:
    return json.dumps(asdict(outcome)) + '\n'


def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    logging.disable(logging.CRITICAL)


def _examine_some(backbone: str, arch: str, cache: Path, names: Sequence[str]) -> list[Outcome]:
    outcomes = []
    for name in names:
        os.chdir(installed_configs(name.split('::')[0]).parent)  # paths in configs begin there
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            outcomes.append(examine(name, backbone, arch, cache))
    return outcomes


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes kept in a file, without a line that was cut short."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [Outcome(**json.loads(line)) for line in lines if line.endswith('\n')]


# The table


def environment() -> str:
    """A line on what the outcomes depend on."""
    return f'Seen with {", ".join(f"{name} {version}" for name, version in versions(_OPTIONAL).items())}.'


def write_csv(outcomes: Iterable[Outcome], path: Path) -> None:
    """Writes outcomes, a line each, by name."""
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Outcome)], lineterminator='\n')
        writer.writeheader()
        writer.writerows(asdict(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.config))


def read_csv(path: Path) -> list[Outcome]:
    """Reads what `write_csv` wrote."""
    with path.open(newline='') as file:
        return [Outcome(**{**row, 'gives_maps': row['gives_maps'] == 'True'}) for row in csv.DictReader(file)]


def render(outcomes: Sequence[Outcome], backbone: type[Backbone], arch: str, environment: str) -> str:
    """The table of outcomes, as Markdown."""
    head, rows = ['', 'configs', *OUTCOMES.values()], []
    for toolbox in (*TOOLBOXES, 'both'):
        some = [o for o in outcomes if toolbox == 'both' or o.config.startswith(f'{toolbox}::')]
        due = [o for o in some if o.counts]
        ran = sum(o.outcome == 'run' for o in due)
        share = f'{ran} of {len(due)}, {100 * ran / len(due):.1f} %' if due else 'none'
        rows.append([toolbox, len(some), *_numbers(some), share])
    intro = _HEAD.format(name=backbone.__name__, arch=arch)
    lines = [intro, environment, '', table([*head, 'to be swapped and run'], rows)]
    lines += ['', '## Refused', '', _by_reason(outcomes, ['refused'], lambda o: o.reason)]
    lines += ['', '## Not run', '', _by_reason(outcomes, ['built', 'failed'], _whose)]
    methods = defaultdict(list)
    for outcome in outcomes:
        methods[outcome.config.split('/')[0]].append(outcome)
    rows = [[method, len(some), *_numbers(some)] for method, some in sorted(methods.items())]
    lines += ['', '## By method', '', table(head, rows)]
    return '\n'.join(lines) + '\n'


def _numbers(outcomes: Sequence[Outcome]) -> list[int | str]:
    counts = Counter(outcome.outcome for outcome in outcomes)
    return [counts[key] or '' for key in OUTCOMES]


def _whose(outcome: Outcome) -> str:
    before = '' if outcome.original in (RUNS, outcome.reason) else f' (before: {outcome.original})'
    return f'{outcome.defect}: {outcome.reason}{before}'


def _by_reason(outcomes: Sequence[Outcome], kinds: Sequence[str], reason: Callable[[Outcome], str]) -> str:
    by_reason = defaultdict(list)
    for outcome in outcomes:
        if outcome.outcome in kinds:
            by_reason[reason(outcome)].append(outcome.config)
    most_first = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = [[len(names), min(names), words.replace('|', '/')] for words, names in most_first]
    return table(['configs', 'the first of them', 'reason'], rows)
