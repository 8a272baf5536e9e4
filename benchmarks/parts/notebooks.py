"""Seconds of each notebook in `make run`: those of the project's README, or, if asked for alone, a new run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.figures import Found, Table
from benchmarks.servers import ROOT
from helpers.errors import WalkthroughError

README = ROOT / "README.md"
RUN_SECONDS = 1800.0
README_LINE = re.compile(r"\| \[(\w+)\]\(notebooks/\w+\.ipynb\) \|[^|]*\|[^|]*\| (\d+) \|")
RUNNER_LINE = re.compile(r"passed (\w+) in (\d+) s")


def committed() -> dict[str, float]:
    """Return the seconds of each notebook that the README has, from the run whose outputs are committed."""
    text = README.read_text(encoding="utf-8")
    return {name: float(seconds) for name, seconds in README_LINE.findall(text)}


def run() -> dict[str, float]:
    """Run every notebook, with a local stack of its own, and return their seconds.

    Raises:
        WalkthroughError: one of them fails, or all of them take too long.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        environment = {**os.environ, "STACK_DIR": str(Path(folder) / "stack")}
        command = [sys.executable, "-m", "helpers.runner", "run"]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=RUN_SECONDS,
            )
        except subprocess.TimeoutExpired as problem:
            raise WalkthroughError(f"make run took longer than {RUN_SECONDS:g} s.") from problem
    if done.returncode:
        raise WalkthroughError(f"make run failed: {(done.stdout + done.stderr)[-1500:]}")
    return {name: float(seconds) for name, seconds in RUNNER_LINE.findall(done.stdout)}


def measure(quick: bool, alone: bool = False) -> Found:
    """Read the seconds of the README; measure them where this part is asked for alone.

    Raises:
        WalkthroughError: there is no figure for a notebook.
    """
    seconds = run() if alone and not quick else committed()
    missing = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} - set(seconds)
    if missing:
        raise WalkthroughError(f"There are no seconds of {', '.join(sorted(missing))}.")
    found = Found()
    whose = "measured in this run" if alone and not quick else "as the project's README has them"
    found.add(
        "notebooks_all", f"make run, {len(seconds)} notebooks, {whose}", sum(seconds.values()), "s"
    )
    lines = sorted(seconds.items())
    found.tables.append(Table(f"Notebooks, {whose}", ("Notebook", "Seconds"), lines))
    return found
