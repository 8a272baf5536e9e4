"""A local stack of its own for the tests of this folder, on the artefacts that are committed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from helpers import artifacts, data
from helpers.client import Client
from helpers.errors import DataError
from helpers.serving.common.polling import wait_for
from helpers.stack.alerts import Alert
from helpers.stack.documents import ROOT
from helpers.stack.local.client import LocalStack
from tests.monitoring.firing import FACTORS, GROUPS, evaluated
from tests.monitoring.scaling import scaled

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


@pytest.fixture(scope="module")
def rules(stack: LocalStack, manifest, tmp_path_factory, eventually) -> Iterator[list[str]]:
    """The rules in the stack's Prometheus, faster; their files."""
    if stack.prometheus_url is None:
        pytest.skip(stack.prometheus_note)
    folder = tmp_path_factory.mktemp("rules")
    files = []
    for name in ("serving", "explanations"):
        content = yaml.safe_load(manifest(f"monitoring/rules/{name}.yaml").read_text())
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(scaled(content, FACTORS)))
        files.append(str(file))
    applied = stack.apply(*files)
    assert [str(one) for one in applied] == [
        "prometheusrule/serving created",
        "prometheusrule/explanations created",
    ]
    eventually(lambda: evaluated(stack).keys() == GROUPS, "the rules loaded")
    yield files
    stack.delete(*files)


@pytest.fixture
def fires(stack: LocalStack, rules, eventually) -> Callable[..., Alert]:
    """Return wait(name, labels): the alert with these labels, once it fires."""

    def wait(name: str, labels: dict[str, str], seconds: float = 60) -> Alert:
        def firing() -> Alert | None:
            for one in stack.alerts():
                wanted = one.name == name and labels.items() <= one.labels.items()
                if wanted and one.state == "firing":
                    return one
            return None

        alert = eventually(firing, f"{name} to fire with {labels}", seconds)
        told = alert.annotations["description"]
        assert "walkthrough" in told
        text = " ".join(alert.annotations.values())
        # What a template could not fill in.
        assert not re.search("<no value>|<error|{{", text), text
        return alert

    return wait
