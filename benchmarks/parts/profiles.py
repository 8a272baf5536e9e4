"""Where servers spend their time under load, by py-spy: samples of what their Python threads do.

What TensorFlow and SQLite do counts for the line that calls them; their own threads are not seen.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import Found, Table
from benchmarks.load import Target, send
from benchmarks.parts.detectors import events
from benchmarks.parts.explain import Case, ExplainClient, instances_of
from benchmarks.parts.model import PATH, bodies
from benchmarks.servers import DEPLOYMENT, Server, Servers
from helpers.errors import WalkthroughError
from helpers.serving.payloads import TENSORFLOW
from helpers.stack.interface import NAMESPACE

Load = tuple[Server, Callable[[], object], str]  # whom to profile, under what, and its name
RATE = 200  # samples a second
SHOWN = 10
TOOL = ("uv", "tool", "run", "py-spy")
SLOW_TO_FETCH = 120.0
_STARTS = re.compile(r"__main__|: main$|common/server")  # below everything, so they say nothing


def measure(quick: bool) -> Found:
    """Profile gateway, model server, broker, payload log, outlier detector and explainer; about a minute.

    Raises:
        WalkthroughError: py-spy cannot be had, or may not look at processes.
    """
    found = Found()
    seconds = 2 if quick else 4
    with Servers() as servers:
        model, broker, outlier = servers.model(), servers.broker(), servers.outlier()
        payloads = servers.payload_log()
        servers.wait(model, broker, outlier, payloads)
        servers.trigger(broker, "none", "http://127.0.0.1:9/", type="none")
        gateway = servers.gateway(model, broker)
        explainer = servers.explainer(
            "AnchorImages", "s3://walkthrough/cifar10/anchor_images", TENSORFLOW, model
        )
        servers.wait(gateway, explainer)
        target = Target(f"{gateway.url}/seldon/{NAMESPACE}/{DEPLOYMENT}{PATH}")
        kept = bodies()
        plain = [target.request(body, {"seldon-skip-logging": "true"}) for body in kept]
        judge = Target(f"{outlier.url}/")
        judged = [judge.event(one) for one in events(kept, 4_000)]

        def predictions() -> None:
            send(target, plain, concurrency=32, seconds=seconds + 2)

        def logged_predictions() -> None:
            requests = [target.request(body) for body in kept]
            send(target, requests, concurrency=32, seconds=seconds + 2)

        def verdicts() -> None:
            send(judge, judged, concurrency=4, seconds=seconds + 2, count=len(judged))

        case = Case("AnchorImages", "cifar10", "anchor_images", "resnet32")
        client = ExplainClient(case, explainer, instances_of(case))

        def explanations() -> None:
            for number in range(12 * seconds):
                client.ask(number)

        loads: tuple[Load, ...] = (
            (gateway, predictions, "gateway, 32 predictions at once, no logging"),
            (gateway, logged_predictions, "gateway, the same with payload logging"),
            (model, predictions, "model server behind the gateway, 32 predictions at once"),
            (outlier, verdicts, "outlier detector, events of one image, 4 at once"),
            (explainer, explanations, "explainer, AnchorImages, one after the other"),
        )
        delivered: tuple[Load, ...] = (
            (broker, logged_predictions, "broker, 32 predictions at once and their payloads"),
            (payloads, logged_predictions, "payload log, the same"),
        )
        for server, load, what in loads:
            found.tables.append(_profiled(server, load, what, seconds))
        servers.trigger(broker, "payload-logger", payloads.url)
        for server, load, what in delivered:
            found.tables.append(_profiled(server, load, what, seconds))
            servers.drain(broker, gateway)
        client.close()
    return found


def _profiled(server: Server, load: Callable[[], object], what: str, seconds: int) -> Table:
    with _under(load):
        stacks = _sample(server, seconds)
    total = sum(stacks.values()) or 1
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for stack, count in stacks.items():
        frames = [_frame(one) for one in stack.split(";")]
        own[frames[-1]] += count
        for frame in set(frames):
            whole[frame] += count
    ours = [one for one in whole if one.startswith("helpers/") and not _STARTS.search(one)]
    ours.sort(key=lambda one: (-whole[one], one))
    top = [name for name, _ in own.most_common(SHOWN)]
    lines = [
        [
            name,
            100 * own[name] / total,
            other,
            100 * whole[other] / total if other else None,
        ]
        for name, other in zip(top, [*ours[:SHOWN], *[""] * SHOWN], strict=False)
    ]
    head = ("Itself", "%", "Of ours, with what it calls", "%")
    return Table(f"{what}: {total} samples", head, lines)


def _frame(frame: str) -> str:
    """Return `path: function` of py-spy's `function (path:line)`, the path short."""
    name, _, place = frame.partition(" (")
    path = place.rpartition(":")[0] or place.rstrip(")")
    for root in ("site-packages/", "lib/python3.12/"):
        path = path.rpartition(root)[2]
    return f"{path}: {name}" if path else name


@contextmanager
def _under(load: Callable[[], object]) -> Iterator[None]:
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(load)
        yield
        running.result(timeout=60)


def _sample(server: Server, seconds: int) -> Counter[str]:
    """Return stacks, outermost first and joined by `;`, and how often each was seen."""
    tool = TOOL if shutil.which("uv") else (sys.executable, "-m", *TOOL)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "stacks"
        options = ("--format", "raw", "--rate", str(RATE), "--duration", str(seconds))
        try:
            done = subprocess.run(
                [*tool, "record", *options, "-o", str(file), "-p", str(server.process.pid)],
                capture_output=True,
                text=True,
                timeout=seconds + SLOW_TO_FETCH,
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise WalkthroughError(f"py-spy cannot be run: {problem}") from problem
        if done.returncode or not file.is_file():
            raise WalkthroughError(f"py-spy failed: {done.stderr.strip()[-500:]}")
        stacks: Counter[str] = Counter()
        for line in file.read_text(encoding="utf-8").splitlines():
            stack, _, count = line.rpartition(" ")
            stacks[stack] += int(count)
        return stacks
