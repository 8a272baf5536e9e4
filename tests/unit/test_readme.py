"""The README says what is so: figures, notebooks, commands. Links: test_links.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers import cards

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_figures_are_those_of_the_artefacts():
    assert cards.fill_readme(README) == README, "run `python -m helpers.cards`"


def test_names_every_notebook_and_no_other():
    named = set(re.findall(r"\(notebooks/([\w.]+)\)", README))
    assert named == {path.name for path in (REPOSITORY / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)))
)
def test_make_targets_exist(target):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def test_no_placeholder_is_left():
    assert "@@" not in README
