"""Alternative texts: what a figure says of itself, in a notebook that ran and on its page."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

from helpers import alt_text, explanation_plots, plots
from helpers.dashboards import drawing, model
from helpers.runner.execute import run_notebook
from helpers.runner.report import write_html

ROOT = Path(__file__).resolve().parents[2]
IMAGES = np.zeros((2, 4, 4, 3))
CELLS = (
    "",
    "import matplotlib.pyplot as plt\nfrom helpers import plots",
    'plots.flow(["image", "model\\nserver"])',
    'plt.plot([1, 2])\nplt.title("a < \\"b\\"")\nplt.ylabel("loss")\nplt.xlabel("step")\nplt.show()',
    "from helpers.dashboards.canvas import DashboardFigure\n"
    'figure = DashboardFigure()\naxis = figure.add_subplot()\nfigure.set_label("Dashboard Small")\nfigure',
)
WANTED = ["Flow: image → model server", 'a < "b": loss over step', "Dashboard Small"]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return shown(function, ...): the text of the figure that a function draws."""
    monkeypatch.setattr(plt, "show", lambda: None)

    def shown(function: Callable[..., None], *given: Any, **named: Any) -> str:
        plt.close("all")
        function(*given, **named)
        return alt_text.describe(plt.gcf())

    yield shown
    plt.close("all")


def test_titles_and_axes_are_the_text(shown: Callable[..., str]) -> None:
    assert shown(plots.loss_by_step, [2.0, 1.0]) == (
        "The loss falls: cross-entropy loss over training step"
    )
    matrix = np.array([[9, 1], [2, 8]])
    assert shown(plots.confusion, matrix, ("cat", "dog")) == (
        "Percent of each true class: true over predicted"
    )
    distances = {"1": {"age": 0.1}, "2": {"age": 0.5}}
    assert shown(explanation_plots.distances_by_feature, distances, {"1": False, "2": True}) == (
        "1 no drift: KS distance; 2 drift: KS distance"
    )


def test_figures_of_images_and_texts_say_what_they_hold(shown: Callable[..., str]) -> None:
    assert shown(plots.image_grid, IMAGES, ["cat", "dog\n0.9"]) == "2 images: cat; dog 0.9"
    assert shown(plots.image_grid, IMAGES) == "2 images"
    assert "reconstruction" in shown(plots.reconstructions, IMAGES, IMAGES, IMAGES)
    segments = np.zeros((2, 4, 4), int)
    assert shown(plots.anchors, IMAGES, segments, IMAGES, ["cat", "dog"]).endswith(": cat; dog")
    words = shown(explanation_plots.held_words, ["a bill", "hm"], [[(2, "bill")], []], ["x", "y"])
    assert words == "2 texts, and the words that each anchor holds: bill; nothing"
    table = ({"no. 1": {"age": 33.0}}, {"no. 1": {"age": "age > 30.00"}})
    assert shown(explanation_plots.conditions, *table).endswith("no. 1: age > 30.00")


@pytest.mark.parametrize("path", sorted(ROOT.glob("manifests/monitoring/dashboards/*.json")))
def test_a_dashboard_names_its_panels(path: Path) -> None:
    dashboard = model.read(path)
    figure = drawing._figure(dashboard, [(panel, []) for panel in dashboard.panels], 0.0, 60.0)
    told = alt_text.describe(figure)
    assert told.startswith(f"Dashboard {dashboard.title}, with the panels ")
    assert dashboard.panels[0].title in told
    assert len(told) <= alt_text.LONGEST


def test_a_figure_of_nothing_but_text() -> None:
    figure = Figure()
    figure.add_subplot().text(0, 0, "a\nb")
    assert alt_text.describe(figure) == "a b"


def test_a_picture_keeps_the_size_that_came_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With figure_format "retina", which readers set for all of their notebooks."""
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    formatter = shell.display_formatter.formatters[alt_text.MIME_TYPE]
    formatter.for_type(Figure, lambda figure: ("png", {"width": 300}))
    monkeypatch.setattr(alt_text, "get_ipython", lambda: shell)
    alt_text.add_to_notebook()
    figure = Figure()
    figure.set_label("Small")
    assert formatter(figure) == ("png", {"width": 300, "alt": "Small"})


def test_notebook_and_page_have_the_text_of_every_figure(
    tmp_path: Path, write_notebook: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    executed = tmp_path / "run" / "01_one.ipynb"
    ran = run_notebook(
        write_notebook("01_one.ipynb", *CELLS), executed, cell_timeout=60, notebook_timeout=120
    )
    assert ran.error == ""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    pictures = [
        output["metadata"].get("image/png", {}).get("alt")
        for cell in cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert pictures == WANTED

    with caplog.at_level(logging.WARNING):
        page = write_html(executed, ROOT / "notebooks").read_text(encoding="utf-8")
    assert "Alternative text" not in caplog.text
    assert [image["alt"] for image in BeautifulSoup(page, "html.parser").select("img")] == WANTED
