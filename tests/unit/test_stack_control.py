"""The control API of the local stack: who may call it, and what it answers."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.errors import StackError
from helpers.serving.broker.broker import Broker
from helpers.serving.broker.retention import Limits
from helpers.serving.common.metrics import new_registry
from helpers.serving.gateway.routes import Routes
from helpers.stack.interface import ServerStatus
from helpers.stack.local import control
from helpers.stack.local.cluster import Cluster
from helpers.stack.local.spec import ServerSpec
from helpers.stack.local.usage import UsageCollector

pytestmark = pytest.mark.timeout(60)

TOKEN = "a-token-of-this-test"
OWN = [("127.0.0.1:1", "/prometheus", {"namespace": "walkthrough", "pod": "gateway"})]

CALLS = [
    ("POST", "/v1/apply"),
    ("POST", "/v1/delete"),
    ("GET", "/v1/status"),
    ("GET", "/v1/logs/drift-ks"),
    ("GET", "/v1/urls"),
    ("GET", "/v1/metrics/drift-ks"),
    ("GET", "/v1/targets"),
    ("POST", "/v1/down"),
]


class StubSupervisor:
    """Holds specs; their metrics are wherever the test says."""

    def __init__(self) -> None:
        self.specs: dict[str, ServerSpec] = {}
        self.logs: dict[str, str] = {}
        self.metrics: dict[str, str] = {}

    def apply(self, spec: ServerSpec) -> str:
        self.specs[spec.name] = spec
        return "created"

    def remove(self, name: str) -> bool:
        return self.specs.pop(name, None) is not None

    def address(self, name: str) -> None:
        return None

    def is_ready(self, spec: ServerSpec) -> bool:
        return False

    def status(self) -> list[ServerStatus]:
        return [ServerStatus(one.name, one.owner, "starting") for one in self.specs.values()]

    def log(self, name: str, lines: int) -> str:
        if name not in self.logs:
            raise StackError(f"There is no log of {name!r}.")
        return "".join(self.logs[name].splitlines(keepends=True)[-lines:])

    def usage(self) -> dict[str, Any]:
        return {}

    def metrics_addresses(self) -> list[tuple[ServerSpec, str]]:
        return [(self.specs[name], address) for name, address in self.metrics.items()]


class Bench:
    def __init__(self, folder: Path) -> None:
        self.supervisor = StubSupervisor()
        self.broker = Broker(folder / "broker", new_registry(), Limits())
        self.cluster = Cluster(
            self.supervisor,
            Routes(),
            self.broker,
            "127.0.0.1:1",
            "127.0.0.1:2",
            folder / "objects.json",
        )
        self.stopped = False
        registry = new_registry()
        registry.register(UsageCollector(self.supervisor))
        self.app = control.make_app(self.cluster, TOKEN, OWN, registry, self._stop)
        self.client: httpx.AsyncClient

    def _stop(self) -> None:
        self.stopped = True

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.client.request(method, path, **more)

    async def apply(self, *contents: Any, to: str = "apply") -> httpx.Response:
        documents = [{"origin": f"file-{n}.yaml", "content": one} for n, one in enumerate(contents)]
        return await self.call("POST", f"/v1/{to}", json={"documents": documents})


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[Bench], Awaitable[None]]], None]:
    """Return run(test): test(bench) with the app and a client that has the token."""

    async def with_bench(test: Callable[[Bench], Awaitable[None]]) -> None:
        bench = Bench(tmp_path)
        await bench.broker.start()
        transport = httpx.ASGITransport(bench.app)
        headers = {"authorization": f"Bearer {TOKEN}"}
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://stack", headers=headers
            ) as bench.client:
                await test(bench)
        finally:
            await bench.cluster.stop()
            await bench.broker.stop()

    return lambda test: asyncio.run(with_bench(test))


@pytest.fixture
def exposition() -> Iterator[str]:
    """`host:port` of a server whose /metrics works, /broken does not, and /elsewhere redirects."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = {"/v1/metrics": 200, "/elsewhere": 302}.get(self.path, 500)
            self.send_response(status)
            self.send_header("location", "/v1/metrics")
            self.send_header("content-length", "4")
            self.end_headers()
            self.wfile.write(b"a 1\n")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


DETECTOR = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "drift-ks", "namespace": "walkthrough"},
    "spec": {
        "selector": {"matchLabels": {"app": "drift-ks"}},
        "template": {
            "metadata": {"labels": {"app": "drift-ks"}},
            "spec": {
                "containers": [
                    {
                        "name": "drift-ks",
                        "image": "seldonio/alibi-detect-server:1.19.0",
                        "envFrom": [{"secretRef": {"name": "keys"}}],
                        "ports": [{"name": "http", "containerPort": 8080}],
                    }
                ]
            },
        },
    },
}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "drifts", "namespace": "walkthrough"},
    "spec": {"selector": {"app": "drift-ks"}, "ports": [{"port": 80, "targetPort": "http"}]},
}
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "keys", "namespace": "walkthrough"},
    "stringData": {"password": "hunter2"},
}


# Who may


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer \xff"],
)
def test_every_call_needs_the_token(run, method: str, path: str, header: str | None) -> None:
    async def test(bench: Bench) -> None:
        del bench.client.headers["authorization"]
        headers = {} if header is None else {"authorization": header.encode("latin-1")}
        answer = await bench.call(method, path, headers=headers, content=b"{}")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer" in answer.json()["error"]
        assert TOKEN not in answer.text
        assert not bench.stopped

    run(test)


@pytest.mark.parametrize("path", ["/metrics", "/ready", "/live"])
def test_what_anybody_may_ask(run, path: str) -> None:
    async def test(bench: Bench) -> None:
        del bench.client.headers["authorization"]
        await bench.apply()
        answer = await bench.call("GET", path)
        assert answer.status_code == 200

    run(test)


def test_the_calls_above_are_all_that_there_are(run) -> None:
    async def test(bench: Bench) -> None:
        paths = {route.path for route in bench.app.routes}
        known = {path.replace("drift-ks", "{name}") for _, path in CALLS}
        assert paths == known | {"/metrics", "/ready", "/live", "/openapi.json"}

    run(test)


def test_other_methods_and_paths(run) -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.call("GET", "/v1/down")).status_code == 405
        assert (await bench.call("DELETE", "/v1/apply")).status_code == 405
        for path in ("/v1", "/", "/v1/logs/", "/v1/logs/a/b", "/v2/status"):
            answer = await bench.call("GET", path)
            assert answer.status_code == 404
            assert "error" in answer.json()
        assert not bench.stopped

    run(test)


# Apply and delete


def test_apply_and_delete_say_what_they_did(run) -> None:
    async def test(bench: Bench) -> None:
        answer = await bench.apply(SECRET, DETECTOR)
        assert answer.status_code == 200
        assert answer.json() == {
            "applied": [
                {"kind": "Secret", "name": "keys", "action": "created"},
                {"kind": "Deployment", "name": "drift-ks", "action": "created"},
            ]
        }
        answer = await bench.apply(DETECTOR, to="delete")
        assert answer.json() == {
            "applied": [{"kind": "Deployment", "name": "drift-ks", "action": "deleted"}]
        }
        assert (await bench.apply()).json() == {"applied": []}

    run(test)


@pytest.mark.parametrize("to", ["apply", "delete"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "file-0.yaml: apiVersion is missing"),
        ([], "file-0.yaml: a Kubernetes object is a mapping, not a list"),
        (None, "file-0.yaml: a Kubernetes object is a mapping"),
        ({"apiVersion": "v1", "kind": {"a": 1}}, "file-0.yaml: kind is missing"),
        (SECRET | {"metadata": {}}, "file-0.yaml: metadata.name is missing"),
        (SECRET | {"metadata": {"name": "a", "namespace": 1}}, "metadata.namespace is not text"),
    ],
)
def test_what_is_no_object_is_a_422(run, to: str, content: Any, told: str) -> None:
    async def test(bench: Bench) -> None:
        answer = await bench.apply(content, to=to)
        assert answer.status_code == 422
        assert told in answer.json()["error"]

    run(test)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            DETECTOR,
            "file-0.yaml, Deployment: spec.template.spec.containers[0].envFrom[0]: there is no S",
        ),
        (SECRET | {"kind": "Pod"}, "file-0.yaml: the kind Pod is not supported"),
        (
            SECRET | {"stringData": {"password": 31337}},
            "file-0.yaml, Secret: stringData.password: must",
        ),
    ],
)
def test_a_wrong_manifest_is_a_422_with_its_place(run, content: Any, told: str) -> None:
    async def test(bench: Bench) -> None:
        answer = await bench.apply(content)
        assert answer.status_code == 422
        assert told in answer.json()["error"]
        assert "31337" not in answer.text
        assert bench.cluster.status() == []

    run(test)


@pytest.mark.parametrize("to", ["apply", "delete"])
@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        "1",
        '"documents"',
        "{}",
        '{"documents": null}',
        '{"documents": 1}',
        '{"documents": [1]}',
        '{"documents": [{}]}',
        '{"documents": [{"origin": "x"}]}',
        '{"documents": [{"origin": 1, "content": {}}]}',
        '{"documents": ["ab"]}',
        '{"documents": "ab"}',
        '{"documents": [{"origin": "x", "content": ' + "[" * 100 + "]" * 100 + "}]}",
    ],
)
def test_a_wrong_body_is_a_400(run, to: str, body: str) -> None:
    async def test(bench: Bench) -> None:
        answer = await bench.call("POST", f"/v1/{to}", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]

    run(test)


def test_a_fault_of_ours_is_no_400(run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        async def broken(documents: Any) -> None:
            raise KeyError("ours")

        monkeypatch.setattr(bench.cluster, "apply", broken)
        bench.app = control.make_app(bench.cluster, TOKEN, OWN, new_registry(), bench._stop)
        transport = httpx.ASGITransport(bench.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://stack", headers=bench.client.headers
        ) as bench.client:
            answer = await bench.apply(SECRET)
        assert answer.status_code == 500
        assert "hunter2" not in answer.text

    run(test)


def test_a_full_disk_is_a_503(run, tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.cluster.file = tmp_path / "not there" / "objects.json"
        answer = await bench.apply(SECRET)
        assert answer.status_code == 503
        assert "cannot be written" in answer.json()["error"]

    run(test)


# Questions


def test_status(run) -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.call("GET", "/v1/status")).json() == {"servers": [], "objects": []}
        await bench.apply(SECRET, DETECTOR, SERVICE)
        answer = await bench.call("GET", "/v1/status")
        told = answer.json()
        assert told["servers"] == [
            {
                "name": "drift-ks",
                "owner": "Deployment/drift-ks",
                "state": "starting",
                "restarts": 0,
                "pid": None,
                "address": None,
                "seconds": 0.0,
                "last_line": "",
            }
        ]
        waiting = {"servers": ["drift-ks"], "waits_for": ["drift-ks"]}
        none: dict[str, list[str]] = {"servers": [], "waits_for": []}
        assert [{**one, "namespace": None} for one in told["objects"]] == [
            {"kind": "Secret", "namespace": None, "name": "keys", **none},
            {"kind": "Deployment", "namespace": None, "name": "drift-ks", **waiting},
            {"kind": "Service", "namespace": None, "name": "drifts", **waiting},
        ]
        assert "hunter2" not in answer.text

    run(test)


def test_logs_of_a_server_and_of_what_owns_it(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(SECRET, DETECTOR, SERVICE)
        bench.supervisor.logs["drift-ks"] = "one\ntwo\nthree\n"
        for name in ("drift-ks", "drifts"):
            answer = await bench.call("GET", f"/v1/logs/{name}?lines=2")
            assert answer.status_code == 200
            assert answer.text == "two\nthree\n"

    run(test)


@pytest.mark.parametrize("lines", ["0", "-1", "x", "1.5", "", "10001", "²", "9" * 6000, "1 "])
def test_lines_that_are_no_number(run, lines: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(SECRET, DETECTOR)
        bench.supervisor.logs["drift-ks"] = "one\n"
        answer = await bench.client.get("/v1/logs/drift-ks", params={"lines": lines})
        assert answer.status_code == 400
        assert "lines is a whole number up to 10000" in answer.json()["error"]

    run(test)


@pytest.mark.parametrize("what", ["logs", "metrics"])
def test_unknown_names_are_a_404_that_tells_the_known_ones(run, what: str) -> None:
    async def test(bench: Bench) -> None:
        answer = await bench.call("GET", f"/v1/{what}/nope")
        assert answer.status_code == 404
        assert "there is nothing" in answer.json()["error"]
        await bench.apply(SECRET, DETECTOR, SERVICE)
        for name in ("nope", "..", "%2e%2e", "x" * 5000, "a%00b", "keys"):
            answer = await bench.call("GET", f"/v1/{what}/{name}")
            assert answer.status_code == 404
            assert len(answer.text) < 500
        assert "there is drift-ks, drifts, keys" in answer.json()["error"]

    run(test)


def test_a_server_without_a_log_yet(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(SECRET, DETECTOR)
        answer = await bench.call("GET", "/v1/logs/drift-ks")
        assert answer.status_code == 404
        assert "no log of 'drift-ks'" in answer.json()["error"]

    run(test)


def test_urls(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(SECRET, DETECTOR, SERVICE)
        (answer,) = (await bench.call("GET", "/v1/urls")).json().items()
        assert answer[0] == "Service/drifts"
        assert answer[1].startswith("http://127.0.0.1:")

    run(test)


def test_targets_are_those_of_the_stack_and_of_servers_that_are_up(run) -> None:
    async def test(bench: Bench) -> None:
        own = {
            "targets": ["127.0.0.1:1"],
            "labels": {
                "__metrics_path__": "/prometheus",
                "namespace": "walkthrough",
                "pod": "gateway",
            },
        }
        await bench.apply(SECRET, DETECTOR)
        assert (await bench.call("GET", "/v1/targets")).json() == [own]
        bench.supervisor.metrics["drift-ks"] = "127.0.0.1:5"
        assert (await bench.call("GET", "/v1/targets")).json() == [
            own,
            {
                "targets": ["127.0.0.1:5"],
                "labels": {
                    "__metrics_path__": "/v1/metrics",
                    "namespace": "walkthrough",
                    "pod": "drift-ks",
                    "container": "drift-ks",
                },
            },
        ]

    run(test)


def test_metrics_of_a_server(run, exposition: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(SECRET, DETECTOR, SERVICE)
        answer = await bench.call("GET", "/v1/metrics/drift-ks")
        assert answer.status_code == 503
        assert "has no metrics now; wait until it is ready" in answer.json()["error"]
        bench.supervisor.metrics["drift-ks"] = exposition
        for name in ("drift-ks", "drifts"):
            answer = await bench.call("GET", f"/v1/metrics/{name}")
            assert (answer.status_code, answer.text) == (200, "a 1\n")

    run(test)


@pytest.mark.parametrize("path", ["/broken", "/elsewhere"])
def test_metrics_that_cannot_be_had(run, exposition: str, path: str) -> None:
    async def test(bench: Bench) -> None:
        bench.supervisor.apply(ServerSpec("one", "x", ("x",), metrics_path=path))
        bench.supervisor.metrics["one"] = exposition
        answer = await bench.call("GET", "/v1/metrics/one")
        assert answer.status_code == 503
        assert "The metrics of one answer" in answer.json()["error"]
        bench.supervisor.metrics["one"] = "127.0.0.1:9"
        answer = await bench.call("GET", "/v1/metrics/one")
        assert answer.status_code == 503
        assert "The metrics of one cannot be read" in answer.json()["error"]

    run(test)


def test_down_tells_the_daemon_to_end(run) -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.call("POST", "/v1/down")).json() == {"stopping": True}
        assert bench.stopped

    run(test)


def test_a_scrape_has_restarts_of_every_server_and_no_secret(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(SECRET, DETECTOR)
        text = (await bench.call("GET", "/metrics")).text
        assert (
            'kube_pod_container_status_restarts_total{container="drift-ks",namespace="walkthrough",'
            'pod="drift-ks"} 0.0'
        ) in text
        assert "hunter2" not in text

    run(test)
