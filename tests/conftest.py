"""What all tests share."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import helpers  # noqa: F401  (sets what TensorFlow reads at its first import)

ROOT = Path(__file__).resolve().parents[1]

# A shell starts its background processes with SIGINT ignored, as tests/run.sh does with half of the tests, and
# what they start inherits that: scripts could not be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture
def try_openapi() -> Callable[..., int]:
    """Return try_out(url, existing, headers, leave_out), which sends a server what fits its OpenAPI
    document and what does not, and returns how many requests that was.

    `existing` has path parameters that exist: they are drawn as often as all others. No answer may
    be a 5xx, hold a traceback, or be one that the document does not announce. $FUZZ_CASES is how many
    requests a server gets about; without it they are few, and the same every time.
    """
    # Imported here: most tests do without.
    import httpx
    import hypothesis
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]

    def aim(document: dict[str, Any], existing: Mapping[str, str]) -> None:
        for operations in document["paths"].values():
            for operation in operations.values():
                parameters = operation.get("parameters", [])
                for number, parameter in enumerate(parameters):
                    name = parameter.get("name")
                    if parameter.get("in") == "path" and name in existing:
                        either = {"anyOf": [{"const": existing[name]}, parameter["schema"]]}
                        parameters[number] = {**parameter, "schema": either}

    def try_out(
        url: str,
        *,
        existing: Mapping[str, str] = {},
        headers: Mapping[str, str] = {},
        leave_out: tuple[str, ...] = (),
    ) -> int:
        document = httpx.get(f"{url}/openapi.json", timeout=30, headers=headers).json()
        aim(document, existing)
        for path in leave_out:
            del document["paths"][path]
        schema = schemathesis.openapi.from_dict(document)
        operations = [found.ok() for found in schema.get_all_operations()]
        settings = hypothesis.settings(
            max_examples=max(1, int(os.environ.get("FUZZ_CASES", 150)) // len(operations) // 2),
            deadline=None,
            derandomize="FUZZ_CASES" not in os.environ,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        )
        tried = 0

        def send(case: schemathesis.Case) -> None:
            nonlocal tried
            tried += 1
            given = {**(case.headers or {}), **headers}
            answer = case.call(base_url=url, headers=given, timeout=60)
            case.validate_response(answer, checks=checks)
            assert "Traceback" not in answer.text

        for operation in operations:
            for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
                cases = operation.as_strategy(generation_mode=mode)
                said = io.StringIO()
                try:
                    with contextlib.redirect_stdout(said):
                        hypothesis.given(cases)(settings(lambda case: send(case)))()
                except hypothesis.errors.Unsatisfiable:  # what could be wrong about a plain GET
                    assert mode is GenerationMode.NEGATIVE, operation.label
                except BaseException:
                    print(said.getvalue())
                    raise
        return tried

    return try_out
