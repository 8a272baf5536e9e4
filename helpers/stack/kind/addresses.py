"""Where the cluster's servers are reached from here; the ports stand in kind/versions.env."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helpers.errors import StackError
from helpers.stack.documents import ROOT

VERSIONS = ROOT / "kind" / "versions.env"


@dataclass(frozen=True)
class Addresses:
    """Addresses on this machine that kind leads into the cluster.

    Args:
        ingress: of Istio's gateway, for models and explainers.
        broker: of Knative's broker ingress.
        prometheus: of Prometheus.
        elasticsearch: of Elasticsearch.
    """

    ingress: str
    broker: str
    prometheus: str
    elasticsearch: str


def addresses(versions: Path = VERSIONS) -> Addresses:
    """Return the addresses of the ports in kind/versions.env.

    Args:
        versions: another file of that kind.

    Raises:
        StackError: the file is missing, or has no such port.
    """
    try:
        text = versions.read_text(encoding="utf-8")
    except OSError as problem:
        raise StackError(f"{versions} cannot be read: {problem.strerror}.") from problem
    lines = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    values = {name.strip(): value.strip() for name, equals, value in lines if equals}

    def at(name: str) -> str:
        if not values.get(name, "").isdecimal():
            raise StackError(f"{versions} has no {name}, a port on 127.0.0.1.")
        return f"http://127.0.0.1:{values[name]}"

    return Addresses(
        ingress=at("PORT_INGRESS"),
        broker=at("PORT_BROKER"),
        prometheus=at("PORT_PROMETHEUS"),
        elasticsearch=at("PORT_ELASTICSEARCH"),
    )
