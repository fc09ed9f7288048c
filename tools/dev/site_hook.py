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
        text, resources = MarkdownExporter().from_filename(notebook.abs_src_path)
        pages[notebook.src_uri.replace('.ipynb', '.md')] = text
        for name, content in resources['outputs'].items():
            files.append(File.generated(config, name, content=content))
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    linked = {path for page in files.documentation_pages() for _, path in _links(page.content_string, page)}
    for path in sorted(linked):
        if not path.startswith('docs/') and path != 'README.md':
            files.append(File.generated(config, _in_site(path), content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Has links lead to where things are in the site."""
    for link, path in set(_links(markdown, page.file)):
        target = posixpath.relpath(_in_site(path), posixpath.dirname(page.file.src_uri))
        markdown = markdown.replace(f']({link}', f']({target}')
    return markdown


def _links(markdown: str, page: File) -> Iterator[tuple[str, str]]:
    """The links of a page to files that are elsewhere in the site, and the path of each from the root."""
    for link in _LINK.findall(markdown):
        path = posixpath.normpath(posixpath.join('docs', posixpath.dirname(page.src_uri), link))
        if (ROOT / path).is_file() and (path.endswith('.ipynb') or not path.startswith('docs/')):
            yield link, path


def _in_site(path: str) -> str:
    """Where a file of the repository is in the site; one that is no page under a name that browsers show as text."""
    if path == 'README.md':
        return 'index.md'
    if path.endswith('.ipynb'):
        return path.removeprefix('docs/').replace('.ipynb', '.md')
    return f'source/{path}.txt'
