"""One interface, two backends: the same tests against local processes and against a (fake) cluster."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import yaml

from helpers.errors import ManifestError, StackError
from helpers.metrics import Samples
from helpers.stack.documents import ROOT
from helpers.stack.interface import ServerStatus, Stack
from helpers.stack.kind.addresses import Addresses
from helpers.stack.kind.client import KindStack
from helpers.stack.local.client import LocalStack
from tests.fakes.cluster import FakeCluster

pytestmark = pytest.mark.timeout(120)

BROKER = ROOT / "manifests/eventing/broker.yaml"
LOGGER = ROOT / "manifests/logging/payload-logger.yaml"
TRIGGER = ROOT / "manifests/eventing/trigger-payload-logger.yaml"
ALL = (BROKER, LOGGER, TRIGGER)


@pytest.fixture(scope="module", params=["local", "kind"])
def backend(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[Stack]:
    """A stack of each backend with nothing on it."""
    folder = tmp_path_factory.mktemp("contract")
    if request.param == "local":
        local = LocalStack(folder=folder / "state")
        yield local
        local.down()
        return
    with FakeCluster() as cluster, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(cluster.kubeconfig(folder / "kubeconfig")))
        patch.delenv("KIND_CONTEXT", raising=False)
        cluster.pages["payload-logger", 8080, "metrics"] = "payload_log_events_total 0\n"
        # What answers in the place of the payload logger: something that knows its /ready.
        cluster.backends["payload-logger"] = cluster.port
        names = ("ingress", "broker", "prometheus", "elasticsearch")
        stack = KindStack(reached=Addresses(**{one: f"{cluster.url}/{one}" for one in names}))
        yield stack
        stack.close()


@pytest.fixture
def stack(backend: Stack) -> Stack:
    """The walkthrough's smallest part, applied and ready."""
    backend.apply(*ALL)
    backend.wait(timeout=60)
    return backend


def servers(stack: Stack) -> list[ServerStatus]:
    """Those of manifests; the local stack has a Prometheus of its own besides."""
    return [one for one in stack.status() if one.owner != "stack"]


def test_what_was_applied_is_told_truly(backend, tmp_path):
    backend.down()
    assert backend.status() == []
    assert [str(one) for one in backend.apply(*ALL)] == [
        "broker/default created",
        "deployment/payload-logger created",
        "service/payload-logger created",
        "trigger/payload-logger created",
    ]
    assert {one.action for one in backend.apply(*ALL)} == {"unchanged"}
    backend.wait(timeout=60)
    assert {one.action for one in backend.apply(*ALL)} == {"unchanged"}
    trigger = yaml.safe_load(TRIGGER.read_text())
    trigger["spec"]["filter"] = {"attributes": {"type": "io.seldon.serving.feedback"}}
    path = tmp_path / "trigger.yaml"
    path.write_text(yaml.safe_dump(trigger))
    assert [str(one) for one in backend.apply(BROKER, path)] == [
        "broker/default unchanged",
        "trigger/payload-logger configured",
    ]


def test_a_folder_is_all_manifests_in_it(stack, tmp_path):
    for path in ALL:
        (tmp_path / path.name).write_text(path.read_text())
    assert len(stack.apply(tmp_path)) == 4


def test_status_of_a_server(stack):
    (server,) = servers(stack)
    assert isinstance(server, ServerStatus)
    assert (server.name, server.owner) == ("payload-logger", "Deployment/payload-logger")
    assert (server.state, server.restarts) == ("ready", 0)
    assert server.address.rpartition(":")[2].isdecimal()
    assert server.seconds >= 0


def test_waiting_by_name(stack):
    stack.wait("payload-logger", timeout=30)
    with pytest.raises(
        StackError, match=r"Nothing here is called 'nobody'; there is .*payload-logger"
    ):
        stack.wait("nobody", timeout=30)


def test_a_service_and_a_broker_have_addresses(stack):
    url = stack.url("payload-logger")
    assert url.startswith("http://127.0.0.1:")
    assert httpx.get(f"{url}/version", trust_env=False, timeout=10).status_code in (200, 401, 404)
    assert stack.url("default").endswith("/walkthrough/default")
    with pytest.raises(
        StackError, match=r"Nothing here is called 'nobody'; applied: .*payload-logger"
    ):
        stack.url("nobody")


def test_prometheus_or_why_not(stack):
    assert stack.backend in ("local", "kind")
    assert (stack.prometheus_url is None) == bool(stack.prometheus_note)


def test_logs(stack):
    assert isinstance(stack.logs("payload-logger", 2), str)
    with pytest.raises(StackError, match=r"There is no server 'nobody'; there is .*payload-logger"):
        stack.logs("nobody")


def test_metrics(stack):
    found = stack.metrics("payload-logger")
    assert isinstance(found, Samples)
    assert len(found) >= 1
    assert len(stack.metrics("payload-logger") - found) == len(found)
    with pytest.raises(StackError, match="There is no server 'nobody'"):
        stack.metrics("nobody")


def test_a_wrong_manifest_changes_nothing(stack, tmp_path):
    before = [(one.name, one.owner, one.restarts) for one in stack.status()]
    content = yaml.safe_load(
        (ROOT / "manifests/detectors/drift-ks.yaml").read_text().split("---")[0]
    )
    content["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = "http"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(content))
    with pytest.raises(ManifestError, match=r"wrong\.yaml.*containerPort"):
        stack.apply(ROOT / "manifests/storage/s3-credentials.yaml", wrong)
    assert [(one.name, one.owner, one.restarts) for one in stack.status()] == before
    created = stack.apply(ROOT / "manifests/storage/s3-credentials.yaml")
    assert [one.action for one in created] == ["created"]


@pytest.mark.parametrize("name", ["none.yaml", "empty.yaml", "text.yaml"])
def test_a_file_that_is_no_manifest(stack, tmp_path, name):
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "text.yaml").write_text("just: text\n")
    for call in (stack.apply, stack.delete):
        with pytest.raises(ManifestError, match=name):
            call(tmp_path / name)


def test_deleting(stack):
    assert [str(one) for one in stack.delete(TRIGGER, LOGGER)] == [
        "trigger/payload-logger deleted",
        "deployment/payload-logger deleted",
        "service/payload-logger deleted",
    ]
    assert stack.delete(TRIGGER, LOGGER) == []
    assert [one for one in servers(stack) if one.state != "stopping"] == []
    stack.wait(timeout=30)  # the broker is left


def test_down_leaves_nothing(stack):
    stack.down()
    assert stack.status() == []
    stack.down()  # twice is no error
