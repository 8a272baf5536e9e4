"""OpenAPI documents of the servers, at `/openapi.json`: their own `openapi.yaml`, and what all share."""

from __future__ import annotations

import copy
import functools
from importlib import resources
from typing import Any

import yaml

from helpers.serving.common.errors import ErrorShape, seldon_error

PATH = "/openapi.json"

Document = dict[str, Any]


def document(
    package: str, *, shape_error: ErrorShape, metrics_path: str, shared_paths: bool = True
) -> Document:
    """Return the OpenAPI 3.1 document of a server.

    Args:
        package: holds its `openapi.yaml`, with `info`, `paths` and perhaps `components`.
        shape_error: of its refusals.
        metrics_path: where it has its metrics.
        shared_paths: whether it has the paths of `common/openapi.yaml`.
    """
    shared = copy.deepcopy(_read("helpers.serving.common"))
    own = copy.deepcopy(_read(package))
    frame = shared["paths"]
    frame[metrics_path] = frame.pop("/metrics")
    components = shared["components"]
    for section, entries in own.get("components", {}).items():
        components.setdefault(section, {}).update(entries)
    shape = "SeldonError" if shape_error is seldon_error else "PlainError"
    components["schemas"].setdefault("Refusal", {"$ref": f"#/components/schemas/{shape}"})
    return {
        "openapi": shared["openapi"],
        "info": own["info"],
        "paths": {**own["paths"], **(frame if shared_paths else {})},
        "components": components,
    }


@functools.cache
def _read(package: str) -> Document:
    text = resources.files(package).joinpath("openapi.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
