"""What servers cost before they do anything: memory, and seconds until they are ready; each alone, then the stack."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from benchmarks.figures import Found, Table
from benchmarks.servers import ROOT, Server, Servers
from helpers.serving.payloads import SELDON, TENSORFLOW
from helpers.stack.local.client import LocalStack

MANIFESTS = (
    *("storage", "eventing", "detectors", "metrics"),
    *("logging/payload-logger.yaml", "explainers/cifar10-explained.yaml"),
)
WAIT_SECONDS = 180.0

Start = Callable[[Servers], Server]


def starts() -> Mapping[str, Start]:
    """Return how each server is started; explainers that need a model get one that is not measured."""
    uri = "s3://walkthrough/"

    def anchor(servers: Servers) -> Server:
        model = servers.model()
        servers.wait(model)
        artefact = f"{uri}cifar10/anchor_images"
        return servers.explainer("AnchorImages", artefact, TENSORFLOW, model)

    def gateway(servers: Servers) -> Server:
        # It serves whether or not its model does.
        return servers.gateway(servers.spawn("none", ["sleep", "60"], servers.port()))

    return {
        "gateway": gateway,
        "broker": lambda servers: servers.broker(),
        "payload log": lambda servers: servers.payload_log(),
        "model server, ResNet32": lambda servers: servers.model(),
        "model server, forest (Seldon's own program)": lambda servers: servers.model(
            "credit_risk", "forest"
        ),
        "outlier detector": lambda servers: servers.outlier(),
        "drift detector": lambda servers: servers.drift(),
        "metrics server": lambda servers: servers.detector(
            "MetricsServer", "adserver.cm_models.multiclass_one_hot.MulticlassOneHot"
        ),
        "explainer, AnchorImages": anchor,
        "explainer, TreeShap": lambda servers: servers.explainer(
            "TreeShap", f"{uri}credit_risk/tree_shap", SELDON, None
        ),
    }


def measure(quick: bool) -> Found:
    """Measure; about a minute and a half, `quick` half of it."""
    found, lines = Found(), []
    rounds = 1 if quick else 2
    for name, start in starts().items():
        seconds, sizes = [], []
        for _ in range(rounds):
            with Servers() as servers:
                server = start(servers)
                servers.wait(server)
                seconds.append(server.seconds)
                sizes.append(server.mebibytes)
        lines.append([name, statistics.median(seconds), statistics.median(sizes)])
        found.facts[name] = statistics.median(sizes)
    head = ("Server", "Seconds until ready", "Resident MiB")
    found.tables.append(Table("Each server alone, nothing sent to it", head, lines))
    _stack(found)
    return found


def _stack(found: Found) -> None:
    with Servers() as servers:
        stack = LocalStack(folder=servers.folder / "stack")
        try:
            began = time.perf_counter()
            stack.up()
            up = time.perf_counter() - began
            stack.apply(*(ROOT / "manifests" / name for name in MANIFESTS))
            stack.wait(timeout=WAIT_SECONDS)
            ready = time.perf_counter() - began
            daemon = psutil.Process(_pid(stack))
            tree = [daemon, *daemon.children(recursive=True)]
            size = sum(one.memory_info().rss for one in tree) / 2**20
            count = len(stack.status())
        finally:
            stack.down()
    what = f"model, explainer, two detectors, metrics server, payload log: {count} servers at once"
    found.add("stack_up", "The empty stack: gateway, broker, supervisor", up, "s")
    found.add("stack_ready", f"The whole stack ready ({what})", ready, "s")
    found.add("stack_memory", "Its resident memory, all processes", size, "MiB")


def _pid(stack: LocalStack) -> int:
    listening: Any = stack.state.listening()
    return listening.pid
