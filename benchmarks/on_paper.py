"""A model of the load that a deployment takes, from the processor time of each part, and what it asks for.

predictions a second per core of a part = 1 / its processor time for one prediction
cores of a part = predictions a second · its processor time / how busy cores may be
replicas = cores, rounded up to whole pods
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.figures import text
from benchmarks.parts.scale import EXPLAINED, FULL, WANTED

PODS = {  # cores of one pod, and where its memory stands among the facts of `servers`
    "gateway": (1, "gateway"),
    "model server": (2, "model server, ResNet32"),
    "broker": (1, "broker"),
    "payload log": (1, "payload log"),
    "outlier detector": (2, "outlier detector"),
    "drift detector": (1, "drift detector"),
    "explainer": (1, "explainer, AnchorImages"),
}
NODE = (16, 64)  # cores and GiB of one node


def needs(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what each part needs for WANTED predictions a second."""
    costs = dict(results["scale"]["facts"]["milliseconds"])
    explain = results.get("explain", {}).get("facts", {}).get("AnchorImages_cifar10_seconds")
    if explain:
        costs["explainer"] = explain * 1000 * EXPLAINED
    sizes = results["servers"]["facts"]
    found = []
    for part, cost in costs.items():
        cores, place = PODS[part]
        needed = WANTED * cost / 1000 / FULL
        pods = math.ceil(needed / cores)
        found.append(
            {
                "part": part,
                "milliseconds": cost,
                "per_core": 1000 / cost,
                "cores": needed,
                "pods": pods,
                "gib": pods * sizes[place] / 1024,
            }
        )
    return found


def told(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the model in Markdown; empty where `scale` or `servers` has not been measured."""
    if "scale" not in results or "servers" not in results:
        return ""
    from benchmarks.report import table

    found = needs(results)
    head = ("Part", "CPU of one prediction, ms", "Predictions/s per core", "Cores", "Pods", "GiB")
    lines = [
        [one["part"], one["milliseconds"], one["per_core"], one["cores"], one["pods"], one["gib"]]
        for one in found
    ]
    cores, gib = (sum(one[key] for one in found) for key in ("cores", "gib"))
    pods = sum(one["pods"] for one in found)
    lines.append(["all", sum(one["milliseconds"] for one in found), None, cores, pods, gib])
    nodes = max(math.ceil(cores / NODE[0]), math.ceil(gib / NODE[1]))
    by_name = {one["part"]: one for one in found}
    drift, broker = by_name["drift detector"], by_name["broker"]
    megabits = WANTED * results["scale"]["facts"]["payload_bytes"] * 8 / 1e9
    (error,) = (row for row in results["scale"]["rows"] if row["key"] == "scale_error")
    return "\n\n".join(
        (
            f"Cores are {100 * FULL:.0f} % busy, and 1 in {1 / EXPLAINED:,.0f} predictions is explained "
            "(AnchorImages, its seconds taken as processor time).",
            table(head, lines),
            f"That is {text(cores)} cores and {text(gib)} GiB, {nodes} nodes of {NODE[0]} cores and {NODE[1]} GiB, "
            f"and {megabits:.1f} Gbit/s of JSON into the gateways alone: every one of the parts behind them reads "
            "the same again.",
            f"- Checked on two cores, from what one core shows: {error['limit']}, {error['value']:+.0f} %. "
            "The model knows nothing of caches, of batches that grow with the load, nor of a network.\n"
            f"- The drift detector holds its window in one process, and takes {text(drift['per_core'])} "
            f"predictions/s on a core: at {WANTED:,} it can see 1 in {math.ceil(WANTED / drift['per_core'] / FULL)}, "
            "which for a test of distributions is enough. More pods of it would be more windows.\n"
            f"- The broker here is one process over SQLite and ends at about {text(broker['per_core'])} "
            f"predictions/s. {text(broker['cores'])} cores is what its work amounts to; on Kubernetes it is Knative's, "
            "over Kafka, whose cost these figures do not know. So it is with the payload log and Elasticsearch.\n"
            "- What to do first at that rate: log a sample of the payloads, not all; TensorFlow Serving's own server "
            "and gRPC instead of JSON.",
        )
    )
