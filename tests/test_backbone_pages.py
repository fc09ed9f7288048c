"""The pages on adding and changing backbones: their blocks are run in order, and print what the pages say.

A block of Python that begins with a file's name is that file; the others go on in one session. A block of text is
what the blocks above it have printed and logged, without the times; three dots in it stand for anything.
"""

import contextlib
import doctest
import io
import logging
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import mmengine.registry
import mmpretrain
import pytest
from conftest import ROOT
from mmengine.fileio import load
from mmengine.logging import MMLogger

import golden_data
from mmatm.models import ATMNet
from mmatm.registry import MODELS
from stand_ins import authors_shapes, imagenet_file

FENCE = re.compile(r'^```(\w+)\n(.*?)^```', re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, in which Python finds modules. What they register is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    mine = {file.stem for file in tmp_path.glob('*.py')} & set(sys.modules)
    for registry in (MODELS, mmengine.registry.MODELS, mmengine.registry.TRANSFORMS):
        for name in [name for name, kind in registry.module_dict.items() if kind.__module__ in mine]:
            del registry.module_dict[name]
    for name in mine:
        del sys.modules[name]


class Said(logging.Handler):
    """What blocks print and log since it was asked for last."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.text = io.StringIO()

    def emit(self, record: logging.LogRecord) -> None:
        if record.funcName != '_dump_init_info':  # MMEngine's dump of each parameter
            self.text.write(f'{record.getMessage()}\n')

    def take(self) -> str:
        text, self.text = self.text.getvalue(), io.StringIO()
        return text


def run_page(name: str, command) -> dict:
    """Runs a page and returns what its session has defined."""
    session: dict = {'__name__': name}
    said = Said()
    MMLogger.get_current_instance().addHandler(said)
    for language, text in FENCE.findall((ROOT / 'docs' / name).read_text()):
        if language == 'text':
            got, options = said.take(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(text, got, options), f'{name} says\n{text}\nbut it is\n{got}'
            continue
        assert not (rest := said.take()), f'{name} does not show what its blocks print:\n{rest}'
        if language == 'bash':
            (words,) = (shlex.split(line) for line in text.splitlines())
            assert words[:2] == ['PYTHONPATH=.', 'python']
            said.text.write(command(Path(words[2]).name, *words[3:]))
        elif file := re.match(r'# (\w+\.py)\n', text):
            Path(file[1]).write_text(text)
        else:
            with contextlib.redirect_stdout(said.text):
                exec(compile(text, name, 'exec'), session)
    assert not said.take()
    return session


def test_adding_a_backbone(folder, command):
    session = run_page('adding_a_backbone.md', command)
    listed = load(Path(mmpretrain.__file__).parent / '.mim/configs/poolformer/metafile.yml')['Models'][0]['Metadata']
    assert listed['Parameters'] == 11_915_176  # as the page says
    backbone = sum(p.numel() for p in session['ours'].parameters()) - 2 * (64 + 128 + 320)  # three more norms
    assert backbone + 1000 * (512 + 1) == listed['Parameters']


def test_changing_a_backbone(folder, command):
    (folder / 'checkpoints').mkdir()
    weights = golden_data.authors_weights(authors_shapes(ATMNet.SIZES['xt'], pyramid=False))
    imagenet_file(folder / 'checkpoints/atmnet_xt_in1k.pth', weights)
    session = run_page('changing_a_backbone.md', command)
    # The averaged weights of the file are in the network that all are compared with.
    assert session['plain'].stem.weight.equal(weights['patch_embed.proj.weight'])
    assert session['before'][3].std() > 0.1
