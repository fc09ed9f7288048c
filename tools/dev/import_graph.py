#!/usr/bin/env python
"""Prints which parts of mmatm import which, as a Mermaid graph for docs/architecture.md. A part is a module or package
right below mmatm. Arrows that follow from others are left out: if A imports B and B imports C, A may import C too."""

import argparse
import ast
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Import(NamedTuple):
    """An import within a module.

    Attributes:
        importer: The module, `mmatm.engine.runner`; a package stands for its `__init__`.
        module: The module that is imported, of mmatm or of others.
        name: What is imported from it, '' for the module itself.
        delayed: Whether it is done when a function is called, or for types only.
    """

    importer: str
    module: str
    name: str
    delayed: bool


def sources(revision: str | None = None) -> dict[str, str]:
    """The source of each file of the package by its path from the root, at hand or in a revision of Git."""
    if revision is None:
        return {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / 'mmatm').rglob('*.py'))}
    paths = _git('ls-tree', '-r', '--name-only', revision, 'mmatm').splitlines()
    return {path: _git('show', f'{revision}:{path}') for path in paths if path.endswith('.py')}


def _git(*arguments: str) -> str:
    return subprocess.run(['git', *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def imports(files: Mapping[str, str]) -> Iterator[Import]:
    """Every import in files as `sources` gives them; those of modules of the package by their full names."""
    names = {path: '.'.join(Path(path).with_suffix('').parts).removesuffix('.__init__') for path in files}
    known = set(names.values())
    for path, text in files.items():
        package = names[path] if path.endswith('/__init__.py') else names[path].rpartition('.')[0]
        for node, delayed in _nodes(ast.parse(text), False):
            if isinstance(node, ast.Import):
                yield from (Import(names[path], alias.name, '', delayed) for alias in node.names)
            else:
                above = package.split('.')[: len(package.split('.')) + 1 - node.level] if node.level else []
                module = '.'.join([*above, *filter(None, [node.module])])
                for alias in node.names:
                    is_module = f'{module}.{alias.name}' in known
                    target = (f'{module}.{alias.name}', '') if is_module else (module, alias.name)
                    yield Import(names[path], *target, delayed)


def _nodes(node: ast.AST, delayed: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, delayed
        is_later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(child, ast.If) and ast.unparse(child.test) == 'TYPE_CHECKING'
        )
        yield from _nodes(child, delayed or is_later)


def part(module: str) -> str:
    """The part that a module of the package is in: `engine` for `mmatm.engine.runner`, `mmatm` for `mmatm/__init__`."""
    return [*module.split('.'), 'mmatm'][1]


def edges(found: Iterable[Import]) -> set[tuple[str, str]]:
    """Pairs of parts, the first of which imports the second."""
    pairs = {(part(each.importer), part(each.module)) for each in found if each.module.split('.')[0] == 'mmatm'}
    return {(importer, imported) for importer, imported in pairs if importer != imported}


def reduced(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The pairs that do not follow from others."""
    kept = set(pairs)
    for pair in sorted(pairs):
        if _leads(*pair, kept - {pair}):
            kept.discard(pair)
    return kept


def _leads(start: str, end: str, pairs: set[tuple[str, str]]) -> bool:
    """Whether there is a way from one part to another."""
    reached, new = set(), {start}
    while new:
        reached |= new
        new = {imported for importer, imported in pairs if importer in new} - reached
    return end in reached


def mermaid(pairs: set[tuple[str, str]]) -> str:
    """The graph as text: an arrow leads from who imports to what is imported."""
    return '\n'.join(['flowchart TD', *(f'    {a} --> {b}' for a, b in sorted(reduced(pairs)))]) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--revision', help='of Git, such as 72b4e28; by default the files at hand')
    args = parser.parse_args()
    print(mermaid(edges(imports(sources(args.revision)))), end='')


if __name__ == '__main__':
    main()
