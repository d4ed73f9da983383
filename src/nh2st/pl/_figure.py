"""How every figure looks, and how it is saved and shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase

BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
DARK: Final = "#222222"
GREY: Final = "#8C8C8C"
"""The first three are of Okabe and Ito's palette, which colour-blind readers can tell apart."""

ABOVE: Final[dict[str, Any]] = {
    "loc": "lower left",
    "bbox_to_anchor": (0, 1),
    "borderaxespad": 0.2,
    "handlelength": 1.2,
    "handletextpad": 0.5,
    "columnspacing": 1,
}
"""Place of a legend in one line above the axes, where it covers nothing."""

_SAVED_DPI = 200
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}

_Drawn = TypeVar("_Drawn", Axes, np.ndarray)


@contextmanager
def house_style() -> Iterator[None]:
    """Settings of matplotlib that hold while a figure is made."""
    with matplotlib.rc_context(_STYLE):
        yield


def check_path(save: str | Path | None) -> Path | None:
    """Check that a figure can be written to the path, before anything is drawn.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If the ending of the name is not that of an image file.
    """
    if save is None:
        return None
    path = Path(save).expanduser()
    if not path.parent.is_dir():
        msg = f"The folder {str(path.parent)!r} of `save={str(save)!r}` does not exist; create it first."
        raise FileNotFoundError(msg)
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in known:
        msg = f"`save={str(save)!r}` must end in one of {', '.join(f'.{name}' for name in sorted(known))}."
        raise ValueError(msg)
    return path


def finish(axes: _Drawn, path: Path | None, show: bool | None) -> _Drawn | None:
    """Save and show a figure as asked, and give its axes unless it was shown."""
    figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
    if path is not None:
        figure.savefig(path, dpi=_SAVED_DPI, bbox_inches="tight")
    else:
        # Ticks are made at the first drawing, which has to see the house style.
        figure.draw_without_rendering()
    if (matplotlib.is_interactive() and path is None) if show is None else show:
        plt.show()
        return None
    if path is not None:
        plt.close(figure)
    return axes
