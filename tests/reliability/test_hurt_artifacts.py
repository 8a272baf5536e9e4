"""Every file of every committed artefact, hurt in four ways: refused, and nothing is unpickled."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import dill
import pytest

from helpers import artifacts

COMMITTED = artifacts.REPOSITORY / "artifacts"
ALL = sorted(path.parent for path in COMMITTED.glob(f"*/*/{artifacts.RECORD}"))


def flipped(file: Path, other: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncated(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file: Path, other: Path) -> None:
    file.write_bytes(b"")


def swapped(file: Path, other: Path) -> None:
    aside = other.read_bytes()
    other.write_bytes(file.read_bytes())
    file.write_bytes(aside)


@pytest.fixture
def _nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("unpickled before it was refused")

    for module in (pickle, dill):
        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(module, name, refuse)


@pytest.mark.usefixtures("_nothing_is_unpickled")
@pytest.mark.parametrize("how", [flipped, truncated, emptied, swapped])
@pytest.mark.parametrize("source", ALL, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_hurt_file_is_named_and_refused(
    source: Path,
    how: Callable[[Path, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path))
    dataset, name = source.parent.name, source.name
    folder = tmp_path / dataset / name
    shutil.copytree(source, folder)
    stranger = tmp_path / "stranger"
    files = sorted(artifacts.verify(dataset, name).files)
    assert files
    for number, relative in enumerate(files):
        # With the next file of the artefact; the only one with a file of another artefact.
        other = folder / files[(number + 1) % len(files)] if len(files) > 1 else stranger
        shutil.copy(COMMITTED / "README.md", stranger)
        before = {path: path.read_bytes() for path in (folder / relative, other)}
        how(folder / relative, other)
        if len(set(before.values())) == 1 and how is swapped:
            continue  # two files that are the same
        with pytest.raises(artifacts.ArtifactError, match=re.escape(str(folder))) as caught:
            artifacts.load(dataset, name)
        hurt = {str(folder / relative), str(other)} if how is swapped else {str(folder / relative)}
        assert any(one in str(caught.value) for one in hurt)
        for path, content in before.items():
            path.write_bytes(content)
    artifacts.verify(dataset, name)
