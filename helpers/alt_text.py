"""Alternative texts of figures: what a screen reader says of them, in notebooks and on their pages.

A figure's own label (`Figure.set_label`) is its text; without one it is made of titles, axes and what is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MIME_TYPE = "image/png"
LONGEST = 400  # characters


def describe(figure: Figure) -> str:
    """Return the text of a figure, on one line."""
    text = figure.get_label()
    if not text:
        axes = [axis for axis in figure.axes if axis.get_visible() and not _is_scale(axis)]
        text = joined(_titled(axis) for axis in axes) or joined(
            written.get_text() for axis in axes for written in axis.texts
        )
    text = " ".join(str(text).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def joined(texts: Iterable[str]) -> str:
    """Return the texts on one line, each of them once."""
    return "; ".join(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))


def add_to_notebook() -> None:
    """Have a notebook keep the text of every figure that it shows; nothing where there is no notebook."""
    shell = get_ipython()
    if shell is None:
        return
    # This registers what shows figures; otherwise it comes later, over ours.
    plt.switch_backend(plt.get_backend())
    formatter = shell.display_formatter.formatters[MIME_TYPE]
    try:
        shown = formatter.lookup_by_type(Figure)
    except KeyError:  # not the inline backend
        return

    def with_text(figure: Figure) -> tuple[str, dict[str, Any]] | None:
        png = shown(figure)
        if not png:
            return None
        # With the figure_format "retina" the picture's size comes with it.
        data, metadata = png if isinstance(png, tuple) else (png, {})
        return data, {**metadata, "alt": describe(figure)}

    formatter.for_type(Figure, with_text)


def _is_scale(axis: Axes) -> bool:
    return axis.get_label() == "<colorbar>"


def _titled(axis: Axes) -> str:
    """Return `title: y over x`, as far as there is one."""
    title = " ".join(filter(None, (axis.get_title(loc) for loc in ("left", "center", "right"))))
    axes = " over ".join(filter(None, (axis.get_ylabel(), axis.get_xlabel())))
    return ": ".join(filter(None, (title, axes)))
