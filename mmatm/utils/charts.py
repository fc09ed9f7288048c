"""Charts as files that are the same whenever the same is drawn, so that a stale one shows."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_svg(figure: 'Figure', path: Path) -> None:
    """Writes a figure of Matplotlib as SVG, without a date or random names."""
    import matplotlib

    with matplotlib.rc_context({'svg.hashsalt': 'mmatm'}):
        figure.savefig(path, format='svg', metadata={'Date': None})
