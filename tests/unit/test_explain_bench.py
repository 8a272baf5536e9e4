"""`make bench`: every method and artefact is found, measured over HTTP, and written as a table."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from helpers import artifacts
from helpers.serving.explain.methods import METHODS

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks/explain_methods.py"
    spec = importlib.util.spec_from_file_location("explain_methods", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_method_is_measured_on_a_committed_artefact(bench: Any) -> None:
    cases = bench.cases()
    assert {case.method for case in cases} == set(METHODS)
    for case in cases:
        assert artifacts.exists(case.dataset, case.explainer)
        assert case.model is None or artifacts.exists(case.dataset, case.model)
    assert {case.method for case in bench.cases(["TreeShap", "ALE"])} == {"TreeShap", "ALE"}


def test_what_is_measured_is_what_the_server_counts(
    bench: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bench.main(
        ["--only", "TreeShap", "--only", "KernelShap", "--requests", "4",
         "--json", str(tmp_path / "figures.json")]
    )  # fmt: skip
    written = json.loads((tmp_path / "figures.json").read_text())
    shap, tree = written["methods"]
    assert (shap["method"], shap["explainer"]) == ("KernelShap", "credit_risk/kernel_shap")
    assert shap["requests"] == tree["requests"] == 4
    assert 0 < tree["median"] <= tree["p90"] <= tree["longest"]
    assert (tree["calls"], tree["predicted"], tree["model"]) == (0, 0, "in the artefact")
    # The background rows, the row, and all coalitions of the features, some hundred to a request.
    assert 5 <= shap["calls"] <= 30
    assert shap["drawn"] > shap["predicted"] > 20
    assert set(written["machine"]) >= {"processor", "cores", "versions", "load"}
    out = capsys.readouterr().out
    assert written["machine"]["processor"] in out
    assert "| TreeShap " in out


def test_a_table_is_markdown(bench: Any) -> None:
    measured = bench.Measured("ALE", "a/ale", "logistic", 3, 100, 0.0123, 1.5, 2.0, 61.0, 5999.0, 0)
    head, rule, row = bench.table([measured]).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|") == 11
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "ALE, 100 rows"
    assert cells[3:] == ["12.3 ms", "1.50 s", "2.00 s", "61.0", "5,999", "0", "3"]


def test_a_server_that_ends_is_a_sentence(bench: Any) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such artefact')"]
    with (
        pytest.raises(bench.WalkthroughError, match="ended: no such artefact"),
        bench.running(command, {}, "http://127.0.0.1:9/ready"),
    ):
        pass
