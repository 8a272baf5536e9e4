"""A figure whose PNGs are small: notebooks are committed with their pictures."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from PIL import Image

COLORS = 256


class PaletteCanvas(FigureCanvasAgg):
    """Saves PNGs with a palette of 256 colours, which is a third of the bytes and looks the same.

    Its method is the one that both `Figure.savefig` and a notebook's display call.
    """

    def print_png(
        self,
        filename_or_obj: Any,
        *,
        metadata: dict[str, str] | None = None,
        pil_kwargs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write the PNG. `metadata` is left out; the rest is matplotlib's, and done by then."""
        FigureCanvasAgg.draw(self)
        pixels = Image.fromarray(np.asarray(self.buffer_rgba())).convert("RGB")
        # Not Pillow's default, which spends its colours where most pixels are: thin lines lose theirs.
        palette = pixels.quantize(
            COLORS, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE
        )
        options = {
            "optimize": True,
            "dpi": (self.figure.dpi, self.figure.dpi),
            **(pil_kwargs or {}),
        }
        palette.save(filename_or_obj, "PNG", **options)


class DashboardFigure(Figure):
    """A figure that a notebook shows even where pyplot has not told it yet how to show figures."""

    def __init__(self, **options: Any) -> None:
        # None at all would become the notebook's default, constrained layout, once it was saved.
        super().__init__(layout=PlaceHolderLayoutEngine(False, False), **options)
        PaletteCanvas(self)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
