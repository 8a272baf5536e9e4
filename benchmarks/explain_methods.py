"""What each explanation method costs: time, and what it asks of the model.

    make bench                      or  python benchmarks/explain_methods.py [--only KernelShap] [--requests 20]

For every method of the explain server, and every committed artefact of it, the deployed model and the explain
server are started as two processes, as a manifest would, and asked over HTTP for one explanation after the other: the
first test instances of the data set, with the seeds 0, 1, 2, … Seconds are those that the client waits, without
gateway and network; the model's calls are the server's own counters. The server is warm: one request that
is not counted goes first. Nothing else should run on the machine: its load is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import psutil

from helpers import artifacts, data
from helpers.errors import DataError, WalkthroughError
from helpers.metrics import Samples
from helpers.serving.common.polling import wait_for
from helpers.serving.explain.methods import METHODS, method_class
from helpers.serving.payloads import SELDON, TENSORFLOW
from helpers.serving.program import Program, seldon_program, tf_server_program
from helpers.stack.local.ports import Ports

ROOT = Path(__file__).resolve().parents[1]
MODELS = {
    "cifar10": "resnet32",
    "digits": "resnet32",
    "credit_risk": "forest",
    "breast_cancer": "logistic",
    "tickets": "bag_of_words",
}
"""The model of each data set that explainers ask."""

KERAS = "IntegratedGradients"  # explains a Keras model, not an artefact named after the method
ROWS = {"ALE": 100}  # instances of one request, where a method explains the model by many
LIBRARIES = ("alibi", "shap", "tensorflow", "scikit-learn", "numpy")
START_SECONDS = 120.0
REQUEST_SECONDS = 300.0


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Args:
        method: as Seldon names it.
        dataset, explainer: the artefact.
        model: what it asks; None for a method that holds its model.
    """

    method: str
    dataset: str
    explainer: str
    model: str | None


@dataclass(frozen=True)
class Measured:
    """What one case took; seconds of one request, the others means of one request."""

    method: str
    explainer: str
    model: str
    requests: int
    instances: int
    median: float
    p90: float
    longest: float
    calls: float
    predicted: float
    drawn: float


def cases(only: Sequence[str] = ()) -> list[Case]:
    """Return every method with every committed artefact of it, in the order of METHODS."""
    found = []
    every = artifacts.list_all()
    for method, module in METHODS.items():
        if only and method not in only:
            continue
        asks = method_class(method).asks_model
        for artifact in every:
            fits = (
                artifact.format == "keras" and (_folder(artifact) / "model.h5").is_file()
                if method == KERAS
                else artifact.name == module
            )
            if fits:
                model = MODELS.get(artifact.dataset) if asks else None
                if asks and model is None:
                    print(
                        f"{artifact.dataset}/{artifact.name} is left out: MODELS in {__file__} does not "
                        "say which model it asks.",
                        file=sys.stderr,
                    )
                    continue
                found.append(Case(method, artifact.dataset, artifact.name, model))
    return found


def _folder(artifact: artifacts.Artifact) -> Path:
    return artifacts.path(artifact.dataset, artifact.name)


def instances_of(case: Case) -> list[Any]:
    """Return test instances as JSON has them, in the model's own form.

    Raises:
        DataError: the data set is not here.
    """
    if case.dataset in data.TEXTS:
        return list(data.load_texts(case.dataset).x_test)
    if case.dataset in data.TABLES:
        table = data.load_table(case.dataset)
        if case.method == KERAS:
            from helpers.models.tabular import encoding_of

            return encoding_of(table).encode(table.x_test[:200]).astype(float).tolist()
        return table.x_test[:200].tolist()
    return data.load(case.dataset, fallback=False).x_test[:50].tolist()


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], url: str) -> Iterator[None]:
    """Run a server for the block; it is ready when `url` answers 200.

    Raises:
        WalkthroughError: it ends, or is not ready in time; the message has the end of its log.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(os.environ, **environment), stdout=log, stderr=log
        )

        def ready() -> bool:
            if process.poll() is not None:
                log.seek(0)
                raise WalkthroughError(
                    f"{' '.join(command[:4])} ended: {log.read().decode(errors='replace')[-1500:]}"
                )
            return httpx.get(url, timeout=5).status_code == 200

        try:
            wait_for(ready, url, seconds=START_SECONDS, errors=(httpx.TransportError,))
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@contextmanager
def deployed(case: Case, ports: Ports) -> Iterator[tuple[str, str]]:
    """Start the model and the explain server; yields the explainer's address and the protocol."""
    protocol = TENSORFLOW if case.dataset in ("cifar10", "digits") else SELDON
    host = "127.0.0.1:9"  # nobody's; a method that holds its model asks nobody
    if case.model is None:
        with _explainer(case, host, protocol, ports.take()) as url:
            yield url, protocol
        return
    uri = f"s3://walkthrough/{case.dataset}/{case.model}"
    program: Program = (
        tf_server_program("m", uri) if protocol == TENSORFLOW else seldon_program("m", uri)
    )
    chosen = {name: str(ports.take()) for name in ("port", "grpc_port", "metrics_port")}
    chosen["folder"] = tempfile.gettempdir()

    def filled(text: str) -> str:
        for name, value in chosen.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    host = f"127.0.0.1:{chosen['port']}"
    environment = {name: filled(value) for name, value in program.environment.items()}
    command = [filled(word) for word in program.command]
    with (
        running(command, environment, f"http://{host}{program.ready_path}"),
        _explainer(case, host, protocol, ports.take()) as url,
    ):
        yield url, protocol


@contextmanager
def _explainer(case: Case, host: str, protocol: str, port: int) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "helpers.serving.explain", "--model_name=m"),
        *(f"--predictor_host={host}", f"--protocol={protocol}", f"--http_port={port}"),
        *(f"--storage_uri=s3://walkthrough/{case.dataset}/{case.explainer}", case.method),
    ]
    with running(command, {}, f"{url}/ready"):
        yield url


def measure(case: Case, requests: int, seconds: float, ports: Ports) -> Measured:
    """Ask for so many explanations, or for so long.

    Raises:
        WalkthroughError: a server does not start, or an explanation is refused.
    """
    rows, size = instances_of(case), ROWS.get(case.method, 1)
    with deployed(case, ports) as (url, protocol), httpx.Client(timeout=REQUEST_SECONDS) as client:
        path = "/v1/models/m:explain" if protocol == TENSORFLOW else "/api/v1.0/explain"

        def ask(number: int) -> float:
            start = number * size % max(1, len(rows) - size)
            chosen = rows[start : start + size]
            body = (
                {"instances": chosen} if protocol == TENSORFLOW else {"data": {"ndarray": chosen}}
            )
            body["parameters"] = {"seed": number}
            content = json.dumps(body)
            began = time.perf_counter()
            answer = client.post(url + path, content=content)
            took = time.perf_counter() - began
            if answer.status_code != 200:
                raise WalkthroughError(
                    f"{case.method} of {case.dataset} answers {answer.status_code}: {answer.text[:300]}"
                )
            return took

        def scraped() -> Samples:
            return Samples.parse(client.get(f"{url}/metrics").text)

        ask(0)
        before, took, end = scraped(), [], time.monotonic() + seconds
        while len(took) < requests and (len(took) < 3 or time.monotonic() < end):
            took.append(ask(len(took)))
        counted = scraped() - before

    def mean(name: str) -> float:
        return counted.value(f"explain_server_{name}_sum") / len(took)

    took.sort()
    return Measured(
        case.method,
        f"{case.dataset}/{case.explainer}",
        case.model or "in the artefact",
        len(took),
        size,
        statistics.median(took),
        took[math.ceil(0.9 * len(took)) - 1],
        took[-1],
        mean("model_calls"),
        mean("distinct_samples"),
        mean("samples"),
    )


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, memory, versions, and the load just now."""
    return {
        "processor": _processor(),
        "cores": len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "load": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    named = (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line)
    return next(named, "") or platform.processor() or platform.machine()


def table(lines: Sequence[Measured]) -> str:
    """Return the table in Markdown."""
    head = (
        "Method", "Explainer", "Asks", "Median", "90 %", "Longest", "Calls of the model",
        "Inputs predicted", "Inputs drawn", "Requests",
    )  # fmt: skip
    rows = [
        (
            one.method + (f", {one.instances} rows" if one.instances > 1 else ""),
            one.explainer,
            one.model,
            *map(_seconds, (one.median, one.p90, one.longest)),
            *map(_number, (one.calls, one.predicted, one.drawn)),
            str(one.requests),
        )
        for one in lines
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    left = 3

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if place < left else "-" * (width - 1) + ":"
        for place, width in enumerate(widths)
    ]
    return "\n".join(map(line, (head, rule, *rows)))


def described(found: Mapping[str, Any]) -> str:
    """Return the machine in a sentence or two."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['processor']}, {found['cores']} cores, {found['memory_gib']} GiB, {found['system']}; "
        f"Python {found['python']}, {versions}. Load before the first: {found['load']}."
    )


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print; exit code 1 where a method could not be measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], choices=METHODS)
    parser.add_argument("--requests", type=_positive(int), default=20, help="of each method")
    parser.add_argument(
        "--seconds", type=_positive(float), default=60.0, help="limit of each method's requests"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    found = machine()
    print(described(found), flush=True)
    lines, failed = [], []
    ports = Ports()
    for case in cases(args.only):
        name = f"{case.method} of {case.dataset}/{case.explainer}"
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            lines.append(measure(case, args.requests, args.seconds, ports))
        except DataError as problem:
            print(f"{name} is left out: {problem}", file=sys.stderr)
        except (WalkthroughError, httpx.HTTPError) as problem:
            failed.append(f"{name}: {problem}")
    print(f"\n{table(lines)}" if lines else "\nNothing was measured.")
    if args.json:
        figures = {"machine": found, "methods": [asdict(line) for line in lines]}
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if failed:
        sys.exit("\n".join(failed))


def _positive[T: (int, float)](kind: type[T]) -> Callable[[str], T]:
    def read(text: str) -> T:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError("it must be above 0")
        return value

    return read


if __name__ == "__main__":
    main()
