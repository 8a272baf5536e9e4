"""Metrics of the cluster's pods, and what Prometheus knows of their CPU and memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import httpx
from kubernetes.client.exceptions import ApiException

from helpers.errors import ClientError, StackError
from helpers.metrics import Labels, Samples
from helpers.stack.interface import NAMESPACE
from helpers.stack.kind import pods
from helpers.stack.kind.connection import Api, Object
from helpers.stack.kind.kinds import MONITORING
from helpers.stack.kind.problems import explained

ORCHESTRATOR = "seldon-container-engine"
ORCHESTRATOR_PATH = "prometheus"
# In the order in which they are asked for: Seldon's detect server, ours, Seldon's microservices.
PATHS = ("v1/metrics", "metrics", "prometheus")
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
FRESH_SECONDS = 90.0  # cAdvisor measures every 10 to 15 s, and is scraped every 30 s mostly
USAGE = (
    "container_cpu_usage_seconds_total",
    "container_memory_working_set_bytes",
    "kube_pod_container_status_restarts_total",
)

Series = tuple[Mapping[str, str], float]


def of_orchestrators(api: Api, name: str, found: Iterable[Object]) -> Samples:
    """Return the metrics of a SeldonDeployment's orchestrators, those of all its pods added up.

    Args:
        api: of the cluster.
        name: of the SeldonDeployment, for the error.
        found: its pods.
    """
    texts = []
    for pod in found:
        port = _port(pod, ORCHESTRATOR)
        if port is not None and pods.is_ready(pod):
            texts.append(_scrape(api, pod, port, ORCHESTRATOR_PATH))
    if not texts:
        raise StackError(f"{name} has no orchestrator that is ready: wait for it first.")
    return _added(texts)


def of_server(api: Api, name: str, found: Iterable[Object]) -> Samples:
    """Return the metrics of a server, those of all its pods that are ready added up.

    Raises:
        StackError: no pod is ready, or its server has no metrics.
    """
    ready = [pod for pod in found if pods.is_ready(pod)]
    if not ready:
        raise StackError(f"{name} has no metrics now; wait until it is ready.")
    return _added(_of_pod(api, name, pod) for pod in ready)


def _added(texts: Iterable[str]) -> Samples:
    """Samples of the same name and labels are added up."""
    return Samples.parse("\n".join(texts))


def of_all(prometheus: str, running: Iterable[Object]) -> Samples:
    """Return CPU, memory and restarts of every server, under the names that the local stack has.

    `pod` and `container` are the server's name, the replicas added up; containers beside the server have
    theirs appended, `cifar10-default-0-resnet32-seldon-container-engine`. Prometheus knows them with a delay:
    this returns once every container has been measured after the call, or after FRESH_SECONDS.

    Args:
        prometheus: its address.
        running: the pods of all servers.

    Raises:
        StackError: Prometheus does not answer.
    """
    names = {pod["metadata"]["name"]: pod for pod in running}
    containers = {
        (pod, one["name"])
        for pod, content in names.items()
        if pods.is_ready(content)
        for one in content["spec"]["containers"]
    }
    with httpx.Client(base_url=prometheus, timeout=TIMEOUT, trust_env=False) as http:
        _wait_until_measured(http, containers)
        sums: dict[tuple[str, Labels], float] = {}
        for metric in USAGE:
            for labels, value in _query(http, _selector(metric)):
                pod = names.get(labels.get("pod", ""))
                if pod is None:  # one that is gone
                    continue
                server = pods.deployment_name(pod)
                container = labels["container"]
                if container != pods.main_container(pod)["name"]:
                    container, pod_label = f"{server}-{container}", server
                else:
                    container = pod_label = server
                key = (
                    metric,
                    (
                        ("container", container),
                        ("namespace", NAMESPACE),
                        ("pod", pod_label),
                    ),
                )
                sums[key] = sums.get(key, 0.0) + value
    return Samples(sums)


def _wait_until_measured(http: httpx.Client, containers: set[tuple[str, str]]) -> None:
    ((_, start),) = _query(http, "time()")
    end = time.monotonic() + FRESH_SECONDS
    while time.monotonic() < end:
        measured = {
            (labels.get("pod"), labels.get("container"))
            for labels, when in _query(http, f"timestamp({_selector(USAGE[0])})")
            if when >= start
        }
        if containers <= measured:
            return
        time.sleep(1.0)


def _selector(metric: str) -> str:
    return f'{metric}{{namespace="{NAMESPACE}",container!="",container!="POD"}}'


def _query(http: httpx.Client, expression: str) -> list[Series]:
    try:
        answer = http.post("/api/v1/query", data={"query": expression})
        content: Any = answer.json()
        if content.get("status") != "success":
            raise StackError(f"Prometheus refuses {expression}: {content.get('error')}.")
        found = content["data"]
    except (httpx.HTTPError, ValueError, KeyError, AttributeError) as problem:
        raise StackError(
            f"Prometheus at {http.base_url} does not answer ({str(problem) or type(problem).__name__}); "
            f"CPU and memory are read from it. `make kind-up PARTS={MONITORING}` installs it."
        ) from problem
    if found["resultType"] == "scalar":
        return [({}, float(found["result"][1]))]
    return [(one["metric"], float(one["value"][1])) for one in found["result"]]


def _of_pod(api: Api, name: str, pod: Object) -> str:
    tried = []
    for port, path in _places(pod):
        try:
            text = _scrape(api, pod, port, path, tell_missing=False)
            Samples.parse(text)
            return text
        except (_NoMetricsError, ClientError):
            tried.append(f"{port}/{path}")
    raise StackError(
        f"{name} has no metrics that can be read: asked {', '.join(tried) or 'no port, it names none'}. Seldon's "
        "own explain image has none, TensorFlow Serving only where it was told to."
    )


def _places(pod: Object) -> Iterator[tuple[int, str]]:
    """Ports and paths where metrics may be, the likely ones first."""
    notes = pod["metadata"].get("annotations") or {}
    container = pods.main_container(pod)
    ports = sorted(
        container.get("ports") or [], key=lambda one: "metrics" not in one.get("name", "")
    )
    numbers = [one["containerPort"] for one in ports if one.get("protocol", "TCP") == "TCP"]
    if notes.get("prometheus.io/scrape") == "true":
        port, path = (
            notes.get("prometheus.io/port", ""),
            notes.get("prometheus.io/path", "/metrics"),
        )
        if port.isdecimal() and int(port) in numbers:
            yield int(port), path.lstrip("/")
    if "mlserver" in container["image"] or "mlserver" in " ".join(container.get("command") or []):
        numbers += [8082]  # MLServer's, which Seldon's operator does not name
    for number in dict.fromkeys(numbers):
        for path in PATHS:
            yield number, path


def _port(pod: Object, container: str) -> int | None:
    for one in pod["spec"]["containers"]:
        if one["name"] == container:
            ports = {port.get("name", ""): port["containerPort"] for port in one.get("ports") or []}
            return ports.get("metrics") or ports.get("http") or 8000
    return None


class _NoMetricsError(Exception):
    """There are none at this port and path."""


def _scrape(api: Api, pod: Object, port: int, path: str, *, tell_missing: bool = True) -> str:
    name = pod["metadata"]["name"]
    with explained(f"reading the metrics of {name}", api.server):
        try:
            text = api.text(f"pods/{name}:{port}/proxy/{path}")
        except ApiException as problem:
            # 404 and 405 of the server; 502 and 503 of the API server, where nobody listens at the port.
            if not tell_missing and problem.status in (400, 404, 405, 500, 502, 503):
                raise _NoMetricsError from problem
            raise
    if not tell_missing and not re.search(r"^(# |[a-zA-Z_:][^\n]* )", text, re.MULTILINE):
        raise _NoMetricsError
    return text
