"""A fake cluster for the tests of this folder, and a stack on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.stack.documents import ROOT
from helpers.stack.kind import readiness
from helpers.stack.kind.addresses import Addresses
from helpers.stack.kind.client import KindStack
from tests.fakes.cluster import FakeCluster


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    """A cluster with nothing on it, in $KUBECONFIG."""
    with FakeCluster() as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.delenv("KIND_CONTEXT", raising=False)
        yield cluster


@pytest.fixture
def reached(cluster: FakeCluster) -> Addresses:
    """Where the fake has what is beside its API server."""
    names = ("ingress", "broker", "prometheus", "elasticsearch")
    return Addresses(**{name: f"{cluster.url}/{name}" for name in names})


@pytest.fixture
def stack(reached: Addresses, monkeypatch: pytest.MonkeyPatch) -> Iterator[KindStack]:
    """A stack on the fake cluster, whose operators are quicker than real ones."""
    monkeypatch.setattr(readiness, "SETTLING_SECONDS", 0.1)
    stack = KindStack(reached=reached)
    yield stack
    stack.close()


@pytest.fixture
def manifest() -> Callable[[str], Path]:
    """Return path(name): a manifest of this repository."""
    return lambda name: ROOT / "manifests" / name


@pytest.fixture
def changed(tmp_path: Path, manifest) -> Callable[..., Path]:
    """Return changed(name, edit): a copy of a manifest, its documents edited by `edit(*documents)`."""

    def write(name: str, edit: Callable[..., Any]) -> Path:
        documents = list(yaml.safe_load_all(manifest(name).read_text()))
        edit(*documents)
        path = tmp_path / f"changed-{Path(name).name}"
        path.write_text(yaml.safe_dump_all(documents))
        return path

    return write
