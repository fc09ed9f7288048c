"""Tables in Markdown."""

from collections.abc import Iterable


def table(head: Iterable[object], rows: Iterable[Iterable[object]], aligned: bool = False) -> str:
    """Writes a table, without a newline after its last row.

    Args:
        head: The titles of the columns.
        rows: The cells of each row, one for each column; a ``|`` in them is escaped.
        aligned: Whether cells are padded to the width of their column, for tables that are read on a terminal too.
    """
    lines = [[str(cell).replace('|', r'\|') for cell in row] for row in (head, *rows)]
    lines.insert(1, ['---'] * len(lines[0]))
    widths = [max(map(len, column)) if aligned else 0 for column in zip(*lines, strict=True)]
    lines[1] = ['-' * max(3, width) for width in widths]
    return '\n'.join(
        f'| {" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |' for line in lines
    )
