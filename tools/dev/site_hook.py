"""What MkDocs calls when it builds the site, beside mkdocs.yml: pages are written such that a host of Git shows them
too, and no text is kept twice."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r'\]\((?!\w+:)([\w./-]+)')
_WHOLE_WIDTH = '---\nhide: [navigation, toc]\n---\n'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the first page, which is the beginning of README.md, notebooks, and the files outside docs/ that pages link
    to."""
    readme, _, _ = (ROOT / 'README.md').read_text().partition('\n## ')
    pages = {'index.md': _WHOLE_WIDTH + _LINK.sub(lambda link: f']({posixpath.relpath(link[1], "docs")}', readme)}
    for notebook in [file for file in files if file.src_uri.endswith('.ipynb')]:
        files.remove(notebook)
        exporter = MarkdownExporter()
        exporter.register_preprocessor('nbconvert.preprocessors.ExtractOutputPreprocessor', enabled=True)
        text, resources = exporter.from_filename(notebook.abs_src_path)
        pages[notebook.src_uri.replace('.ipynb', '.md')] = text
        for name, content in resources['outputs'].items():
            files.append(File.generated(config, name, content=content))
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    copied = {path for page in files.documentation_pages() for _, path in _outside(page.content_string, page)}
    for path in sorted(copied):
        files.append(File.generated(config, _copy(path), content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Has links to files outside docs/ lead to their copies."""
    for link, path in set(_outside(markdown, page.file)):
        target = posixpath.relpath(_copy(path), posixpath.dirname(page.file.src_uri))
        markdown = markdown.replace(f']({link}', f']({target}')
    return markdown


def _outside(markdown: str, page: File) -> Iterator[tuple[str, str]]:
    """The links of a page to files outside docs/, and the path of each from the root."""
    for link in _LINK.findall(markdown):
        path = posixpath.normpath(posixpath.join('docs', posixpath.dirname(page.src_uri), link))
        if not path.startswith('docs/') and (ROOT / path).is_file():
            yield link, path


def _copy(path: str) -> str:
    """Where a file of the repository is in the site: under a name that browsers show as text."""
    return f'source/{path}.txt'
