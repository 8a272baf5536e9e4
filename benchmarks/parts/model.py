"""Predictions: gateway and model server against the same model called in process, and what logging costs."""

from __future__ import annotations

import statistics
import time
from typing import Any

import orjson

from benchmarks.figures import Found, Table, in_turn
from benchmarks.in_process import InProcess, images
from benchmarks.load import Target, send
from benchmarks.servers import DEPLOYMENT, Server, Servers
from helpers.stack.interface import NAMESPACE

CONCURRENCY = (1, 8, 32)
PAUSE = 0.02  # seconds between an answer and the next request, where the machine is not to be full
PATH = "/v1/models/resnet32:predict"
PUBLIC = "144 requests/s, p99 127 ms: published for CIFAR-10 behind Seldon's Python wrapper"
EXECUTOR = "Seldon's orchestrator adds about 9 ms"
NAMES = {
    "limit": "the model in process, as many rows a call",
    "bare": "model server",
    "plain": "gateway, model server",
    "logged": "the same, payloads logged",
}

Measured = dict[str, list[dict[str, float]]]


def bodies(rows: int = 1, count: int = 64) -> list[bytes]:
    """Return bodies of predictions, `rows` test images in each."""
    x = images(rows * count)
    return [
        orjson.dumps({"instances": x[i * rows : (i + 1) * rows]}, option=orjson.OPT_SERIALIZE_NUMPY)
        for i in range(count)
    ]


def measure(quick: bool) -> Found:
    """Measure; about two minutes, `quick` half of one."""
    rounds, seconds = (2, 0.4) if quick else (5, 1.2)
    found, lines = Found(), []
    with Servers() as servers, InProcess("model") as limit:
        model, broker, log = servers.model(), servers.broker(), servers.payload_log()
        servers.wait(broker, log, model)
        servers.trigger(broker, "payload-logger", log.url)
        gateway = servers.gateway(model, broker)
        servers.wait(gateway)
        limit.wait()
        side = _Side(servers, gateway, broker, model, seconds)
        for name in side.targets:
            side.load(name, 8)  # warm
        for concurrency in CONCURRENCY:
            measured: Measured = in_turn(
                rounds,
                limit=lambda n=concurrency: limit.measure(n, seconds),
                bare=lambda n=concurrency: side.load("bare", n),
                plain=lambda n=concurrency: side.load("plain", n),
                logged=lambda n=concurrency: side.load("logged", n),
            )
            _rows(found, concurrency, measured)
            if concurrency == 1:
                paced = in_turn(
                    rounds,
                    plain=lambda: side.load("plain", 1, pause=PAUSE),
                    logged=lambda: side.load("logged", 1, pause=PAUSE),
                )
                _paced_row(found, paced)
            lines += [_line(concurrency, name, measured[name]) for name in NAMES]
    head = ("At once", "What", "Predictions/s", "p50 ms", "p99 ms", "CPU of the gateway, ms each")
    found.tables.append(Table("Predictions, medians of the rounds", head, lines))
    return found


class _Side:
    """The servers, and the prepared requests to them."""

    def __init__(
        self, servers: Servers, gateway: Server, broker: Server, model: Server, seconds: float
    ) -> None:
        self.servers, self.gateway, self.broker, self.seconds = servers, gateway, broker, seconds
        url = f"{gateway.url}/seldon/{NAMESPACE}/{DEPLOYMENT}{PATH}"
        self.targets = {
            "bare": Target(model.url + PATH),
            "plain": Target(url, {"seldon-skip-logging": "true"}),
            "logged": Target(url),
        }
        kept = bodies()
        self.requests = {
            name: [target.request(body) for body in kept] for name, target in self.targets.items()
        }

    def load(self, name: str, concurrency: int, pause: float = 0.0) -> dict[str, float]:
        """Send for a while; with logging, until the last event is in the log."""
        used, began = self.gateway.processor_seconds, time.perf_counter()
        answered = send(
            self.targets[name],
            self.requests[name],
            concurrency=concurrency,
            seconds=self.seconds,
            pause=pause,
        )
        if name == "logged":
            self.servers.drain(self.broker, self.gateway)
        number = len(answered.seconds)
        return {
            "rows_per_second": answered.rate,
            "settled_per_second": number / (time.perf_counter() - began),
            "p50": answered.p(50),
            "p99": answered.p(99),
            "gateway": (self.gateway.processor_seconds - used) / number,
        }


def _rows(found: Found, concurrency: int, measured: Measured) -> None:
    def each(name: str, figure: str = "rows_per_second") -> list[float]:
        return [one[figure] for one in measured[name]]

    def middle(name: str, figure: str = "rows_per_second") -> float:
        return statistics.median(each(name, figure))

    def ratios(name: str, of: str, figure: str = "rows_per_second") -> list[float]:
        pairs = zip(each(name, figure), each(of, figure), strict=True)
        return [100 * one / other for one, other in pairs]

    found.facts[f"gateway_rate_{concurrency}"] = middle("plain")
    found.facts[f"limit_rate_{concurrency}"] = middle("limit")
    found.add(
        f"share_{concurrency}",
        f"Gateway, {concurrency} at once: share of the model in process",
        ratios("plain", "limit"),
        "%",
        limit=f"{middle('plain'):.0f} of {middle('limit'):.0f} predictions/s",
        target="≥ 80" if concurrency == 32 else "",
    )
    if concurrency == 1:
        pairs = zip(each("plain", "p50"), each("bare", "p50"), strict=True)
        found.add(
            "gateway_latency",
            "Added by the gateway to the bare model server, p50",
            [(one - other) * 1000 for one, other in pairs],
            "ms",
            limit=f"{middle('bare', 'p50') * 1000:.1f} ms bare; {EXECUTOR}",
            target="< 2",
        )
        found.add(
            "logging_latency",
            "Payload logging, one after the other without a pause: added to p50",
            [one - 100 for one in ratios("logged", "plain", "p50")],
            "%",
            limit=f"{middle('plain', 'p50') * 1000:.1f} ms without",
        )
    if concurrency == 32:
        lost = [100 - one for one in ratios("logged", "plain")]
        settled = zip(each("logged", "settled_per_second"), each("plain"), strict=True)
        limit = f"{middle('plain'):.0f} predictions/s without"
        found.add(
            "logging_throughput",
            "Payload logging, 32 at once: throughput lost, broker and log on the same cores",
            lost,
            "%",
            limit=limit,
            target="< 5",
        )
        found.add(
            "logging_settled",
            "The same until the last event is in the log",
            [100 - 100 * one / other for one, other in settled],
            "%",
            limit=limit,
        )
        found.add("public_rate", "Gateway, 32 at once", each("plain"), "requests/s", limit=PUBLIC)
        found.add(
            "public_p99",
            "Gateway, 32 at once, p99",
            [1000 * one for one in each("plain", "p99")],
            "ms",
            limit=PUBLIC,
        )


def _paced_row(found: Found, measured: Measured) -> None:
    pairs = zip(measured["logged"], measured["plain"], strict=True)
    plain = statistics.median(one["p50"] for one in measured["plain"])
    rate = statistics.median(one["rows_per_second"] for one in measured["plain"])
    found.add(
        "logging_paced",
        f"Payload logging, {rate:.0f} predictions/s from one client: added to p50",
        [100 * logged["p50"] / other["p50"] - 100 for logged, other in pairs],
        "%",
        limit=f"{plain * 1000:.1f} ms without",
        target="< 5",
    )


def _line(concurrency: int, name: str, measured: list[dict[str, float]]) -> list[Any]:
    def middle(figure: str, factor: float = 1.0) -> float | None:
        values = [one[figure] for one in measured if figure in one]
        return statistics.median(values) * factor if values else None

    return [
        concurrency,
        NAMES[name],
        middle("rows_per_second"),
        middle("p50", 1000),
        middle("p99", 1000),
        middle("gateway", 1000) if name in ("plain", "logged") else None,
    ]
