"""What the commands keep out of their output, and what they must not."""

import os
import subprocess
import sys
import types
import warnings

import mmengine.logging
import pytest
from conftest import ROOT
from mmengine.logging import MMLogger

from mmatm.utils import quiet

BUILD_LOSS = """
def call():
    mmseg.models.builder.build_loss(dict(type='mmseg.DiceLoss'))
"""
FILE_CLIENT = """
def call():
    mmengine.fileio.FileClient('disk')
"""
LOG = """
def call():
    mmengine.logging.print_log('{words}', 'current', 30)
"""
PRINT = """
def call():
    mmengine.logging.print_log('Could not import OneDL', level=10)
"""
METRIC = """
class Score(mmengine.evaluator.BaseMetric):
    def process(self, *_): pass
    def compute_metrics(self, *_): pass

call = {}
"""


@pytest.fixture
def said(monkeypatch):
    """What is said, by Python's warnings and MMEngine's log, when a function is called in a silenced process."""
    lines = []
    monkeypatch.setattr(MMLogger, 'filter', MMLogger.filter)
    monkeypatch.setattr(mmengine.logging, 'print_log', mmengine.logging.print_log)
    monkeypatch.setattr(
        MMLogger,
        'callHandlers',
        lambda _, record: record.levelname == 'WARNING' and lines.append(record.getMessage()),
    )
    monkeypatch.setattr('sys.warnoptions', [])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        quiet.silence()

        def run(function):
            seen.clear()
            lines.clear()
            function()
            return [str(warning.message) for warning in seen] + lines

        yield run


def module(name, text):
    """A module that is called as said, whoever writes it."""
    made = types.ModuleType(name)
    exec('import torch, mmengine.fileio, mmengine.evaluator, mmseg.models.builder\n' + text, vars(made))
    return made


def warning(words):
    return f'import warnings\ndef call():\n    warnings.warn({words!r})\n'


@pytest.mark.parametrize(
    ('toolbox', 'text'),
    [
        ('mmseg.models.decode_heads.decode_head', BUILD_LOSS),
        ('mmengine.hooks.checkpoint_hook', FILE_CLIENT),
        ('mmengine.utils.package_utils', warning('pkg_resources is deprecated as an API. See')),
        ('mmseg.engine.hooks.visualization_hook', warning('The draw is False, it means that')),
        ('mmseg.models.losses.cross_entropy_loss', warning('Default ``avg_non_ignore`` is False, if you')),
    ],
)
def test_known_of_the_toolboxes_only(said, toolbox, text):
    assert said(module(toolbox, text).call) == []
    assert len(said(module('my_project.parts', text).call)) > 0


def test_what_is_not_known_is_said(said):
    assert said(module('mmseg.models.builder', warning('something new')).call) == ['something new']
    words = 'Failed to search registry with scope "{}" in the "{}" registry tree.'
    for scope, kind, silent in (('mmseg', 'function', True), ('mmseg', 'model', False), ('mine', 'function', False)):
        logged = words.format(scope, kind)
        registry = module('mmengine.registry.registry', LOG.format(words=logged))
        assert said(registry.call) == ([] if silent else [logged])


def test_what_is_printed_for_a_log(said, capsys):
    for name, silent in (('mmseg.datasets', True), ('my_project.datasets', False)):
        said(module(name, PRINT).call)
        assert (capsys.readouterr().out == '') == silent


def test_names_of_metrics(said):
    from mmseg.evaluation import IoUMetric

    assert said(IoUMetric) == []
    assert said(module('my_project.metrics', METRIC).Score) == ['The prefix is not set in metric class Score.']


def test_warnings_of_pytorch_by_who_calls_it(said):
    text = warning('torch.meshgrid: in an upcoming release, it will be required')
    between = module('torch.functional', text)
    for name, count in (('mmdet.models.layers', 0), ('my_project.layers', 1)):
        caller = module(name, 'def call():\n    between.call()\n')
        caller.between = between
        assert len(said(caller.call)) == count


def test_the_first_of_several_processes_says_how_many_threads(said, monkeypatch):
    setting = module('mmengine.utils.dl_utils.setup_env', warning('Setting MKL_NUM_THREADS environment variable'))
    for rank, count in (('0', 1), ('1', 0)):
        monkeypatch.setenv('RANK', rank)
        assert len(said(setting.call)) == count


PROJECT = """
import warnings

import torch
from mmengine.logging import print_log

warnings.warn('a warning of mine')
print_log('a line of mine', 'current', 30)
"""


def test_commands_show_what_is_the_users(tmp_path, config, tool):
    (tmp_path / 'my_noise.py').write_text(PROJECT)
    config.write_text(config.read_text() + "custom_imports = dict(imports=['my_noise'])\n")
    arguments = 'get_flops.py', config, '--shape', 64, 64
    environment = {'PYTHONPATH': f'{tmp_path}:{ROOT}'}
    output = tool(*arguments, fresh=True, **environment, PYTHONWARNINGS='')
    assert 'a warning of mine' in output
    assert 'a line of mine' in output
    assert output.count('UserWarning: ') == 1, output
    output = tool(*arguments, fresh=True, **environment, PYTHONWARNINGS='default')
    assert 'a warning of mine' in output
    assert '``avg_non_ignore``' in output


WORKER = """
import multiprocessing
import warnings

from mmatm.utils.command_line import run

def work():
    exec("import warnings; warnings.warn('The draw is False')", {'__name__': 'mmseg.engine.hooks.visualization_hook'})
    warnings.warn('of my dataset')

def main():
    for method in ('fork', 'spawn'):
        worker = multiprocessing.get_context(method).Process(target=work)
        worker.start()
        worker.join()

if __name__ == '__main__':
    run(main)
"""


def test_worker_processes(tmp_path):
    """Forked ones have the command's settings, spawned ones import it again."""
    (tmp_path / 'command.py').write_text(WORKER)
    done = subprocess.run(
        [sys.executable, tmp_path / 'command.py'],
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': ''},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stderr.count('UserWarning: of my dataset') == 2
    assert 'The draw' not in done.stderr
