"""A local stack of its own for the tests of this folder, on the artefacts that are committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import artifacts, data
from helpers.client import Client
from helpers.errors import DataError
from helpers.serving.common.polling import wait_for
from helpers.stack.documents import ROOT
from helpers.stack.local.client import LocalStack

EVERYTHING = (
    "storage/s3-credentials.yaml",
    "eventing/broker.yaml",
    "logging/payload-logger.yaml",
    "eventing/trigger-payload-logger.yaml",
    "explainers/cifar10-explained.yaml",
    "detectors/outlier-vae.yaml",
    "eventing/trigger-outlier-vae.yaml",
    "detectors/drift-ks.yaml",
    "eventing/trigger-drift-ks.yaml",
    "metrics/multiclass-metrics.yaml",
    "eventing/trigger-multiclass-metrics.yaml",
)


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """Return poll(check, what, seconds=30), which returns the first true answer of `check`."""

    def poll(check: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
        return wait_for(check, what, seconds=seconds, every=0.2, errors=())

    return poll


@pytest.fixture(scope="session")
def manifest() -> Callable[[str], Path]:
    """Return path(name): a manifest of this repository."""
    return lambda name: ROOT / "manifests" / name


@pytest.fixture(scope="session")
def everything(manifest) -> list[Path]:
    """All components of the walkthrough."""
    return [manifest(name) for name in EVERYTHING]


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Images to send, float32 (1100, 32, 32, 3): test images, or noise where there is no CIFAR-10."""
    try:
        return data.load("cifar10", fallback=False).x_test[:1100]
    except DataError:
        return np.random.default_rng(0).random((1100, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory, everything) -> Iterator[LocalStack]:
    """The whole walkthrough, applied and ready."""
    if not artifacts.exists("cifar10", "resnet32"):
        pytest.skip("artifacts/cifar10/resnet32 is not here")
    stack = LocalStack(folder=tmp_path_factory.mktemp("stack") / "state")
    try:
        stack.apply(*everything)
        stack.wait(timeout=180)
        yield stack
    finally:
        stack.down()


@pytest.fixture
def client(stack: LocalStack) -> Iterator[Client]:
    """A client of the deployed model."""
    with Client(stack.url("cifar10")) as client:
        yield client
