#!/usr/bin/env python
"""Draws which parts of mmatm import which, as docs/architecture.svg. A part is a module or package right below mmatm.
Arrows that follow from others are left out: if A imports B and B imports C, A may import C too."""

import argparse
import ast
import re
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


def floors(page: str) -> list[list[str]]:
    """The parts on each line of docs/architecture.md that says what may import what, from the ground up."""
    (block,) = re.findall(r'^```text\n(.*?)^```', page, re.M | re.S)
    return [re.sub(r' \(.*?\)', '', line).split(', ') for line in block.splitlines()]


def svg(floors: list[list[str]], pairs: set[tuple[str, str]]) -> str:
    """The house as an SVG file: a floor for each line, arrows down to what is imported, around what is between."""
    width, height, gap = 760, 34, 74
    total = gap * len(floors) + 6
    places, halves = {}, {}  # level and middle of each part's box, and half of its width
    for level, parts in enumerate(floors):
        for i, part in enumerate(parts):
            places[part] = level, width * (i + 0.5) / len(parts)
            halves[part] = 4.6 * len(part) + 12

    def y(level: float) -> float:
        return total - gap * (level + 0.5)

    def free(x: float, level: int) -> float:
        """The x nearest to one at which an arrow passes no box of a floor."""
        walls = [(places[part][1] - halves[part] - 14, places[part][1] + halves[part] + 14) for part in floors[level]]
        open_ones = [each for each in (x, *sum(walls, ())) if not any(low < each < high for low, high in walls)]
        return min(open_ones, key=lambda each: abs(each - x))

    shapes = [f'<rect width="{width}" height="{total}" fill="white"/>']
    for importer, imported in sorted(reduced(pairs)):
        (top, x), (bottom, end) = places[importer], places[imported]
        path = f'M{x:.0f} {y(top) + height / 2:.0f}'
        above = y(top) + height / 2
        for level in range(top - 1, bottom - 1, -1):
            passing = level > bottom
            straight = x + (end - x) / (level + 1 - bottom)
            to = free(straight, level) if passing else end
            below = y(level) - height / 2 - (0 if passing else 5)
            bend = (above + below) / 2
            path += f'C{x:.0f} {bend:.0f} {to:.0f} {bend:.0f} {to:.0f} {below:.0f}'
            if passing:
                above = y(level) + height / 2
                path += f'V{above:.0f}'
            x = to
        shapes.append(f'<path d="{path}" fill="none" stroke="#8a97a3" stroke-width="1.4" marker-end="url(#end)"/>')
    for part, (level, x) in places.items():
        box = f'x="{x - halves[part]:.0f}" y="{y(level) - height / 2:.0f}" width="{2 * halves[part]:.0f}"'
        shapes.append(f'<rect {box} height="{height}" rx="6" fill="#eef3f7" stroke="#30638e"/>')
        shapes.append(f'<text x="{x:.0f}" y="{y(level) + 5:.0f}" text-anchor="middle">{part}</text>')
    marker = (
        '<marker id="end" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#8a97a3"/></marker>'
    )
    size = f'width="{width}" height="{total}" viewBox="0 0 {width} {total}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="15">'
    return '\n'.join([head, f'<defs>{marker}</defs>', *shapes, '</svg>', ''])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--revision', help='only print the numbers of a revision of Git, such as 72b4e28')
    args = parser.parse_args()
    pairs = edges(imports(sources(args.revision)))
    print(counts(pairs))
    if not args.revision:
        out = ROOT / 'docs/architecture.svg'
        out.write_text(svg(floors((ROOT / 'docs/architecture.md').read_text()), pairs))
        print(f'drawn: {out.relative_to(ROOT)}')


def counts(pairs: set[tuple[str, str]]) -> str:
    """How many parts and pairs there are, in words."""
    parts = {part for pair in pairs for part in pair}
    return f'{len(parts)} parts, {len(pairs)} pairs of which one imports the other, {len(reduced(pairs))} drawn'


if __name__ == '__main__':
    main()
