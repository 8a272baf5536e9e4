"""How it scales: processor time of each part for one prediction, measured on one core and on two.

Gateway, model, broker, payload log, outlier and drift detector take predictions with everything switched on, until
the last event is delivered. What each uses of the processors, divided by the predictions, is all that the model of
`report` is made of: so many cores give so many predictions a second. It is made from what one core shows, and
checked against two.
"""

from __future__ import annotations

import time

from benchmarks import machine
from benchmarks.figures import Found, Table
from benchmarks.load import Target, send
from benchmarks.parts.model import PATH, bodies
from benchmarks.servers import DEPLOYMENT, Server, Servers, pinned
from helpers.errors import WalkthroughError
from helpers.serving.common.events import REQUEST_TYPE
from helpers.stack.interface import NAMESPACE

CONCURRENCY = 32
CLIENT = "load generator"  # and the scrapes by which the last delivery is seen
WANTED = 10_000  # predictions a second
FULL = 0.6  # how busy cores may be: queues grow without limit as this nears 1
EXPLAINED = 0.001  # share of the predictions that is explained


def measure(quick: bool) -> Found:
    """Measure; about a minute and a half, `quick` half of one.

    Raises:
        WalkthroughError: there is one core only.
    """
    if machine.cores() < 2:
        raise WalkthroughError("The scale is measured on one core and on two; there is one only.")
    found = Found()
    # The same work for both, since batches cost less the longer they wait.
    count = 300 if quick else 1_200
    sizes = {size: _size(size, count, 1 if quick else 3) for size in (1, 2)}
    names = list(sizes[1][0])
    costs = {name: [sizes[size][0][name] * 1000 for size in (1, 2)] for name in names}
    lines = [[name, *cost] for name, cost in costs.items()]
    totals = [sum(column) for column in zip(*costs.values(), strict=True)]
    lines.append(["all", *totals])
    rates = [1000 / total * size for total, size in zip(totals, (1, 2), strict=True)]
    measured = [sizes[size][1] for size in (1, 2)]
    lines.append(["predictions/s, as calculated from that", *rates])
    lines.append(["predictions/s, measured until the last event", *measured])
    head = ("CPU of one prediction, ms", "On one core", "On two cores")
    found.tables.append(Table("Everything switched on, 32 predictions at once", head, lines))
    expected = 2 * 1000 / totals[0]
    found.add(
        "scale_error",
        "Two cores against what the cost on one core promises",
        100 * measured[1] / expected - 100,
        "%",
        limit=f"{expected:.0f} predictions/s promised, {measured[1]:.0f} measured",
    )
    found.facts["milliseconds"] = {name: costs[name][0] for name in names if name != CLIENT}
    found.facts["payload_bytes"] = sum(map(len, bodies())) / len(bodies())
    found.facts["milliseconds_two"] = {name: costs[name][1] for name in names if name != CLIENT}
    return found


def _size(cores: int, count: int, rounds: int) -> tuple[dict[str, float], float]:
    """Return seconds of the processors for one prediction, by part, and predictions a second."""
    with pinned(cores), Servers() as servers:
        model, broker, log = servers.model(), servers.broker(), servers.payload_log()
        outlier, drift = servers.outlier(), servers.drift()
        servers.wait(broker, log, model, outlier, drift)
        servers.trigger(broker, "payload-logger", log.url)
        servers.trigger(broker, "outlier-vae", f"{outlier.url}/", type=REQUEST_TYPE)
        servers.trigger(broker, "drift-ks", f"{drift.url}/", type=REQUEST_TYPE)
        gateway = servers.gateway(model, broker)
        servers.wait(gateway)
        parts = {
            "gateway": gateway,
            "model server": model,
            "broker": broker,
            "payload log": log,
            "outlier detector": outlier,
            "drift detector": drift,
        }
        target = Target(f"{gateway.url}/seldon/{NAMESPACE}/{DEPLOYMENT}{PATH}")
        requests = [target.request(body) for body in bodies()]

        def load(number: int) -> None:
            send(target, requests, concurrency=CONCURRENCY, count=number)
            servers.drain(broker, gateway)

        load(64)  # warm
        before, client, began = _used(parts), time.process_time(), time.perf_counter()
        for _ in range(rounds):
            load(count // rounds)
        seconds = time.perf_counter() - began
        client = time.process_time() - client
        number = count // rounds * rounds
        used = {name: (one - before[name]) / number for name, one in _used(parts).items()}
        return {**used, CLIENT: client / number}, number / seconds


def _used(parts: dict[str, Server]) -> dict[str, float]:
    return {name: server.processor_seconds for name, server in parts.items()}
