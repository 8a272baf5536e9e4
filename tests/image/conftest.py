"""Containers of the image that run.sh built and named. Without one, nothing here is collected."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from .containers import Container, Engine

collect_ignore_glob = [] if os.environ.get("SERVING_IMAGE") else ["test_*.py"]

TF_PORT = 8501


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine(os.environ["SERVING_ENGINE"].split(), os.environ["SERVING_IMAGE"])


@pytest.fixture
def start(engine: Engine) -> Iterator[Callable[..., Container]]:
    """Return start(*command, ...) -> Container, see Engine.start; all are removed after the test."""
    begun: list[Container] = []

    def start(*command: str, **settings: object) -> Container:
        begun.append(engine.start(*command, **settings))  # type: ignore[arg-type]
        return begun[-1]

    yield start
    for container in begun:
        container.remove()


@pytest.fixture(scope="session")
def model(engine: Engine) -> Iterator[Container]:
    """The ResNet32 of artifacts/, served by tf_server."""
    container = engine.start(
        *("python", "-m", "helpers.serving.tf_server", "--model_name=cifar10"),
        *(f"--rest_api_port={TF_PORT}", "--model_base_path=/app/artifacts/cifar10/resnet32"),
        port=TF_PORT,
    )
    try:
        container.wait("/ready")
        yield container
    finally:
        container.remove()
