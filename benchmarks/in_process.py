"""The limit: what a server computes, called in a process that does nothing else.

    python -m benchmarks.in_process model|outlier

A process of its own, so that its threads are not the load generator's. Says `ready`, then reads one JSON object
a line, `{"rows": 32, "seconds": 2}`, and answers each with `{"rows_per_second": …, "p50": …}`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.figures import percentile
from helpers import data
from helpers.errors import WalkthroughError
from helpers.serving.storage import locate

ANSWER_SECONDS = 120.0  # to load, and beyond what was asked for


class InProcess:
    """The process, as a part of the benchmarks asks it.

    Args:
        what: `model` or `outlier`.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.in_process", what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def wait(self) -> None:
        """Return once it is loaded."""
        if self._line(ANSWER_SECONDS) != "ready":
            raise WalkthroughError(f"benchmarks.in_process {self.what} did not load.")

    def measure(self, rows: int, seconds: float) -> dict[str, float]:
        """Return rows a second, and the median of one call's seconds, called with so many rows at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"rows": rows, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._line(seconds + ANSWER_SECONDS))

    def _line(self, seconds: float) -> str:
        assert self._process.stdout is not None
        limit = threading.Timer(seconds, self._process.kill)  # ends the read below
        limit.start()
        try:
            line = self._process.stdout.readline()
        finally:
            limit.cancel()
        if not line:
            raise WalkthroughError(
                f"benchmarks.in_process {self.what} ended, or did not answer within {seconds:g} s."
            )
        return line.strip()


def model() -> Callable[[np.ndarray], Any]:
    """Return ResNet32 as the model server calls it."""
    from helpers.serving.tf_server.model import load
    from helpers.serving.tf_server.versions import newest_version

    version, folder = newest_version(locate("s3://walkthrough/cifar10/resnet32").folder)
    signature = load(folder, version).signatures["serving_default"]
    (name,) = signature.inputs
    return lambda rows: signature.run({name: rows})


def outlier() -> Callable[[np.ndarray], Any]:
    """Return the outlier detector's scores as its server computes them."""
    import helpers.tf  # noqa: F401
    from helpers import artifacts
    from helpers.serving.detect.vae_scores import VAEScores

    scores = VAEScores(artifacts.load("cifar10", "outlier_vae"), 0)
    return lambda rows: scores(rows, False)


def images(count: int) -> np.ndarray:
    """Return the first test images as the model takes them, float32."""
    return data.load("cifar10", fallback=False).x_test[:count].astype(np.float32)


def main() -> None:
    """Load, then answer until the input ends."""
    compute = {"model": model, "outlier": outlier}[sys.argv[1]]()
    x = images(256)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        size = asked["rows"]
        compute(x[:size])
        took = []
        began = now = time.perf_counter()
        while now < began + asked["seconds"]:
            start = len(took) * size % (len(x) - size + 1)
            compute(x[start : start + size])
            after = time.perf_counter()
            took.append(after - now)
            now = after
        rate = len(took) * size / (now - began)
        print(json.dumps({"rows_per_second": rate, "p50": percentile(took, 50)}), flush=True)


if __name__ == "__main__":
    main()
