"""Run one notebook through papermill, in a kernel of this very environment.

Imports papermill, which takes about a second: import this module where a notebook is to run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from helpers.checks import MIME_TYPE
from helpers.errors import RunnerError
from helpers.runner.parameters import check_parameters

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 120  # seconds; a kernel starts in one, on a busy machine in several
OUTPUT_TIMEOUT = 60  # seconds between a cell's end and the last of its outputs
LOG = "kernel.log"  # what a kernel writes past the notebook; it would tear the progress bar


@dataclass
class Result:
    """What came of one notebook. `error` is empty if it ran to its end."""

    name: str
    output: Path
    seconds: float
    passed: int = 0
    failed: int = 0
    cell: int = 0
    source: str = ""
    error: str = ""
    traceback: str = ""


class Kernel(AsyncKernelManager):
    """Starts IPython with the running Python.

    A kernel specification called python3 in the reader's home folder may name another Python; it
    is not looked at, and neither are the start-up files of the reader's IPython profile.
    """

    scratch: ClassVar[str] = ""
    groups: ClassVar[set[int]] = set()

    @property
    def kernel_spec(self) -> KernelSpec:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            metadata={"supported_encryption": ["curve"]},
            env={
                "IPYTHONDIR": self.scratch,
                "MPLBACKEND": "module://matplotlib_inline.backend_inline",
                "PYTHONPATH": os.pathsep.join(paths),
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "TF_USE_LEGACY_KERAS": "1",
            },
        )

    async def start_kernel(self, **options) -> None:
        """Start it, and remember its process group: everything a notebook starts belongs to it."""
        with open(Path(self.scratch) / LOG, "wb") as log:
            await super().start_kernel(stdout=log, stderr=log, **options)
        self.groups.add(self.provisioner.pid)

    @classmethod
    def end_all(cls) -> None:
        """Kill what a kernel, or a server that its notebook started, has left running."""
        while cls.groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(cls.groups.pop(), signal.SIGKILL)


def run_notebook(
    path: Path,
    output: Path,
    parameters: dict[str, object] | None = None,
    *,
    cell_timeout: int,
    notebook_timeout: int,
    on_cell: Callable[[int], None] = lambda index: None,
) -> Result:
    """Execute the notebook at `path` and keep the executed copy at `output`.

    The kernel works in the notebook's own folder, as JupyterLab does.

    Args:
        path: the notebook; it is not changed.
        output: where the executed copy goes, complete or up to the cell that failed.
        parameters: values for names that its `parameters` cell declares.
        cell_timeout: seconds after which one cell counts as hung.
        notebook_timeout: seconds after which the whole notebook does.
        on_cell: called with the index of each cell before it runs.

    Returns:
        What came of it; a failing notebook is a result, not an exception.

    Raises:
        RunnerError: a parameter that the notebook does not declare, or of another type.
    """
    parameters = parameters or {}
    check_parameters(path, parameters)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    result = Result(path.stem, output, 0.0)

    def cell_started(cell, cell_index):
        result.cell, result.source = cell_index, cell.source
        on_cell(cell_index)

    limit = ""

    def seconds_for(cell):
        nonlocal limit
        left = int(notebook_timeout - (time.monotonic() - start))
        if left < cell_timeout:
            limit = f"the notebook was given {notebook_timeout} s"
            return max(1, left)
        limit = f"a cell is given {cell_timeout} s"
        return cell_timeout

    # papermill formats its paths as `str.format` templates.
    paths = [str(file).replace("{", "{{").replace("}", "}}") for file in (path, output)]
    with tempfile.TemporaryDirectory() as Kernel.scratch:
        try:
            papermill.execute_notebook(
                *paths,
                parameters,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                start_timeout=START_TIMEOUT,
                cwd=path.parent,
                kernel_manager_class=Kernel,
                iopub_timeout=OUTPUT_TIMEOUT,
                timeout_func=seconds_for,
                on_cell_start=cell_started,
            )
        except papermill.PapermillExecutionError as error:
            result.cell, result.source = error.cell_index, error.source
            result.error = f"{error.ename}: {error.evalue}"
            result.traceback = str(error)
        except CellTimeoutError:
            result.error = f"Still running when its time was up: {limit}."
        except DeadKernelError:
            result.error = (
                "The kernel died. Most often the machine ran out of memory: "
                "close other programs, or try DATASET=digits."
            )
            result.traceback = (Path(Kernel.scratch) / LOG).read_text(errors="replace")
        except RuntimeError as error:
            result.error = f"The kernel cannot be used: {error}"
            result.traceback = (Path(Kernel.scratch) / LOG).read_text(errors="replace")
        finally:
            Kernel.end_all()
    result.seconds = time.monotonic() - start
    result.passed, result.failed = count_checks(output)
    return result


def count_checks(path: Path) -> tuple[int, int]:
    """Return how many checks passed and failed in the executed notebook at `path`."""
    if not path.exists():
        return 0, 0
    try:
        notebook = nbformat.read(path, as_version=4)
    except (ValueError, nbformat.ValidationError) as error:
        raise RunnerError(f"{path} is not a readable notebook: {error}") from error
    counts = [
        data.data[MIME_TYPE]
        for cell in notebook.cells
        for data in cell.get("outputs", [])
        if MIME_TYPE in data.get("data", {})
    ]
    return sum(c["passed"] for c in counts), sum(c["failed"] for c in counts)
