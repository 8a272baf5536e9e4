"""Run the notebooks, on copies (`run`, as `make run` does) or in their place (`notebooks`)."""

from __future__ import annotations

import enum
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from helpers.errors import RunnerError, WalkthroughError
from helpers.runner.parameters import find_notebooks, plan
from helpers.runner.report import Screen, write_html

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False
)


class Dataset(enum.StrEnum):
    """What the notebooks work on."""

    cifar10 = "cifar10"
    digits = "digits"


class Backend(enum.StrEnum):
    """Where the notebooks deploy to."""

    local = "local"
    kind = "kind"


Only = Annotated[str, typer.Option(help="Run only these: a number or a name, commas between.")]
Given = Annotated[
    list[str] | None,
    typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Set a notebook parameter."),
]
CellTimeout = Annotated[int, typer.Option(min=1, help="Seconds after which a cell counts as hung.")]
NotebookTimeout = Annotated[int, typer.Option(min=1, help="The same for a whole notebook.")]
Source = Annotated[Path, typer.Option(help="The folder that holds the notebooks.")]
Runs = Annotated[Path, typer.Option(help="Where the folder of this run is made.")]


@app.command()
def run(
    dataset: Dataset = Dataset.cifar10,
    backend: Backend = Backend.local,
    only: Only = "",
    parameter: Given = None,
    cell_timeout: CellTimeout = 3600,
    notebook_timeout: NotebookTimeout = 7200,
    source: Source = ROOT / "notebooks",
    runs: Runs = ROOT / "runs",
) -> None:
    """Run notebooks; keep executed copies and HTML pages."""
    if (dataset, backend) == (Dataset.digits, Backend.kind):
        raise RunnerError(
            "DATASET=digits is for the local backend: its artefacts are trained on this machine, and the cluster's "
            "bucket has the committed ones."
        )
    paths = find_notebooks(source, only)
    variables = {"DATASET": str(dataset), "BACKEND": str(backend)}
    plans, remarks = plan(paths, variables, _pairs(parameter or []))
    _execute(plans, remarks, runs, cell_timeout, notebook_timeout, backend=backend)


@app.command()
def notebooks(
    dataset: Dataset = Dataset.cifar10,
    backend: Backend = Backend.local,
    only: Only = "",
    cell_timeout: CellTimeout = 3600,
    notebook_timeout: NotebookTimeout = 7200,
    source: Source = ROOT / "notebooks",
    runs: Runs = ROOT / "runs",
) -> None:
    """Run notebooks and write the outputs of those that pass back into them."""
    if (dataset, backend) != (Dataset.cifar10, Backend.local):
        raise RunnerError(
            "The committed notebooks show a full CIFAR-10 run on the local backend: "
            "use `make run` for other values."
        )
    plans = {path: {} for path in find_notebooks(source, only)}
    _execute(plans, [], runs, cell_timeout, notebook_timeout, write_back=True)


def main() -> None:
    """Run the command line; one sentence and exit code 2 for what was asked wrongly."""
    # Whoever ends this process (make, CI, a closed terminal) ends the kernel with it; nohup, which
    # has SIGHUP ignored, does not.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        app()
    except WalkthroughError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _execute(
    plans: dict[Path, dict[str, object]],
    remarks: list[str],
    runs: Path,
    cell_timeout: int,
    notebook_timeout: int,
    write_back: bool = False,
    backend: Backend = Backend.local,
) -> None:
    """Run every notebook of `plans`, one after another: TensorFlow uses every core as it is."""
    screen = Screen(Console())
    for remark in remarks:
        screen.console.print(remark, highlight=False)
    from helpers.runner.execute import run_notebook
    from helpers.runner.stack import stopped_afterwards

    results = []
    try:
        with stopped_afterwards(screen.console, str(backend)):
            folder = _new_folder(runs)
            shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
            for number, (path, parameters) in enumerate(plans.items(), start=1):
                with screen.notebook(path, number, len(plans)) as on_cell:
                    result = run_notebook(
                        path,
                        folder / path.name,
                        parameters,
                        cell_timeout=cell_timeout,
                        notebook_timeout=notebook_timeout,
                        on_cell=on_cell,
                    )
                results.append(result)
                screen.result(result)
                if write_back and not result.error:
                    from helpers.runner.clean import write_cleaned

                    write_cleaned(result.output, path, ROOT)
    except KeyboardInterrupt:
        # asyncio would report the cell that was being waited for as a lost exception.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        screen.console.print(f"Interrupted in {path.stem}; its kernel is stopped.", highlight=False)
        if results:
            screen.table(results, shown)
        sys.exit(INTERRUPTED)
    try:
        for path, result in zip(plans, results, strict=True):
            if result.output.exists():
                write_html(result.output, path.parent)
    finally:
        screen.table(results, shown)
    if any(result.error for result in results):
        sys.exit(1)


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise RunnerError(f"-p {text}: write it as NAME=value.")
        pairs[name] = value
    return pairs


def _new_folder(runs: Path) -> Path:
    """Make and return runs/<time>; a second run within the same second gets a number."""
    name = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder.resolve()
    raise RunnerError(f"{runs} already holds a thousand folders of this second.")
