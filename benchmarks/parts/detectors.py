"""Events: outlier and drift detector, the broker, and how long until a prediction shows in a metric."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.figures import Found, Table, in_turn, percentile
from benchmarks.in_process import InProcess
from benchmarks.load import Target, send
from benchmarks.parts.model import PATH, bodies
from benchmarks.servers import DEPLOYMENT, ROOT, Servers
from helpers.errors import WalkthroughError
from helpers.metrics import Samples
from helpers.serving.common.events import REQUEST_TYPE, CloudEvent, now
from helpers.serving.common.polling import wait_for
from helpers.stack.interface import NAMESPACE
from helpers.stack.local.client import LocalStack

BATCH = 32  # images of a batched event
DRIFT_ROWS = 10  # images of an event to the drift detector
WINDOWS = (100, 1_000, 10_000)
DRIFT_EVENTS = 1_000  # one window of 10,000, ten of 1,000, a hundred of 100
EVENT_SECONDS = 20.0  # until a verdict shows
MANIFESTS = (
    *("storage", "eventing/broker.yaml", "logging/cifar10-logged.yaml"),
    *("detectors/outlier-vae.yaml", "eventing/trigger-outlier-vae.yaml"),
)


def events(payloads: Sequence[bytes], count: int) -> list[CloudEvent]:
    """Return so many events, each with an id of its own: a detector answers an id it knows at once."""
    return [
        CloudEvent(
            type=REQUEST_TYPE,
            source="http://:8000/",
            data=payloads[number % len(payloads)],
            time=now(),
            datacontenttype="application/json",
            extensions={
                "requestid": f"r{number}",
                "inferenceservicename": DEPLOYMENT,
                "namespace": NAMESPACE,
                "endpoint": "default",
            },
        )
        for number in range(count)
    ]


def measure(quick: bool) -> Found:
    """Measure; two minutes, `quick` half of one."""
    found = Found()
    _outlier(found, quick)
    _drift(found, quick)
    _broker(found, quick)
    _delay(found, 5 if quick else 30)
    return found


def _outlier(found: Found, quick: bool) -> None:
    rounds, seconds = (2, 0.4) if quick else (5, 1.0)
    with Servers() as servers, InProcess("outlier") as limit:
        server = servers.outlier()
        servers.wait(server)
        limit.wait()
        target = Target(f"{server.url}/")

        def load(rows: int) -> float:
            prepared = [target.event(one) for one in events(payloads[rows], counts[rows])]
            answered = send(target, prepared, concurrency=4, seconds=seconds, count=len(prepared))
            return answered.rate * rows

        payloads = {rows: bodies(rows, 8) for rows in (1, BATCH)}
        counts = {1: int(2_000 * seconds), BATCH: int(100 * seconds)}
        load(1)
        for rows, what in ((1, "one image each"), (BATCH, f"{BATCH} images each")):
            measured = in_turn(
                rounds,
                server=lambda rows=rows: load(rows),
                limit=lambda rows=rows: limit.measure(rows, seconds)["rows_per_second"],
            )
            middle = {name: statistics.median(values) for name, values in measured.items()}
            pairs = zip(measured["server"], measured["limit"], strict=True)
            found.add(
                f"outlier_rate_{rows}",
                f"Outlier server, events of {what}",
                measured["server"],
                "images/s",
                limit=f"{middle['limit']:.0f} images/s in process",
            )
            found.add(
                f"outlier_share_{rows}",
                "The same: share of the detector in process",
                [100 * one / other for one, other in pairs],
                "%",
                limit=f"{middle['limit'] / rows:.0f} calls/s in process",
            )


def _drift(found: Found, quick: bool) -> None:
    windows, count = (WINDOWS[:2], 200) if quick else (WINDOWS, DRIFT_EVENTS)
    kept = bodies(DRIFT_ROWS, 20)
    costs: dict[int, float] = {}
    lines = []
    with Servers() as servers:
        detectors = {window: servers.drift(window) for window in windows}
        servers.wait(*detectors.values())
        targets = {window: Target(f"{one.url}/") for window, one in detectors.items()}
        took: dict[int, list[float]] = {window: [] for window in windows}
        sent = events(kept, count)
        # In turn, so that a slow moment of the machine is not one window's: 50 events to each.
        for start in range(0, count, 50):
            for window, target in targets.items():
                prepared = [target.event(one) for one in sent[start : start + 50]]
                answered = send(target, prepared, concurrency=1, count=len(prepared))
                took[window] += answered.seconds
        for window, seconds in took.items():
            filling = window // DRIFT_ROWS  # every so many events one of them fills the window
            full = [one for place, one in enumerate(seconds, 1) if place % filling == 0]
            other = [one for place, one in enumerate(seconds, 1) if place % filling]
            tested = detectors[window].metrics("/v1/metrics").value("detect_server_windows")
            if tested != len(full):
                raise WalkthroughError(
                    f"The drift detector tested {tested:g} windows of {window}, not {len(full)}."
                )
            costs[window] = statistics.median(other) * 1000
            lines.append(
                [
                    window,
                    len(seconds),
                    costs[window],
                    statistics.median(full) * 1000 if full else None,
                    statistics.fmean(seconds) * 1000,
                    detectors[window].mebibytes,
                ]
            )
    head = ("Window", "Events", "An event, p50 ms", "One that fills it, p50 ms", "Mean ms", "MiB")
    found.tables.append(
        Table(f"Drift detector, events of {DRIFT_ROWS} images, one after the other", head, lines)
    )
    told = ", ".join(f"{cost:.1f} ms at {window:,}" for window, cost in costs.items())
    found.add(
        "drift_constant",
        f"Drift: cost of an event at a window of {windows[-1]:,} against one of {windows[0]:,}",
        costs[windows[-1]] / costs[windows[0]],
        "×",
        limit=told,
        target="< 1.1",
    )


def _broker(found: Found, quick: bool) -> None:
    rounds, count = (2, 200) if quick else (5, 1_000)
    payload = bodies(1, 16)
    with Servers() as servers:
        broker, port = servers.broker(), servers.port()
        sink = servers.spawn("sink", [sys.executable, "-m", "benchmarks.sink", str(port)], port)
        servers.wait(broker, sink)
        servers.trigger(broker, "sink", f"{sink.url}/")
        target = Target(f"{broker.url}/{NAMESPACE}/default")

        def load(concurrency: int, number: int) -> tuple[float, float]:
            prepared = [target.event(one) for one in events(payload, number)]
            began = time.perf_counter()
            accepted = send(target, prepared, concurrency=concurrency, count=number)
            servers.drain(broker)
            return accepted.rate, number / (time.perf_counter() - began)

        load(8, 100)
        measured = in_turn(
            rounds,
            one=lambda: load(1, count // 5),
            many=lambda: load(32, count),
            disk=lambda: _synced(servers.folder / "limit", payload, count),
        )
    disk = statistics.median(measured["disk"])
    limit = f"{disk:.0f}/s written to a file and synced after each 32"
    for name, what in (("one", "one at a time"), ("many", "32 at once")):
        found.add(
            f"broker_accepted_{name}",
            f"Broker, events on disk and acknowledged, {what}",
            [one for one, _ in measured[name]],
            "events/s",
            limit=limit,
        )
    found.add(
        "broker_delivered",
        "Broker, 32 at once, until the last is delivered",
        [one for _, one in measured["many"]],
        "events/s",
        limit=limit,
    )


def _synced(path: Path, payload: Sequence[bytes], count: int) -> float:
    """Return events a second that a file takes, synced after each 32: what durability costs here."""
    began = time.perf_counter()
    with path.open("wb") as file:
        for start in range(0, count, 32):
            for number in range(start, min(start + 32, count)):
                file.write(payload[number % len(payload)])
            file.flush()
            os.fdatasync(file.fileno())
    return count / (time.perf_counter() - began)


def _delay(found: Found, count: int) -> None:
    """From a prediction to the outlier detector's counter, on the local stack."""
    with Servers() as servers, httpx.Client(timeout=30, trust_env=False) as client:
        stack = LocalStack(folder=servers.folder / "stack")
        try:
            stack.apply(*(ROOT / "manifests" / name for name in MANIFESTS))
            stack.wait()
            url = stack.url(DEPLOYMENT) + PATH
            scraped = stack.url("outlier-vae") + "/v1/metrics"

            def judged() -> float:
                return Samples.parse(client.get(scraped).text).value("detect_server_rows")

            delays, answers = [], []
            kept = bodies()
            headers = {"content-type": "application/json"}
            for number in range(count + 1):  # the first one is not counted
                before = judged()
                began = time.perf_counter()
                answer = client.post(url, content=kept[number % len(kept)], headers=headers)
                answered = time.perf_counter()
                if answer.status_code != 200:
                    raise WalkthroughError(f"{url} answers {answer.status_code}.")
                wait_for(
                    lambda before=before: judged() > before,
                    "the outlier detector's counter",
                    seconds=EVENT_SECONDS,
                    first=0.001,
                    every=0.002,
                )
                if number:
                    delays.append((time.perf_counter() - began) * 1000)
                    answers.append((answered - began) * 1000)
        finally:
            stack.down()
    limit = f"{statistics.median(answers):.0f} ms until the prediction's own answer"
    for percent in (50, 90):
        found.add(
            f"delay_{percent}",
            f"From sending a prediction to the outlier detector's metric, p{percent} of {count}",
            percentile(delays, percent),
            "ms",
            limit=limit,
        )
