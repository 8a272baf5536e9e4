"""The figures of the notebooks: that what stands in them can be read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from helpers import plots

NAMES = ("cat", "dog", "truck")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that were shown, drawn."""
    found: list[Figure] = []

    def show() -> None:
        for number in plt.get_fignums():
            found.append(plt.figure(number))
            found[-1].canvas.draw()

    monkeypatch.setattr(plt, "show", show)
    yield found
    plt.close("all")


def brightness(color: object) -> float:
    return float(np.dot(to_rgb(color), (0.299, 0.587, 0.114)))


def test_numbers_of_a_confusion_stand_out_from_their_cells(shown: list[Figure]) -> None:
    plots.confusion(np.array([[80, 20, 0], [12, 84, 4], [1, 1, 98]]), NAMES)
    axis = shown[0].axes[0]
    (picture,) = axis.images
    for text in axis.texts:
        column, row = (int(place) for place in text.get_position())
        if row != column:
            cell = picture.to_rgba(picture.get_array())[row, column, :3]
            assert abs(brightness(cell) - brightness(text.get_color())) > 0.4, (row, column)


def test_a_line_does_not_cross_the_values_of_bars(shown: list[Figure]) -> None:
    plots.bars(NAMES, [0.80, 0.95, 0.99], "accuracy", "Of each class", mark=0.85)
    axis = shown[0].axes[0]
    (line,) = axis.lines
    at = axis.transData.transform((0.85, 0))[0]
    crossed = [
        text
        for text in axis.texts
        if text.get_window_extent().x0 < at < text.get_window_extent().x1
    ]
    assert crossed, "this test needs a value where the line is"
    for text in crossed:
        assert text.get_zorder() > line.get_zorder()
        assert text.get_bbox_patch().get_facecolor()[:3] == (1, 1, 1)


def test_ticks_of_a_score_histogram_do_not_overlap(shown: list[Figure]) -> None:
    scores = np.linspace(0, 0.0205, 200)
    plots.score_histogram({"test images": scores, "with Gaussian noise, severity 5": scores}, 0.008)
    axis = shown[0].axes[0]
    low, high = axis.get_xlim()
    boxes = [
        tick.label1.get_window_extent()
        for tick in axis.xaxis.get_major_ticks()
        if low <= tick.get_loc() <= high
    ]
    assert len(boxes) > 2
    assert all(left.x1 + 4 < right.x0 for left, right in itertools.pairwise(boxes))
