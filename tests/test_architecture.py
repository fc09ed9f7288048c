"""What docs/architecture.md says of imports is so."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

from conftest import ROOT

graph = SimpleNamespace(**runpy.run_path(str(ROOT / 'tools/dev/import_graph.py')))
PAGE = (ROOT / 'docs/architecture.md').read_text()
IMPORTS = list(graph.imports(graph.sources()))
# The classes of backbones, by their files.
BACKBONES = {
    path.removesuffix('.py').replace('/', '.'): name
    for path, text in graph.sources().items()
    for name in re.findall(r'^class (\w+)\(Backbone\):', text, re.M)
}
# All other files in models/ belong to one backbone.
SHARED = {'mmatm.models', *(f'mmatm.models.{name}' for name in (
    'backbone', 'layers', 'loading', 'necks', 'options', 'registered', 'stage', 'whole_model'
))}  # fmt: skip


def exceptions(rule: str) -> set[str]:
    """The files and folders that the page excepts from a rule, which begins so, by their module names."""
    (text,) = (item for item in re.split(r'\n(?=- |\n)', PAGE) if item.startswith(f'- {rule}'))
    return {f'mmatm.{path.removesuffix(".py").strip("/").replace("/", ".")}'
            for path in re.findall(r'`(\w+/(?:\w+\.py)?)`', text.partition('but for')[2])}  # fmt: skip


def within(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(f'{place}.') for place in places)


def test_parts_import_from_the_lines_above_theirs():
    line_of = {part: i for i, line in enumerate(graph.floors(PAGE)) for part in line}
    files = [Path(path).relative_to('mmatm') for path in graph.sources()]
    assert set(line_of) == {path.parts[0].removesuffix('.py').replace('__init__', 'mmatm') for path in files}
    wrong = [
        f'{each.importer} imports {each.module}'
        for each in IMPORTS
        for importer, imported in graph.edges([each])
        if line_of[imported] >= line_of[importer]
    ]
    assert not wrong


def test_toolboxes_are_imported_within_functions():
    roots = {'mmdet', 'mmseg', 'mmpretrain', 'mmcv'}
    at_once = {each.importer for each in IMPORTS if not each.delayed and each.module.split('.')[0] in roots}
    assert at_once == exceptions('Toolboxes')


def test_only_models_names_a_backbone():
    names = {
        each.importer
        for each in IMPORTS
        if not within(each.importer, {'mmatm.models'})
        and within(each.module, {'mmatm.models'})
        and (each.module not in SHARED or each.name in BACKBONES.values())
    }
    excepted = exceptions('No file outside')
    assert not [module for module in names if not within(module, excepted)]
    assert not [place for place in excepted if not any(within(module, {place}) for module in names)], 'of no use'


def test_backbones_do_not_import_one_another():
    assert 'mmatm.models.atmnet' in BACKBONES
    assert not [each for each in IMPORTS if each.importer in BACKBONES and each.module in BACKBONES]


def test_the_graph_on_the_page():
    """If it has changed, call `python tools/dev/import_graph.py`, and put the numbers that it prints on the page."""
    pairs = graph.edges(IMPORTS)
    assert (ROOT / 'docs/architecture.svg').read_text() == graph.svg(graph.floors(PAGE), pairs)
    assert graph.counts(pairs) in ' '.join(PAGE.split())


def test_what_counts_as_an_import():
    """By hand, on a package that is made up."""
    files = {
        'mmatm/__init__.py': 'from .errors import InputError',
        'mmatm/errors.py': '',
        'mmatm/a/__init__.py': 'from . import first\nfrom .first import name',
        'mmatm/a/first.py': 'import torch\nfrom mmatm import errors\nfrom ..b import other',
        'mmatm/b/__init__.py': 'import mmatm.errors',
        'mmatm/b/other.py': """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import mmdet
class Class:
    import mmcv
    def method(self):
        if self:
            from mmseg.models import Head
""",
    }
    assert set(graph.imports(files)) == {
        ('mmatm', 'mmatm.errors', 'InputError', False),
        ('mmatm.a', 'mmatm.a.first', '', False),
        ('mmatm.a', 'mmatm.a.first', 'name', False),
        ('mmatm.a.first', 'torch', '', False),
        ('mmatm.a.first', 'mmatm.errors', '', False),
        ('mmatm.a.first', 'mmatm.b.other', '', False),
        ('mmatm.b', 'mmatm.errors', '', False),
        ('mmatm.b.other', 'typing', 'TYPE_CHECKING', False),
        ('mmatm.b.other', 'mmdet', '', True),
        ('mmatm.b.other', 'mmcv', '', False),
        ('mmatm.b.other', 'mmseg.models', 'Head', True),
    }
    pairs = graph.edges(graph.imports(files))
    assert pairs == {('mmatm', 'errors'), ('a', 'errors'), ('a', 'b'), ('b', 'errors')}
    assert graph.reduced(pairs) == {('mmatm', 'errors'), ('a', 'b'), ('b', 'errors')}
    cycle = {('a', 'b'), ('b', 'c'), ('c', 'a'), ('a', 'c')}
    assert len(graph.reduced(cycle)) == 3
    assert all(graph._leads(one, other, graph.reduced(cycle)) for one in 'abc' for other in 'abc')
