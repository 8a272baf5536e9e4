"""What a notebook asks a cluster: servers, logs, addresses, metrics, files."""

from __future__ import annotations

import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from helpers.client import Client
from helpers.errors import StackError
from helpers.stack.kind import copying, pods, scraping
from tests.fakes.cluster import FakeCluster, controllers

LOGGER = "logging/payload-logger.yaml"
MODEL = "cifar10-default-0-resnet32"
COUNT = "seldon_api_executor_server_requests_seconds_count"


@pytest.fixture
def logger(stack, manifest):
    """A stack with the payload logger on it, ready."""
    stack.apply(manifest(LOGGER))
    stack.wait(timeout=60)
    return stack


# Servers


def test_status_of_nothing(stack):
    assert stack.status() == []


def test_status_names_servers_as_the_local_stack_does(stack, manifest):
    stack.apply(manifest("explainers/cifar10-explained.yaml"), manifest("detectors/drift-ks.yaml"))
    stack.wait(timeout=60)
    found = {one.name: one for one in stack.status()}
    assert {name: one.owner for name, one in found.items()} == {
        MODEL: "SeldonDeployment/cifar10",
        "cifar10-default-explainer": "SeldonDeployment/cifar10",
        "drift-ks": "Deployment/drift-ks",
    }
    model = found[MODEL]
    assert (model.state, model.restarts, model.pid) == ("ready", 0, None)
    assert (model.address, model.last_line) == ("10.244.1.7:9000", "listens")
    assert model.seconds < 60


@pytest.mark.parametrize(
    ("behaviour", "state", "restarts", "line"),
    [
        (controllers.LOADS, "starting", 0, "listens"),
        (controllers.PULLS, "starting", 0, "ImagePullBackOff (Back-off pulling image)"),
        (controllers.CRASHES, "restarting", 4, "listens"),
        (
            controllers.UNSCHEDULED,
            "starting",
            0,
            "not scheduled: 0/2 nodes are available: 2 Insufficient memory.",
        ),
    ],
)
def test_states_of_a_server(stack, cluster, manifest, behaviour, state, restarts, line):
    cluster.controllers.behaviours["payload-logger"] = behaviour
    stack.apply(manifest(LOGGER))
    with pytest.raises(StackError):
        stack.wait(timeout=0.5)
    (server,) = stack.status()
    assert (server.state, server.restarts, server.last_line) == (state, restarts, line)
    assert server.address is None


def test_a_server_whose_pods_are_still_ending(logger, cluster):
    cluster.controllers.paused.add("pods")
    cluster.change(cluster.store.remove, "Deployment", "payload-logger")
    for pod in list(cluster.store.of("Pod")):
        cluster.change(cluster.store.delete, "Pod", pod["metadata"]["name"], {})
    assert [(one.name, one.state) for one in logger.status()] == [("payload-logger", "stopping")]
    cluster.controllers.paused.clear()


# Logs


def test_logs_of_a_server_and_of_all_servers_of_an_object(stack, cluster, manifest):
    stack.apply(manifest("explainers/cifar10-explained.yaml"))
    stack.wait(timeout=60)
    cluster.logs[MODEL, "resnet32", False] = "".join(f"line {n}\n" for n in range(100))
    cluster.logs[MODEL, "seldon-container-engine", False] = "of the orchestrator\n"
    assert stack.logs(MODEL, 2) == "line 98\nline 99"
    assert stack.logs("cifar10", 1).splitlines() == [
        f"== {MODEL}", "line 99", "== cifar10-default-explainer", "listens",
    ]  # fmt: skip
    with pytest.raises(
        StackError, match="There is no server 'cifar11'; there is cifar10, cifar10-def"
    ):
        stack.logs("cifar11")


def test_what_a_container_said_before_it_died_stands_first(stack, cluster, manifest):
    cluster.controllers.behaviours["payload-logger"] = controllers.CRASHES
    cluster.logs["payload-logger", "payload-logger", True] = "loads\nMemoryError\n"
    cluster.logs["payload-logger", "payload-logger", False] = "starts\n"
    stack.apply(manifest(LOGGER))
    with pytest.raises(StackError):
        stack.wait(timeout=0.5)
    assert stack.logs("payload-logger").splitlines() == [
        "loads",
        "MemoryError",
        "== payload-logger was started again: OOMKilled, exit code 137",
        "starts",
    ]
    assert stack.logs("payload-logger", 1) == "starts"


def test_the_log_of_the_download_that_a_pod_hangs_at():
    status = {
        "initContainerStatuses": [{"name": "model-initializer", "state": {"running": {}}}],
        "containerStatuses": [
            {"name": "resnet32", "state": {"waiting": {"reason": "PodInitializing"}}}
        ],
    }
    pod = {"spec": {"containers": [{"name": "resnet32"}]}, "status": status}
    assert pods._container_to_read(pod)[0] == "model-initializer"
    status["initContainerStatuses"][0]["state"] = {"terminated": {"exitCode": 0}}
    assert pods._container_to_read(pod)[0] == "resnet32"


# Addresses


def test_addresses_of_models_explainers_and_brokers(stack, cluster, manifest):
    stack.apply(manifest("explainers/cifar10-explained.yaml"), manifest("eventing/broker.yaml"))
    model = f"{cluster.url}/ingress/seldon/walkthrough/cifar10"
    assert stack.url("cifar10") == model
    assert stack.url("cifar10-explainer/default") == f"{model}-explainer/default"
    assert stack.url("default") == f"{cluster.url}/broker/walkthrough/default"
    assert stack.url("prometheus") == f"{cluster.url}/prometheus"
    with pytest.raises(StackError, match="Nothing here is called 'x'; applied: cifar10"):
        stack.url("x")


def test_the_client_reaches_a_model_through_the_ingress(stack, manifest):
    stack.apply(manifest("model/cifar10.yaml"))
    stack.wait(timeout=60)
    with Client(stack.url("cifar10")) as client:
        assert client.ready()


# A Service, through a port-forward


@pytest.fixture
def backend() -> Iterator[int]:
    """The port of a server that answers with what it is sent."""

    class Echo(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(self.path.encode())

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["content-length"])))

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_a_service_is_reached_from_here(logger, cluster, backend):
    cluster.backends["payload-logger"] = backend
    url = logger.url("payload-logger")
    assert url.startswith("http://127.0.0.1:")
    large = b"x" * 1_000_000
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        assert client.get("/v1/requests/1?x=%20").text == "/v1/requests/1?x=%20"
        assert client.post("/", content=large).content == large
        assert client.get("/again").text == "/again"  # on the same connection
    assert logger.url("payload-logger") == url
    forwards = [path for _, path in cluster.requests if "portforward" in path]
    assert len(forwards) == 1
    assert forwards[0].endswith("ports=8080")


def test_many_connections_at_once(logger, cluster, backend):
    cluster.backends["payload-logger"] = backend
    url, found = logger.url("payload-logger"), []

    def ask(number: int) -> None:
        found.append(httpx.get(f"{url}/{number}", trust_env=False, timeout=30).text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [f"/{number}" for number in range(8)]


def test_a_service_outlives_its_pods(logger, cluster, manifest, backend):
    cluster.backends["payload-logger"] = backend
    url = logger.url("payload-logger")
    assert httpx.get(f"{url}/1", trust_env=False).text == "/1"
    logger.delete(manifest(LOGGER))
    answer = httpx.get(f"{url}/2", trust_env=False)
    assert answer.status_code == 503
    assert answer.text == "The Service payload-logger has been deleted."
    logger.apply(manifest(LOGGER))
    logger.wait(timeout=60)
    assert httpx.get(f"{url}/3", trust_env=False).text == "/3"


def test_a_service_whose_server_does_not_listen(logger, cluster):
    cluster.backends["payload-logger"] = 1
    with pytest.raises(httpx.HTTPError):
        httpx.get(logger.url("payload-logger"), trust_env=False, timeout=10)


def test_a_relay_ends_with_its_stack(logger, cluster, backend):
    cluster.backends["payload-logger"] = backend
    url = logger.url("payload-logger")
    logger.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


# Metrics


def test_metrics_of_a_model_are_those_of_its_orchestrators_added_up(stack, cluster, changed):
    def two(deployment):
        deployment["spec"]["predictors"][0]["replicas"] = 2

    stack.apply(changed("model/cifar10.yaml", two))
    stack.wait(timeout=60)
    page = f'{COUNT}{{code="200",deployment_name="cifar10",predictor_name="default"}} 3\n'
    cluster.pages[MODEL, 8000, "prometheus"] = page
    found = stack.metrics("cifar10")
    assert found.value(COUNT, code=200, deployment_name="cifar10") == 6
    assert (stack.metrics("cifar10") - found).value(COUNT) == 0


@pytest.mark.parametrize("path", ["v1/metrics", "metrics"])
def test_metrics_of_a_server_are_found_wherever_they_are(stack, cluster, manifest, path):
    stack.apply(manifest("detectors/outlier-vae.yaml"))
    stack.wait(timeout=60)
    cluster.pages["outlier-vae", 8080, path] = "seldon_metric_outlier_is_outlier_total 7\n"
    assert stack.metrics("outlier-vae").value("seldon_metric_outlier_is_outlier_total") == 7


def test_a_server_without_metrics(stack, cluster, manifest):
    stack.apply(manifest("explainers/cifar10-explained.yaml"))
    stack.wait(timeout=60)
    with pytest.raises(
        StackError, match="cifar10-default-explainer has no metrics that can be read"
    ):
        stack.metrics("cifar10-default-explainer")
    with pytest.raises(StackError, match="There is no server 'x'"):
        stack.metrics("x")


def test_metrics_of_what_is_not_ready(stack, cluster, manifest):
    cluster.controllers.behaviours[MODEL] = controllers.LOADS
    stack.apply(manifest("model/cifar10.yaml"))
    with pytest.raises(StackError):
        stack.wait(timeout=0.3)
    with pytest.raises(StackError, match="cifar10 has no orchestrator that is ready"):
        stack.metrics("cifar10")
    with pytest.raises(StackError, match=f"{MODEL} has no metrics now; wait"):
        stack.metrics(MODEL)


def usage(cluster: FakeCluster, **values: float) -> None:
    """Let Prometheus know these CPU seconds of each container."""
    (pod,) = [one["metadata"]["name"] for one in cluster.store.of("Pod")]
    labels = [{"namespace": "walkthrough", "pod": pod, "container": name} for name in values]
    series = list(zip(labels, values.values(), strict=True))
    gone = ({"namespace": "walkthrough", "pod": "gone", "container": "x"}, 99.0)
    cluster.neighbours.samples[scraping.USAGE[0]] = [*series, gone]
    cluster.neighbours.samples[scraping.USAGE[1]] = [(one, 2**20) for one, _ in series]


def test_usage_is_told_by_server_as_on_the_local_stack(stack, cluster, manifest):
    stack.apply(manifest("model/cifar10.yaml"))
    stack.wait(timeout=60)
    usage(cluster, **{"resnet32": 12.5, "seldon-container-engine": 2.0})
    found = stack.metrics("stack")
    assert found.by("container_cpu_usage_seconds_total", "container") == {
        MODEL: 12.5,
        f"{MODEL}-seldon-container-engine": 2.0,
    }
    assert found.value("container_memory_working_set_bytes", container=MODEL) == 2**20
    assert (
        found.value("container_cpu_usage_seconds_total", pod=MODEL, namespace="walkthrough") == 14.5
    )


def test_usage_waits_until_it_was_measured_after_the_question(stack, cluster, manifest):
    stack.apply(manifest("model/cifar10.yaml"))
    stack.wait(timeout=60)
    usage(cluster, **{"resnet32": 1.0, "seldon-container-engine": 1.0})
    cluster.neighbours.lag = 30.0

    def measured() -> None:
        usage(cluster, **{"resnet32": 5.0, "seldon-container-engine": 1.0})
        cluster.neighbours.lag = 0.0

    timer = threading.Timer(0.3, measured)
    timer.start()
    assert stack.metrics("stack").value("container_cpu_usage_seconds_total", container=MODEL) == 5.0
    timer.join()


def test_prometheus(stack, cluster, reached):
    assert stack.prometheus_url == reached.prometheus
    assert stack.prometheus_note == ""
    cluster.neighbours.prometheus_ready = False
    assert stack.prometheus_url is None
    assert "make kind-up PARTS=monitoring" in stack.prometheus_note


def test_rules_and_their_alerts(stack, cluster, manifest):
    assert {one.action for one in stack.apply(manifest("monitoring/rules"))} == {"created"}
    cluster.neighbours.alerts.append(
        {"labels": {"alertname": "DriftDetected", "severity": "warning"}, "state": "firing",
         "value": "1e+00", "activeAt": "2026-11-22T07:00:00.5Z", "annotations": {}}
    )  # fmt: skip
    (alert,) = stack.alerts()
    assert (alert.name, alert.state, alert.value) == ("DriftDetected", "firing", 1.0)
    cluster.neighbours.prometheus_ready = False
    with pytest.raises(StackError, match=r"There is no Prometheus at .*PARTS=monitoring"):
        stack.alerts()


def test_usage_without_prometheus(stack):
    stack.addresses = type(stack.addresses)(*["http://127.0.0.1:1"] * 4)
    with pytest.raises(StackError, match=r"Prometheus at .*does not answer.*PARTS=monitoring"):
        stack.metrics("stack")
    with pytest.raises(StackError, match=r"Elasticsearch at .*does not answer.*PARTS=logging"):
        stack.events()


# Files


@pytest.fixture
def root(cluster, tmp_path: Path) -> Path:
    """The root folder of the payload logger's container."""
    folder = tmp_path / "container"
    (folder / "tmp/audit/older").mkdir(parents=True)
    (folder / "tmp/audit/trail.sqlite").write_bytes(bytes(range(256)) * 1000)
    (folder / "tmp/audit/older/one").write_text("1")
    cluster.folders["payload-logger"] = folder
    return folder


def test_a_folder_is_copied_byte_for_byte(logger, root, tmp_path):
    to = logger.copy("payload-logger", "/tmp/audit", tmp_path / "new" / "audit")
    assert to == tmp_path / "new" / "audit"
    assert (to / "trail.sqlite").read_bytes() == bytes(range(256)) * 1000
    assert (to / "older/one").read_text() == "1"
    assert list((tmp_path / "new").iterdir()) == [to]
    with pytest.raises(StackError, match="is there already"):
        logger.copy("payload-logger", "/tmp/audit", to)


def test_a_folder_that_is_not_there(logger, root, tmp_path):
    with pytest.raises(
        StackError, match=r"payload-logger-.*:/tmp/none cannot be copied: .*No such file"
    ):
        logger.copy("payload-logger", "/tmp/none", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("path", ["tmp/audit", "/tmp/../etc", ""])
def test_a_path_that_is_none(logger, root, tmp_path, path):
    with pytest.raises(StackError, match="not the absolute path"):
        logger.copy("payload-logger", path, tmp_path / "new")


def test_a_copy_that_is_too_large(logger, root, tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "LARGEST", 100_000)
    with pytest.raises(StackError, match="has more than 0 MiB"):
        logger.copy("payload-logger", "/tmp/audit", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_archive_that_would_write_elsewhere(tmp_path):
    """Whatever the container answers: links and devices are left out, paths out of the folder refused."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        device = tarfile.TarInfo("device")
        device.type = tarfile.CHRTYPE
        for one in (link, device):
            tar.addfile(one)
        tar.addfile(tarfile.TarInfo("fine"))
    folder = tmp_path / "folder"
    folder.mkdir()
    copying._unpack(content.getvalue(), folder, "x")
    assert [one.name for one in folder.iterdir()] == ["fine"]
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../out"))
    with pytest.raises(StackError, match="cannot be unpacked"):
        copying._unpack(content.getvalue(), folder, "x")
    assert not (tmp_path / "out").exists()
