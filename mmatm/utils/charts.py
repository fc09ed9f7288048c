"""Charts as files that are the same whenever the same is drawn, so that a stale one shows."""

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ID = r'\b[a-z][0-9a-f]{10}\b'


def save_svg(figure: 'Figure', path: Path) -> None:
    """Writes a figure of Matplotlib as SVG, without a date, and with numbers in place of Matplotlib's ids.

    Those are hashes of coordinates in full, whose last digits differ between processors.
    """
    drawn = io.StringIO()
    figure.savefig(drawn, format='svg', metadata={'Date': None})
    path.write_text(_number_ids(drawn.getvalue()))


def _number_ids(svg: str) -> str:
    """Replaces hashed ids by numbers in the order in which they are defined."""
    numbers = {name: f'{name[0]}{i}' for i, name in enumerate(dict.fromkeys(re.findall(f'(?<= id="){_ID}', svg)))}
    return re.sub(_ID, lambda match: numbers.get(match[0], match[0]), svg)
