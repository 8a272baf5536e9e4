"""What all tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import helpers  # noqa: F401  (sets what TensorFlow reads at its first import)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def root() -> Path:
    """The folder of the repository."""
    return ROOT


@pytest.fixture
def write_notebook(tmp_path: Path) -> Callable[..., Path]:
    """Return write(name, *code): a notebook whose first cell holds the parameters."""

    def write(name: str, *code: str) -> Path:
        cells = [
            {
                "cell_type": "code",
                "execution_count": None,
                "id": f"cell-{number}",
                "metadata": {"tags": ["parameters"]} if number == 0 else {},
                "outputs": [],
                "source": source,
            }
            for number, source in enumerate(code)
        ]
        path = tmp_path / "notebooks" / name
        path.parent.mkdir(exist_ok=True)
        notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        path.write_text(json.dumps(notebook), encoding="utf-8")
        return path

    return write
