"""Config files of differences: read back by MMEngine, they are the base with the changes."""

import copy
import math

import pytest
from mmengine.config import Config

from mmatm.swap.config_text import config_text

BASE = """
model = dict(
    backbone=dict(type='A', depth=50, cfg=dict(x=1, y=2)),
    heads=[dict(type='H', inner=dict(a=1, b=2), c=(1, 2)), {'type': 'I', 'a-b': dict(x=1, y=2)}],
    keys={'a.b': dict(lr=1), 'c': dict(lr=2)},
    sizes=(1, 2),
)
load_from = 'file'
"""


def written(tmp_path, changes):
    """The text for changes of BASE, and the config that MMEngine reads from it, and the one it should read."""
    (tmp_path / 'base.py').write_text(BASE)
    result = Config.fromfile(tmp_path / 'base.py')._cfg_dict.to_dict()
    for path, _, new in changes:
        node = result
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = copy.deepcopy(new)
    text = config_text('./base.py', changes, result, 'a comment')
    (tmp_path / 'new.py').write_text(text)
    return text, Config.fromfile(tmp_path / 'new.py')._cfg_dict.to_dict(), result


@pytest.mark.parametrize(
    'changes',
    [
        [(('model', 'backbone', 'depth'), 50, 18), (('load_from',), 'file', None)],
        [(('model', 'backbone'), {'type': 'A'}, {'type': 'B', 'sizes': (5,), 'names': ['x']})],
        [(('model', 'backbone', 'depth'), 50, {'a': 1})],
        [(('model', 'keys'), {'a.b': {}, 'c': {}}, {'a.b': {'lr': 3}})],
        [(('model', 'keys'), {'c': {}}, {})],
        [(('model', 'keys', 'a.b', 'lr'), 1, 5)],
        [(('model', 'heads', 1, 'a-b', 'x'), 1, 5)],
        [(('model', 'heads', 1, 'type'), 'I', 'J')],
        [(('model', 'heads', 0, 'inner', 'a'), 1, 7), (('model', 'heads', 0, 'c'), (1, 2), (3, 4))],
        [(('model', 'heads', 0, 'inner'), {'a': 1}, {'z': 1})],
        [
            (('model', 'backbone'), {'type': 'A'}, {'type': 'B', 'k': {'a': 1}}),
            (('model', 'backbone', 'k'), {}, {'b': 2}),
        ],
        [
            (('model', 'backbone', 'depth'), 50, float('inf')),
            (('model', 'keys', 'c'), {'lr': 2}, {'lr': [-float('inf'), {'x': (float('inf'),)}]}),
        ],
        # What MMEngine puts in place of these, were they written as they are, is not what is meant.
        [
            (('load_from',), 'file', "{{ fileDirname }}/it's.pth"),
            (('model', 'backbone', 'depth'), 50, '"{{$HOME:x}}" and {{{ _base_.load_from }}}'),
            (('model', 'keys'), {'c': {}}, {'{{fileBasename}}': {'a': '\\{{ fileExtname }}'}}),
        ],
        [],
    ],
)
def test_reads_back(tmp_path, changes):
    text, got, expected = written(tmp_path, changes)
    assert got == expected
    assert all(len(line) <= 104 for line in text.splitlines())


def test_not_a_number_reads_back(tmp_path):
    _, got, _ = written(tmp_path, [(('model', 'backbone', 'depth'), 50, float('nan'))])
    assert math.isnan(got['model']['backbone']['depth'])


def test_base_with_braces_in_its_name(tmp_path):
    folder = tmp_path / '{{ fileBasename }}'
    folder.mkdir()
    (folder / 'base.py').write_text(BASE)
    (tmp_path / 'new.py').write_text(config_text(str(folder / 'base.py'), [], {}, 'for {{ fileDirname }}'))
    assert Config.fromfile(tmp_path / 'new.py').model.backbone.depth == 50


def test_form(tmp_path):
    text, _, _ = written(
        tmp_path,
        [
            (('model', 'backbone'), {'type': 'A'}, {'type': 'B'}),
            (('model', 'heads', 0, 'inner', 'a'), 1, 7),
            (('load_from',), 'file', None),
        ],
    )
    assert (
        text
        == """# a comment
_base_ = './base.py'
model = dict(
    backbone=dict(_delete_=True, type='B'),
    heads=[
        dict(_base_.model.heads[0], inner=dict(_base_.model.heads[0].inner, a=7)),
        _base_.model.heads[1],
    ],
)
load_from = None
"""
    )
