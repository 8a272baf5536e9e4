"""Copies of what a server of the local stack writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.errors import StackError
from helpers.stack.local.client import LocalStack

OLD, NEW = "0" * 16, "f" * 16


def test_the_newest_process_s_folder_is_copied(tmp_path: Path) -> None:
    for age, mark in enumerate((NEW, OLD)):
        folder = tmp_path / "state" / "servers" / f"model-{mark}" / "tmp" / "audit"
        folder.mkdir(parents=True)
        (folder / "audit.sqlite").write_text(mark)
        os.utime(folder, (1000 - age, 1000 - age))
    (tmp_path / "state" / "servers" / f"model-explainer-{OLD}" / "tmp" / "audit").mkdir(
        parents=True
    )
    stack = LocalStack(folder=tmp_path / "state")
    copied = stack.copy("model", "/tmp/audit", tmp_path / "copy")
    assert (copied / "audit.sqlite").read_text() == NEW
    with pytest.raises(StackError, match="model has no folder /tmp/cache"):
        stack.copy("model", "/tmp/cache", tmp_path / "other")
