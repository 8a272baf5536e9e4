"""Run the benchmarks, write results/<part>.json, and README.md from them.

make bench                       everything, ten minutes
make bench ONLY=model,explain    some parts
python -m benchmarks --quick     small counts, to try the harness; nothing is written
python -m benchmarks --report    README.md again from the results that there are
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from benchmarks import machine, report
from benchmarks.figures import Found
from helpers.errors import WalkthroughError

PART_SECONDS = 600.0  # a calm machine needs three minutes for the longest
NOTEBOOK_SECONDS = 2400.0
PARTS = ("model", "explain", "detectors", "servers", "scale", "notebooks", "profiles")


def run_part(part: str, quick: bool, load: float, alone: bool = False) -> dict[str, Any]:
    """Measure one part and return what its file holds.

    Args:
        part: one of PARTS.
        quick: small counts.
        load: average when the run began: later ones are of our own making.
        alone: whether it was asked for by name.

    Raises:
        WalkthroughError: it cannot be measured.
    """
    began, date = time.monotonic(), datetime.datetime.now(datetime.UTC)
    module = import_module(f"benchmarks.parts.{part}")
    options = {"alone": alone} if part == "notebooks" else {}
    with machine.watched(load) as seen:
        found: Found = module.measure(quick, **options)
    (quiet,) = seen
    return {
        "part": part,
        "date": date.strftime("%Y-%m-%d %H:%M"),
        "seconds": round(time.monotonic() - began),
        "quick": quick,
        "calm": quiet.calm,
        **asdict(quiet),
        "code": _revision(),
        "machine": machine.describe(),
        "rows": [asdict(row) for row in found.rows],
        "tables": [asdict(table) for table in found.tables],
        "facts": found.facts,
    }


def _revision() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(
            command, cwd=report.FOLDER, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def main(argv: Sequence[str] | None = None) -> None:
    """Run; exit code 1 where a part could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", default=[], choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="small counts; writes no results")
    parser.add_argument("--report", action="store_true", help="only write README.md again")
    parser.add_argument("--results", type=Path, help="folder of the results, also for --quick")
    parser.add_argument(
        "--wait", type=float, default=0.0, help="seconds to wait for a calm machine first, at most"
    )
    args = parser.parse_args(argv)
    if args.report:
        report.write(args.results or report.RESULTS)
        return
    if not machine.wait_until_calm(args.wait):
        print(
            f"The load average is {machine.load()}, above {machine.CALM_LOAD}: something else is running. "
            "The figures will be marked.",
            file=sys.stderr,
        )
    results = args.results or (None if args.quick else report.RESULTS)
    before = signal.signal(signal.SIGTERM, _stop)  # so that the servers end with it
    try:
        failed = _run(args.only, args.quick, results)
    finally:
        signal.signal(signal.SIGTERM, before)
    if results == report.RESULTS:
        report.write(report.RESULTS)
    if failed:
        sys.exit("\n".join(failed))


def _run(only: Sequence[str], quick: bool, results: Path | None) -> list[str]:
    """Run the parts, one after the other; returns why some of them could not be measured."""
    load, failed = machine.load(), []
    for part in only or PARTS:
        print(f"{part} …", file=sys.stderr, flush=True)
        try:
            with _limited(part):
                content = run_part(part, quick, load, alone=part in only)
        except (WalkthroughError, httpx.HTTPError, OSError) as problem:
            failed.append(f"{part}: {problem}")
            print(failed[-1], file=sys.stderr)
            continue
        print(report.of_part(content), flush=True)
        if results is not None:
            _write(results / f"{part}.json", content)
    return failed


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(f"Ended by signal {number}.")


@contextmanager
def _limited(part: str) -> Iterator[None]:
    """Let a part take so long at most; what it started is ended.

    Raises:
        WalkthroughError: it took longer.
    """
    seconds = NOTEBOOK_SECONDS if part == "notebooks" else PART_SECONDS

    def late(number: int, frame: FrameType | None) -> None:
        raise WalkthroughError(f"not measured within {seconds:g} s; is the machine busy?")

    handler = signal.signal(signal.SIGALRM, late)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


if __name__ == "__main__":
    main()
