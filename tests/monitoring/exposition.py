"""The metrics that our servers expose, and those that a query of PromQL asks for."""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from helpers.serving.detect.classification import MulticlassOneHot
from helpers.serving.detect.drift import _metrics as drift_metrics
from helpers.serving.detect.exposition import RuntimeMetrics
from helpers.serving.detect.outlier import _metrics as outlier_metrics
from helpers.serving.explain.measures import Measures
from helpers.serving.explain.production.attribution_drift import AttributionDrift, DriftSettings
from helpers.serving.explain.production.audit import AuditTrail
from helpers.serving.explain.production.cache import CacheSettings, ExplanationCache
from helpers.serving.explain.production.jobs import Jobs
from helpers.serving.explain.production.stability import Stability, StabilitySettings
from helpers.serving.gateway.metrics import Metrics as GatewayMetrics

ROOT = Path(__file__).resolve().parents[2]


def exposed() -> set[str]:
    """Return the names that our servers expose, each after it measured something."""
    return set(exposed_labels())


def exposed_labels() -> dict[str, set[str]]:
    """Return name -> the labels that the server itself gives it, of everything that our servers expose."""
    registry = CollectorRegistry()
    detectors = RuntimeMetrics("test")
    registry.register(detectors)
    detectors.update(outlier_metrics(np.array([True]), np.array([0.5])))
    drift = {"is_drift": 1, "distance": [0.1], "p_val": [0.2], "threshold": 0.05}
    detectors.update(drift_metrics(drift))
    for answer in ([[1.0, 0.0]], [[0.0, 1.0]]):
        found = MulticlassOneHot().compare(np.array([[1.0, 0.0]]), np.array(answer), None)
        detectors.update(found)
    measures = Measures(registry, "AnchorImages", "resnet32")
    measures.answered(200)
    _production(registry)
    gateway = GatewayMetrics(registry)
    for histogram in (gateway._server, gateway._client):
        histogram.labels(*["x"] * len(histogram._labelnames)).observe(0.1)
    labels: dict[str, set[str]] = {}
    for family in registry.collect():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    # Made where a server starts; of a detector with a window, and of the stack's supervisor, which a cluster has of
    # kubelet and kube-state-metrics.
    sources = {
        "helpers/serving/detect/app.py": (["detect_server_window_rows"], set()),
        "helpers/stack/local/usage.py": (
            [
                "container_cpu_usage_seconds_total",
                "container_memory_working_set_bytes",
                "kube_pod_container_status_restarts_total",
            ],
            {"namespace", "pod", "container"},
        ),
    }
    for file, (found_there, own) in sources.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        for name in found_there:
            if f'"{name.removesuffix("_total")}"' in text:
                labels[name] = set(own)
    return labels


def _production(registry: CollectorRegistry) -> None:
    """Let the options of the explain server measure something."""
    labels = {"method": "KernelShap", "model_name": "credit"}
    settings = CacheSettings(redis_url="redis://127.0.0.1:1/0")
    ExplanationCache(settings, registry, labels)
    Jobs(registry, labels)
    stability = Stability(StabilitySettings(), registry, labels, idle=lambda: True)
    stability._measured({"jaccard": 1.0})
    drift = AttributionDrift(DriftSettings(reference=20, window=20), registry, labels)
    for _ in range(40):
        drift.add({"income": 1.0})
    with tempfile.TemporaryDirectory() as folder:
        trail = AuditTrail(Path(folder) / "audit.sqlite", registry, labels)
        asyncio.run(_opened_and_closed(trail))


async def _opened_and_closed(trail: AuditTrail) -> None:
    trail.start()
    await trail.close()


_WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_KEYWORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan", "atan2"}
# Labels in these are no metrics: matchers, windows, and the lists of by (...) and its like.
_LABELS = re.compile(
    r"\{[^}]*\}|\[[^]]*\]"
    r"|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
    r"|\boffset\s+\S+|\$\w+|(?<![\w:])\d[\w.]*"
)


def metric_names(expr: str) -> set[str]:
    """Return the metrics that a query names; a pattern of names stands for all that it matches."""
    names = set()
    for pattern in re.findall(r'__name__=~"([^"]*)"', expr):
        alternatives = re.fullmatch(r"([^()]*)\(([^()]*)\)([^()]*)", pattern)
        assert alternatives, f"write {pattern} with one group of alternatives"
        names |= {
            alternatives[1] + middle + alternatives[3] for middle in alternatives[2].split("|")
        }
    bare = _LABELS.sub(" ", expr)
    for found in _WORD.finditer(bare):
        called = bare[found.end() :].lstrip().startswith("(")  # a function or an aggregation
        aggregates = found[0] in ("sum", "avg", "min", "max", "count", "topk", "bottomk")
        if not called and not aggregates and found[0].lower() not in _KEYWORDS:
            names.add(found[0])
    return names
