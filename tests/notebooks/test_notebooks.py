"""Every notebook runs, on CIFAR-10 and on the bundled digits, and is committed fit to be read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from helpers import artifacts
from helpers.checks import MIME_TYPE
from helpers.runner.clean import TRACES
from helpers.runner.execute import run_notebook
from helpers.runner.parameters import check_parameters, declared_parameters
from helpers.stack.local.client import LocalStack
from helpers.train.pipeline import OTHER_NAMES
from tests.notebooks.reduced import REDUCED

# What differs from REDUCED when a notebook trains on the spot, with DATASET=digits.
REDUCED_DIGITS: dict[str, dict[str, object]] = {}

# About tables and texts, the same with both data sets; their parts on images are those of 02 and 08.
MOSTLY_TABLES = ("09_explainer_methods", "10_explanations_in_production")

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
SECONDS = 600  # for one notebook, reduced
LARGEST = 1_500_000  # bytes

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def run(path: Path, folder: Path, parameters: dict[str, object]) -> None:
    """Run the notebook reduced; it must end well, and so must at least one check."""
    result = run_notebook(
        path, folder / path.name, parameters, cell_timeout=SECONDS, notebook_timeout=SECONDS
    )
    assert result.error == "", f"{result.error}\n{result.traceback}"
    assert result.failed == 0
    assert result.passed > 0


@pytest.fixture(scope="module", params=["cifar10", "digits"])
def dataset(request, tmp_path_factory) -> Iterator[str]:
    """A data set, and for its notebooks one local stack, which ends after the last of them.

    With digits CIFAR-10 is hidden (a folder that is named and missing is an error, never a download),
    and the notebooks leave what they train for those after them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STACK_DIR", str(tmp_path_factory.mktemp("stack") / "state"))
        if request.param == "digits":
            made = tmp_path_factory.mktemp("artifacts")
            for name in OTHER_NAMES:  # of tables and texts: committed, and the same in both
                shutil.copytree(artifacts.REPOSITORY / "artifacts" / name, made / name)
            patch.setenv("ARTIFACTS_DIR", str(made))
            patch.setenv("CIFAR10_DIR", str(tmp_path_factory.mktemp("empty") / "no-cifar10-here"))
        try:
            yield request.param
        finally:
            LocalStack().down()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
@each_notebook
def test_runs(path, tmp_path, dataset):
    if dataset == "digits" and path.stem in MOSTLY_TABLES:
        pytest.skip("about tables and texts, the same with both data sets")
    parameters = REDUCED.get(path.stem, {})
    if dataset == "digits":
        parameters = parameters | REDUCED_DIGITS.get(path.stem, {}) | {"DATASET": dataset}
    run(path, tmp_path, parameters)


@pytest.mark.parametrize("table", [REDUCED, REDUCED_DIGITS], ids=["cifar10", "digits"])
def test_reduced_values_are_for_parameters_that_exist(table):
    paths = {path.stem: path for path in NOTEBOOKS}
    for stem, values in table.items():
        assert stem in paths, f"there is no notebook {stem}"
        check_parameters(paths[stem], values)


# ---- What is committed


@pytest.fixture
def code(path) -> list[dict]:
    """The code cells of the notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def outputs(cells: list[dict]) -> list[dict]:
    return [output for cell in cells for output in cell["outputs"]]


@each_notebook
def test_the_first_code_cell_holds_the_parameters(path, code):
    assert "parameters" in code[0]["metadata"].get("tags", [])
    assert declared_parameters(path)["DATASET"] == "cifar10"


@each_notebook
def test_was_run_from_top_to_bottom(path, code):
    counts = [cell["execution_count"] for cell in code if "".join(cell["source"]).strip()]
    assert counts == list(range(1, len(counts) + 1)), "run `make notebooks`"
    assert outputs(code)


@each_notebook
def test_outputs_hold_no_error_and_no_noise(path, code):
    noise = [
        output.get("evalue") or "".join(output["text"])
        for output in outputs(code)
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
    assert noise == []


@each_notebook
def test_outputs_hold_no_secret(path, code):
    keys = [
        value
        for file in (FOLDER.parent / "manifests").rglob("*.yaml")
        for content in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("kind") == "Secret"
        for name, value in content.get("stringData", {}).items()
        if name.endswith("_KEY")
    ]
    assert len(keys) >= 5
    shown = json.dumps(outputs(code))
    assert [key for key in keys if key in shown] == []
    assert "Bearer " not in shown


@each_notebook
def test_outputs_show_without_a_running_kernel(path, code):
    """A widget is blank on a page."""
    assert [o for o in outputs(code) if "application/vnd.jupyter.widget-view+json" in str(o)] == []


@each_notebook
def test_every_picture_has_an_alternative_text(path, code):
    """Figures that are shown after `helpers.plots` was imported have one: helpers/alt_text.py."""
    pictures = [o for o in outputs(code) if "image/png" in o.get("data", {})]
    assert pictures
    without = [o for o in pictures if not o["metadata"].get("image/png", {}).get("alt")]
    assert without == [], "run `make notebooks`"


@each_notebook
def test_names_no_place_of_a_machine(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            for kind in [kind for kind in output.get("data", {}) if kind.startswith("image/")]:
                del output["data"][kind]  # base64 spells anything
    found = re.findall(r"/(?:root|home|Users|tmp|work)/[\w.-]+", json.dumps(notebook))
    assert found == []


@each_notebook
def test_carries_no_trace_of_the_run(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}, "run `make notebooks`"
    keys = {key for cell in notebook["cells"] for key in cell["metadata"]}
    assert keys.isdisjoint(TRACES)
    tags = {tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])}
    assert "injected-parameters" not in tags


@each_notebook
def test_is_small_enough_to_be_read(path):
    assert path.stat().st_size < LARGEST


@each_notebook
def test_ends_with_its_checks(path, code):
    last = code[-1]
    assert "Checks()" in "".join(last["source"])
    counts = [o["data"][MIME_TYPE] for o in outputs([last]) if MIME_TYPE in o.get("data", {})]
    assert [count["failed"] for count in counts] == [0]
    assert counts[0]["passed"] > 0
