"""CPU, memory and restarts of every server, under the names that a cluster's monitoring gives them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from helpers.stack.interface import NAMESPACE
from helpers.stack.local.supervisor import Supervisor

LABELS = ("namespace", "pod", "container")


class UsageCollector(Collector):
    """What cAdvisor and kube-state-metrics tell in a cluster; pod and container are the server.

    Args:
        supervisor: runs the servers.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def describe(self) -> list[Family]:
        """Nothing: it is not known before there are servers."""
        return []

    def collect(self) -> Iterator[Family]:
        """Measure now."""
        cpu = CounterMetricFamily(
            "container_cpu_usage_seconds",
            "CPU seconds of all processes of a server.",
            labels=LABELS,
        )
        memory = GaugeMetricFamily(
            "container_memory_working_set_bytes", "Memory of all its processes.", labels=LABELS
        )
        restarts = CounterMetricFamily(
            "kube_pod_container_status_restarts", "Starts after it died.", labels=LABELS
        )
        for name, usage in self._supervisor.usage().items():
            cpu.add_metric([NAMESPACE, name, name], usage.cpu_seconds)
            memory.add_metric([NAMESPACE, name, name], usage.memory_bytes)
        for status in self._supervisor.status():
            restarts.add_metric([NAMESPACE, status.name, status.name], status.restarts)
        yield from (cpu, memory, restarts)
