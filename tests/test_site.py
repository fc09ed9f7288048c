"""The site: built strictly and without a network or PyTorch, complete, its links checked, nothing of it from elsewhere.
And the notebook: run anew, and as it is kept."""

import ast
import functools
import importlib
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import FunctionType
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT
from test_docs import PAGES, fences

for package in ('material', 'mkdocstrings', 'nbconvert', 'ipykernel'):
    pytest.importorskip(package, reason=f'{package} is not installed: pip install -e .[docs]')

NOTEBOOK = ROOT / 'docs/first_steps.ipynb'
# Parts of mmatm that users call as they are, but for these modules.
CALLED = ('apis', 'datasets', 'engine', 'visualization')
OF_NO_USE_ALONE = {
    *(f'mmatm.apis.{name}' for name in ('blame', 'onnx_check', 'onnx_graph')),
    *(f'mmatm.engine.{name}' for name in ('launch', 'machines', 'recipe')),
}


class Page(HTMLParser):
    """What a page has: names that links may lead to, links, and what a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {found[key] for key in ('id', 'name') if found.get(key)}
        if tag == 'a' and found.get('href'):
            self.links.append(found['href'])
        elif tag == 'link' and found.get('rel') not in ('canonical', 'prev', 'next'):
            self.loaded.append(found['href'])
        elif found.get('src'):
            self.loaded.append(found['src'])


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    (folder / 'without/torch.py').parent.mkdir()
    (folder / 'without/torch.py').write_text('raise ImportError("to build the site must not take PyTorch")')
    nowhere = 'http://127.0.0.1:9'
    built = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder / 'site')],
        cwd=ROOT,
        env={
            **os.environ,
            **dict.fromkeys(('http_proxy', 'https_proxy'), nowhere),
            'NO_MKDOCS_2_WARNING': '1',  # Material's advice on its successor
            'PYTHONPATH': str(folder / 'without'),
        },
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert 'WARNING' not in built.stderr
    return folder / 'site'


@pytest.fixture(scope='module')
def pages(site):
    """All pages by their paths, but that for addresses that are not there."""
    return {path: Page(path) for path in sorted(site.rglob('*.html')) if path.name != '404.html'}


def test_links_lead_somewhere(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ('http', 'https'):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].ids
            if parts.scheme or not target.is_file() or not known:
                broken.append(f'{path.name}: {link}')
    assert not broken


def test_nothing_is_loaded_from_elsewhere(site, pages):
    loaded = [address for page in pages.values() for address in page.loaded]
    for sheet in site.rglob('*.css'):
        loaded += re.findall(r'(?:url\(|@import )[\'"]?([^\'")\s;]+)', sheet.read_text())
    assert any(address.endswith('.css') for address in loaded)
    assert any(address.endswith('.js') for address in loaded)
    assert not [address for address in loaded if re.match(r'(?!data:)(\w+:)?//|\w+:(?<!data:)', address)]
    # For these, Material's scripts would fetch others.
    assert not [path for path in pages if re.search(r'class="(mermaid|arithmatex)"', path.read_text())]


CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: Debian's package chromium")
def test_search_in_a_site_opened_as_files(site, tmp_path):
    """Without a network, and by docs/iframe-worker.js, as Chromium starts no workers there."""
    shown = subprocess.run(
        [
            *(CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path}'),
            *('--host-resolver-rules=MAP * ~NOTFOUND', '--virtual-time-budget=10000', '--dump-dom'),
            f'file://{site}/index.html?q=receptive+field',
        ],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert 'api/figures.html?h=receptive+field#mmatm.visualization.receptive_field.draw_receptive_field' in shown


def test_files_of_the_repository_are_shown_as_text(site, pages):
    copies = {path for page in pages.values() for link in page.links if 'source/' in (path := urlsplit(link).path)}
    assert 'source/mmatm/models/atmnet.py.txt' in copies
    text = (site / 'source/mmatm/models/atmnet.py.txt').read_text()
    assert text == (ROOT / 'mmatm/models/atmnet.py').read_text()


def test_the_first_page_is_the_beginning_of_the_readme(site, pages):
    from mmatm.models import backbones

    text = re.sub(r'<[^>]+>', '', (site / 'index.html').read_text())
    named = set(re.findall(r'mmatm\.(\w+)', text))
    assert set(backbones()) - {'MetaFormer'} <= named, 'MetaFormer is for comparisons'
    for command in ('tools/demo.sh', 'tools/check.sh', 'python tools/swap_backbone.py mmseg::'):
        assert command in text
    assert 'offsets.webp' in pages[site / 'index.html'].loaded
    assert (ROOT / 'docs/offsets.webp').stat().st_size < 150_000


def exported():
    """What packages export."""
    for package in ('mmatm.models', 'mmatm.ops', 'mmatm.swap'):
        module = importlib.import_module(package)
        yield from (f'{package}.{name}' for name in module.__all__ if callable(getattr(module, name)))


def registered():
    """The classes in the registries."""
    from mmatm import registry

    for kinds in (
        registry.MODELS,
        registry.RUNNERS,
        registry.OPTIM_WRAPPERS,
        registry.OPTIM_WRAPPER_CONSTRUCTORS,
        registry.TOKEN_MIXERS,
    ):
        kinds.import_from_location()
        own = (kind for kind in kinds.module_dict.values() if kind.__module__.startswith('mmatm.'))
        yield from (f'{kind.__module__}.{kind.__name__}' for kind in own)


def defined():
    """The public functions and classes of modules that users call."""
    for path in sorted(path for part in CALLED for path in (ROOT / 'mmatm' / part).glob('[!_]*.py')):
        module = f'mmatm.{path.parent.name}.{path.stem}'
        if module not in OF_NO_USE_ALONE:
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
                    yield f'{module}.{node.name}'


def imported_by_examples():
    """What examples on pages, and the notebook, import."""
    import nbformat

    notebook = nbformat.read(NOTEBOOK, 4)
    examples = [cell.source for cell in notebook.cells if cell.cell_type == 'code']
    examples += [text for page in PAGES for text in fences(page, 'python') if not text.startswith('>>>')]
    for text in examples:
        for node in ast.walk(ast.parse(re.sub(r'^%.*', '', text, flags=re.M))):
            if isinstance(node, ast.ImportFrom) and node.module.split('.')[0] == 'mmatm':
                yield from (f'{node.module}.{alias.name}' for alias in node.names)


@pytest.mark.parametrize('names', [exported, registered, defined, imported_by_examples], ids=lambda f: f.__name__)
@pytest.mark.usefixtures('forget_mixers')
def test_the_reference_has_everything(names, site, pages):
    known = {name for path, page in pages.items() if path.parent.name == 'api' for name in page.ids}
    wanted = set(names())
    assert len(wanted) > 10

    def is_there(name: str) -> bool:
        module, _, last = name.rpartition('.')
        kind = getattr(importlib.import_module(module), last)
        # Constants are named by what takes them; classes are described where users import them from.
        return not isinstance(kind, (type, FunctionType)) or bool({name, f'mmatm.models.{last}'} & known)

    assert not sorted(name for name in wanted if not is_there(name))


@functools.cache
def read_notebook():
    import nbformat

    return nbformat.read(NOTEBOOK, 4)


def printed(cell):
    return ''.join(output.text for output in cell.outputs if output.output_type == 'stream')


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Anew, with a training of a few iterations. What does not depend on these prints what is kept."""
    from nbclient import NotebookClient

    monkeypatch.setenv('MMATM_ITERATIONS', '4')
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setenv('PYTHONPATH', str(ROOT), prepend=os.pathsep)
    notebook = read_notebook().copy()
    kept = [printed(cell) for cell in notebook.cells if cell.cell_type == 'code']
    NotebookClient(notebook, timeout=200, resources={'metadata': {'path': str(tmp_path)}}).execute()
    now = [printed(cell) for cell in notebook.cells if cell.cell_type == 'code']
    (training,) = (i for i, text in enumerate(kept) if 'mIoU' in text)
    assert re.fullmatch(r'(iteration \d: loss \d\.\d\d\n){4}mIoU \d+\.\d\n', now[training])
    # The loss of a check may be rounded in another way by another processor.
    before = [[re.sub(r'loss \d+\.\d+', 'loss', text) for text in each[:training]] for each in (now, kept)]
    assert before[0] == before[1]
    assert not [
        output for cell in notebook.cells for output in cell.get('outputs', []) if output.get('name') == 'stderr'
    ]


def test_the_notebook_is_kept_as_it_ran():
    text = NOTEBOOK.read_text()
    assert len(text) < 300_000
    assert not re.findall(r'(?<![\w.])/(?:home|root|tmp|work|usr)/', text)
    cells = [cell for cell in read_notebook().cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.get('name') == 'stderr']
    assert sum('image/jpeg' in output.get('data', {}) for cell in cells for output in cell.outputs) == 5
