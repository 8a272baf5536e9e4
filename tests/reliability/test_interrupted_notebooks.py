"""A notebook that is interrupted in the middle runs when it is run again, on the stack that it left."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from helpers import artifacts
from helpers.runner.execute import Kernel, Result, run_notebook
from helpers.stack.documents import ROOT
from helpers.stack.local.client import LocalStack
from tests.notebooks.reduced import REDUCED

SECONDS = 600
AFTER = 0.05  # seconds from the start of a cell until it is interrupted, and until it is again

# By the end of its kernel and by the reader, in turn.
SIGNALS = itertools.cycle((signal.SIGKILL, signal.SIGINT))
INTERRUPTED = [
    pytest.param(name, sent, id=f"{name}-{sent.name}")
    for name, sent in zip(REDUCED, SIGNALS, strict=False)
]


@pytest.fixture(scope="module")
def _own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if not artifacts.exists("cifar10", "resnet32"):
        pytest.skip("artifacts/cifar10/resnet32 is not here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STACK_DIR", str(tmp_path_factory.mktemp("notebooks") / "state"))
        try:
            yield
        finally:
            LocalStack().down()


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.usefixtures("_own_stack")
@pytest.mark.parametrize(("name", "number"), INTERRUPTED)
def test_an_interrupted_notebook_runs_again(
    name: str, number: signal.Signals, tmp_path: Path
) -> None:
    parameters = REDUCED[name]
    path = ROOT / "notebooks" / f"{name}.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    code = [index for index, cell in enumerate(cells) if cell.cell_type == "code"]
    middle = code[len(code) // 2]
    ended = threading.Event()

    def interrupt() -> None:
        while not ended.wait(AFTER):  # again, where it came between two cells
            for group in list(Kernel.groups):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(group, number)

    timer = threading.Thread(target=interrupt, daemon=True)

    def on_cell(index: int) -> None:
        if index >= middle and not timer.is_alive():
            timer.start()

    first = _run(path, tmp_path / "first.ipynb", parameters, on_cell)
    ended.set()
    timer.join(10)
    # IPython writes no traceback where it ends a cell that awaits something: no KeyboardInterrupt then.
    assert ("The kernel died" in first.error) == (number == signal.SIGKILL)
    assert first.error
    assert first.cell >= middle
    again = _run(path, tmp_path / "again.ipynb", parameters)
    assert again.error == "", f"{again.error}\n{again.traceback}"
    assert again.failed == 0
    assert again.passed > 0


def _run(
    path: Path, output: Path, parameters: dict[str, object], on_cell=lambda index: None
) -> Result:
    return run_notebook(
        path,
        output,
        parameters,
        cell_timeout=SECONDS,
        notebook_timeout=SECONDS,
        on_cell=on_cell,
    )
