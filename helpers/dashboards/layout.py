"""Places in a figure, in inches: a panel is so many of them wide whatever else the figure holds."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

CHARACTER = 0.0075  # inches of a character's mean width, for each point of the font's size


@dataclass(frozen=True)
class Place:
    """A rectangle of a figure, in inches from its lower left corner."""

    figure: Figure
    left: float
    bottom: float
    width: float
    height: float

    def axes(
        self, label: str, left: float = 0, bottom: float = 0, right: float = 0, top: float = 0
    ) -> Axes:
        """Return axes that fill the rectangle but for these margins, in inches."""
        whole_width, whole_height = self.figure.get_size_inches()
        width = max(0.05, self.width - left - right)
        height = max(0.05, self.height - bottom - top)
        return self.figure.add_axes(
            (
                (self.left + left) / whole_width,
                (self.bottom + bottom) / whole_height,
                width / whole_width,
                height / whole_height,
            ),
            label=label,
        )

    def canvas(self, label: str) -> Axes:
        """Return axes in inches that fill the rectangle and show nothing of themselves."""
        axis = self.axes(label)
        axis.set(xlim=(0, self.width), ylim=(0, self.height))
        axis.axis("off")
        return axis

    def inside(self, left: float, bottom: float, right: float, top: float) -> Place:
        """Return the rectangle without these margins."""
        return Place(
            self.figure,
            self.left + left,
            self.bottom + bottom,
            self.width - left - right,
            self.height - bottom - top,
        )


@functools.cache
def width_of(text: str, size: float) -> float:
    """Return how many inches a text is wide, glyph by glyph."""
    return float(TextPath((0, 0), text, size=size).get_extents().width) / 72 if text else 0.0


def fit_exactly(text: str, inches: float, size: float) -> str:
    """Return the text, cut with an ellipsis where its glyphs are wider than so many inches."""
    shown, most = text, len(text)
    while most > 1 and width_of(shown, size) > inches:
        most -= 1
        shown = text[:most].rstrip() + "…"
    return shown


def fit(text: str, inches: float, size: float) -> str:
    """Return the text, cut with an ellipsis where it is longer than so many inches."""
    most = max(3, int(inches / (CHARACTER * size)))
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
