"""What is applied and what comes of it: servers asked for, routes, triggers, addresses, the file."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import ManifestError, StackError
from helpers.serving.broker.broker import Broker
from helpers.serving.broker.retention import Limits
from helpers.serving.common.metrics import new_registry
from helpers.serving.gateway.routes import Routes
from helpers.stack.documents import Document
from helpers.stack.interface import Applied, ServerStatus
from helpers.stack.local.cluster import Cluster
from helpers.stack.local.spec import ServerSpec

pytestmark = pytest.mark.timeout(60)


class FakeSupervisor:
    """Takes specs and starts nothing; a server becomes ready when the test says so."""

    def __init__(self) -> None:
        self.active: dict[str, ServerSpec] = {}  # takes requests
        self.pending: dict[str, ServerSpec] = {}
        self.ready: set[str] = set()  # fingerprints
        self.ports: dict[str, int] = {}  # by fingerprint
        self.on_change: Callable[[], None] = lambda: None

    def apply(self, spec: ServerSpec) -> str:
        current = self.pending.get(spec.name) or self.active.get(spec.name)
        if current is not None and current.fingerprint == spec.fingerprint:
            return "unchanged"
        self.ports.setdefault(spec.fingerprint, 20_000 + len(self.ports))
        if spec.name in self.active and self.active[spec.name].fingerprint in self.ready:
            self.pending[spec.name] = spec
        else:
            self.active[spec.name] = spec
        return "created" if current is None else "configured"

    def remove(self, name: str) -> bool:
        self.pending.pop(name, None)
        return self.active.pop(name, None) is not None

    def become_ready(self, *names: str) -> None:
        for name in names or [*self.active]:
            if name in self.pending:
                self.active[name] = self.pending.pop(name)
            self.ready.add(self.active[name].fingerprint)
        self.on_change()

    def address(self, name: str) -> tuple[str, int] | None:
        spec = self.active.get(name)
        if spec is None or spec.fingerprint not in self.ready:
            return None
        return "127.0.0.1", self.ports[spec.fingerprint]

    def is_ready(self, spec: ServerSpec) -> bool:
        active = self.active.get(spec.name)
        return (
            active is not None
            and active.fingerprint == spec.fingerprint
            and active.fingerprint in self.ready
        )

    def status(self) -> list[ServerStatus]:
        return [
            ServerStatus(one.name, one.owner, "ready" if self.is_ready(one) else "starting")
            for one in [*self.active.values(), *self.pending.values()]
        ]

    def names(self) -> set[str]:
        return {*self.active, *self.pending}


class Bench:
    """A cluster in a folder, and what stands around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.supervisor = FakeSupervisor()
        self.routes = Routes()
        self.broker = Broker(folder / "broker", new_registry(), Limits())
        self.file = folder / "objects.json"
        self.cluster = Cluster(
            self.supervisor, self.routes, self.broker, "127.0.0.1:1", "127.0.0.1:2", self.file
        )
        self.supervisor.on_change = self.cluster.refresh

    async def apply(self, *contents: dict[str, Any]) -> list[str]:
        applied = await self.cluster.apply(documents(*contents))
        assert all(isinstance(one, Applied) for one in applied)
        return [str(one) for one in applied]

    async def delete(self, *contents: dict[str, Any]) -> list[str]:
        return [str(one) for one in await self.cluster.delete(documents(*contents))]

    @property
    def deployment(self):
        (only,) = self.routes.table.deployments
        return only

    def predictor_ports(self) -> dict[str, int]:
        """Port of each predictor that has a route."""
        return {one.name: int(one.url.rpartition(":")[2]) for one in self.deployment.predictors}

    def port(self, name: str) -> int:
        address = self.supervisor.address(name)
        assert address is not None
        return address[1]

    def snapshot(self) -> Any:
        return copy.deepcopy(
            (
                {key: one.model_dump() for key, one in self.cluster.objects.items()},
                list(self.cluster.documents),
                self.supervisor.names(),
                self.routes.table.model_dump(),
                {key: lane.trigger.model_dump() for key, lane in self.broker.lanes.items()},
                set(self.broker.brokers),
                {key: one.address for key, one in self.cluster.relays.items()},
                self.cluster.urls(),
                self.file.read_text() if self.file.exists() else None,
            )
        )


def documents(*contents: dict[str, Any]) -> list[Document]:
    return [Document(f"file-{number}.yaml", one) for number, one in enumerate(contents)]


@contextlib.asynccontextmanager
async def bench_in(folder: Path) -> AsyncIterator[Bench]:
    bench = Bench(folder)
    await bench.broker.start()
    try:
        yield bench
    finally:
        await bench.cluster.stop()
        await bench.broker.stop()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return run(test): test(bench) on a loop of its own; more tests go on with the same folder."""
    for name in ("resnet32", "other", "anchor_images"):
        (tmp_path / "artifacts" / "cifar10" / name).mkdir(parents=True)
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path / "artifacts"))

    def run(*tests: Callable[[Bench], Awaitable[None]]) -> None:
        async def each() -> None:
            for test in tests:
                async with bench_in(tmp_path / "state") as bench:
                    await test(bench)

        asyncio.run(each())

    return run


def model(uri: str = "resnet32", *predictors: dict[str, Any], **graph: Any) -> dict[str, Any]:
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": "cifar10", "namespace": "walkthrough"},
        "spec": {
            "protocol": "tensorflow",
            "predictors": list(predictors) or [predictor("default", uri, **graph)],
        },
    }


def predictor(name: str, uri: str = "resnet32", traffic: int = 0, **graph: Any) -> dict[str, Any]:
    return {
        "name": name,
        "traffic": traffic,
        "graph": {
            "name": "resnet32",
            "implementation": "TENSORFLOW_SERVER",
            "modelUri": f"s3://walkthrough/cifar10/{uri}",
            **graph,
        },
    }


def detector(name: str = "drift-ks", *args: str) -> dict[str, Any]:
    container = {
        "name": name,
        "image": "seldonio/alibi-detect-server:1.19.0",
        "args": list(args),
        "ports": [{"name": "http", "containerPort": 8080}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "walkthrough"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container]},
            },
        },
    }


def service(name: str = "drift-ks", port: int = 80) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "walkthrough"},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "targetPort": "http"}]},
    }


def broker(name: str = "default") -> dict[str, Any]:
    return {
        "apiVersion": "eventing.knative.dev/v1",
        "kind": "Broker",
        "metadata": {"name": name, "namespace": "walkthrough"},
    }


def trigger(to: str = "drift-ks", of: str = "default", **attributes: str) -> dict[str, Any]:
    return {
        "apiVersion": "eventing.knative.dev/v1",
        "kind": "Trigger",
        "metadata": {"name": "one", "namespace": "walkthrough"},
        "spec": {
            "broker": of,
            "filter": {"attributes": attributes},
            "subscriber": {"ref": {"kind": "Service", "name": to}},
        },
    }


def secret(value: str = "hunter2") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "keys", "namespace": "walkthrough"},
        "stringData": {"password": value},
    }


def named(content: dict[str, Any], name: str) -> dict[str, Any]:
    return content | {"metadata": {"name": name, "namespace": "walkthrough"}}


ALL = [broker(), trigger(), detector(), service(), model()]
SERVERS = {"drift-ks", "cifar10-default-0-resnet32"}


# Apply


def test_created_unchanged_configured(run) -> None:
    async def test(bench: Bench) -> None:
        assert await bench.apply(*ALL) == [
            "broker/default created",
            "trigger/one created",
            "deployment/drift-ks created",
            "service/drift-ks created",
            "seldondeployment/cifar10 created",
        ]
        assert bench.supervisor.names() == SERVERS
        before = bench.snapshot()
        assert {one.split()[1] for one in await bench.apply(*reversed(ALL))} == {"unchanged"}
        assert bench.snapshot()[2:8] == before[2:8]
        assert await bench.apply(detector("drift-ks", "--x"), service()) == [
            "deployment/drift-ks configured",
            "service/drift-ks unchanged",
        ]

    run(test)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (detector("second") | {"spec": {}}, "file-4.yaml, Deployment: spec.selector: is missing"),
        (detector("second") | {"kind": "Pod"}, "file-4.yaml: the kind Pod is not supported"),
        (trigger("nobody", type="x"), "file-4.yaml, Trigger: spec."),
        (service("second", port=0), "file-4.yaml, Service: spec.ports[0].port: should be greater"),
        (named(model(modelUri="s3://elsewhere/a/b"), "b"), "is in the bucket 'elsewhere'"),
        (service("new"), "file-4.yaml: Service/new is in file-2.yaml as well; apply it once"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_all_or_nothing(run, wrong: dict[str, Any], told: str, first: bool) -> None:
    async def test(bench: Bench) -> None:
        if not first:
            await bench.apply(*ALL)
        before = bench.snapshot()
        changed = [
            detector("drift-ks", "--changed"),
            service("drift-ks", port=81),
            service("new"),
            model("other"),
        ]
        with pytest.raises(ManifestError) as caught:
            await bench.apply(*changed, wrong)
        assert told in str(caught.value)
        assert bench.snapshot() == before
        if not first:
            await bench.apply(detector("drift-ks", "--to=http://drift-ks:80"))  # still that port
        with pytest.raises(ManifestError, match="no Service new"):
            await bench.apply(detector("x", "--to=http://new"))

    run(test)


def test_what_is_applied_together_may_refer_to_each_other_in_any_order(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(
            model(envSecretRefName="keys"), trigger(), service(), detector(), broker(), secret()
        )

    run(test)


def test_a_trigger_cannot_move_to_another_broker(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(*ALL, broker("second"))
        before = bench.snapshot()
        with pytest.raises(
            ManifestError, match=r"file-0.yaml, Trigger: spec.broker: one belongs to"
        ):
            await bench.apply(trigger(of="second"))
        assert bench.snapshot() == before
        await bench.delete(trigger())
        await bench.apply(trigger(of="second"))
        assert bench.broker.lanes["walkthrough", "one"].trigger.broker == "second"

    run(test)


def test_nothing_changes_where_the_file_cannot_be_written(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(broker(), secret())
        before = bench.snapshot()

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", full)
            for change in (bench.apply, bench.delete):
                with pytest.raises(
                    StackError, match=r"Nothing was changed: .*No space left"
                ) as caught:
                    await change(secret("other"))
                assert "hunter2" not in str(caught.value)
        assert bench.snapshot() == before
        assert await bench.apply(secret("other")) == ["secret/keys configured"]

    run(test)


def test_changes_at_the_same_time_come_one_after_the_other(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(broker())
        names = [f"d{number}" for number in range(20)]

        async def come_and_go(name: str) -> None:
            await bench.apply(detector(name), service(name))
            await bench.apply(trigger(name, type=name))
            if int(name[1:]) % 2:
                await bench.delete(detector(name), service(name))

        await asyncio.gather(*map(come_and_go, names))
        left = {name for name in names if not int(name[1:]) % 2}
        assert bench.supervisor.names() == left
        kept = json.loads(bench.file.read_bytes())
        assert {one["content"]["metadata"]["name"] for one in kept} == left | {"default", "one"}

    run(test)


# Routes


def test_a_first_deployment_has_its_route_at_once(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(model())
        assert bench.predictor_ports() == {"default": 9}
        bench.supervisor.become_ready()
        assert bench.predictor_ports() == {"default": bench.port("cifar10-default-0-resnet32")}

    run(test)


def test_a_changed_deployment_keeps_its_route_until_every_server_is_ready(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(model())
        bench.supervisor.become_ready()
        old = bench.predictor_ports()
        await bench.apply(
            model("", predictor("default", traffic=50), predictor("canary", "other", traffic=50))
        )
        assert bench.predictor_ports() == old
        assert bench.deployment.serving[0].traffic == 0
        assert not bench.supervisor.ready >= {
            bench.supervisor.active["cifar10-canary-0-resnet32"].fingerprint
        }
        bench.supervisor.become_ready("cifar10-default-0-resnet32")
        assert list(bench.predictor_ports()) == ["default"]
        bench.supervisor.become_ready("cifar10-canary-0-resnet32")
        assert bench.predictor_ports() == {
            "default": bench.port("cifar10-default-0-resnet32"),
            "canary": bench.port("cifar10-canary-0-resnet32"),
        }
        assert [one.traffic for one in bench.deployment.serving] == [50, 50]

    run(test)


def test_a_changed_deployment_does_not_wait_for_its_explainer(run) -> None:
    """It asks the new model through the gateway, and is not ready before that answers."""
    explained = predictor("default", "other") | {
        "explainer": {"type": "AnchorImages", "modelUri": "s3://walkthrough/cifar10/resnet32"}
    }

    async def test(bench: Bench) -> None:
        await bench.apply(model())
        bench.supervisor.become_ready()
        assert bench.deployment.predictors[0].explainer is None
        await bench.apply(model("", explained))
        assert bench.deployment.predictors[0].explainer is None
        bench.supervisor.become_ready("cifar10-default-0-resnet32")
        assert bench.deployment.predictors[0].explainer == "http://127.0.0.1:9"
        waiting = [one.waits_for for one in bench.cluster.status() if one.kind != "Secret"]
        assert ("cifar10-default-explainer",) in waiting

    run(test)


def test_the_old_servers_stay_until_the_new_ones_take_over(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(model("", predictor("blue")))
        bench.supervisor.become_ready()
        await bench.apply(model("", predictor("green", "other")))
        blue, green = "cifar10-blue-0-resnet32", "cifar10-green-0-resnet32"
        assert bench.supervisor.names() == {blue, green}
        assert list(bench.predictor_ports()) == ["blue"]
        (one,) = bench.cluster.status()
        assert (one.servers, one.waits_for) == ((green,), (green,))
        bench.supervisor.become_ready(green)
        assert bench.predictor_ports() == {"green": bench.port(green)}
        assert bench.supervisor.names() == {green}
        assert bench.cluster.status()[0].waits_for == ()

    run(test)


def test_going_back_before_the_new_version_is_ready(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(model("", predictor("blue")))
        bench.supervisor.become_ready()
        await bench.apply(model("", predictor("green", "other")))
        await bench.apply(model("", predictor("blue")))
        assert list(bench.predictor_ports()) == ["blue"]
        assert bench.supervisor.names() == {"cifar10-blue-0-resnet32"}

    run(test)


def test_the_revision_changes_with_the_routes_only(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(model())
        first = bench.routes.table
        bench.cluster.refresh()
        await bench.apply(detector())
        assert bench.routes.table is first
        bench.supervisor.become_ready()
        assert bench.routes.table.revision != first.revision

    run(test)


# Delete


def test_delete_takes_away_what_was_there(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(*ALL)
        assert await bench.delete(service("nope"), trigger(), trigger(type="other"), model()) == [
            "trigger/one deleted",
            "seldondeployment/cifar10 deleted",
        ]
        assert bench.supervisor.names() == {"drift-ks"}
        assert bench.routes.table.deployments == ()
        assert bench.broker.lanes == {}
        assert await bench.delete(*ALL) == [
            "broker/default deleted",
            "deployment/drift-ks deleted",
            "service/drift-ks deleted",
        ]
        assert bench.broker.brokers == set()
        assert bench.cluster.status() == []
        assert bench.cluster.urls() == {}
        assert json.loads(bench.file.read_bytes()) == []

    run(test)


def test_a_deleted_broker_does_not_come_back_with_its_triggers(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(*ALL)
        await bench.delete(broker())
        assert bench.broker.brokers == set()
        await bench.apply(secret())
        assert bench.broker.brokers == set()
        assert set(bench.broker.lanes) == {("walkthrough", "one")}

    async def again(bench: Bench) -> None:
        await bench.cluster.restore()
        assert bench.broker.brokers == set()
        await bench.apply(broker())
        assert bench.broker.brokers == {("walkthrough", "default")}

    run(test, again)


def test_something_may_be_deleted_that_others_refer_to(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(
            *ALL,
            secret(),
            named(model(envSecretRefName="keys"), "b"),
        )
        await bench.delete(secret(), service(), broker())
        with pytest.raises(ManifestError, match="no Secret keys"):
            await bench.apply(model(envSecretRefName="keys"))

    async def again(bench: Bench) -> None:
        await bench.cluster.restore()
        assert {one.name for one in bench.cluster.status()} == {"one", "drift-ks", "cifar10", "b"}

    run(test, again)


# Services


async def reply_through(address: str) -> bytes:
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


def test_the_address_of_a_service_survives_rollover_and_deletion(run) -> None:
    async def test(bench: Bench) -> None:
        def greeting(text: bytes):
            async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(text)
                writer.close()

            return asyncio.start_server(greet, "127.0.0.1", 0)

        await bench.apply(*ALL)
        address = bench.cluster.urls()["Service/drift-ks"]
        assert bench.broker.lanes["walkthrough", "one"].trigger.subscriber == address
        assert await reply_through(address) == b""  # nobody there yet
        servers = [await greeting(b"old"), await greeting(b"new")]

        def serve(number: int) -> None:
            spec = bench.supervisor.active["drift-ks"]
            bench.supervisor.ports[spec.fingerprint] = servers[number].sockets[0].getsockname()[1]

        serve(0)
        bench.supervisor.become_ready("drift-ks")
        assert await reply_through(address) == b"old"
        await bench.apply(detector("drift-ks", "--changed"))
        assert await reply_through(address) == b"old"
        bench.supervisor.become_ready("drift-ks")
        serve(1)
        assert await reply_through(address) == b"new"
        await bench.delete(detector(), service())
        assert await reply_through(address) == b""
        await bench.apply(detector(), service())
        assert bench.cluster.urls()["Service/drift-ks"] == address
        for server in servers:
            server.close()

    run(test)


def test_urls(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(*ALL)
        urls = bench.cluster.urls()
        assert urls.pop("Service/drift-ks").startswith("http://127.0.0.1:")
        assert urls == {
            "SeldonDeployment/cifar10": "http://127.0.0.1:1/seldon/walkthrough/cifar10",
            "Broker/default": "http://127.0.0.1:2/walkthrough/default",
        }

    run(test)


def test_a_server_beside_stays_whatever_is_applied(run) -> None:
    async def test(bench: Bench) -> None:
        bench.cluster.run_beside(ServerSpec("prometheus", "stack", ("prometheus",)))
        await bench.apply(*ALL)
        await bench.delete(*ALL)
        assert bench.supervisor.names() == {"prometheus"}
        assert bench.cluster.urls() == {}
        bench.supervisor.become_ready()
        assert set(bench.cluster.urls()) == {"prometheus"}

    run(test)


# The file


def test_the_file_is_for_the_user_alone(run) -> None:
    async def test(bench: Bench) -> None:
        before = os.umask(0o000)
        try:
            await bench.apply(secret())
            assert bench.file.stat().st_mode & 0o777 == 0o600
            bench.file.chmod(0o644)
            bench.file.with_suffix(".new").write_text("of a daemon that was killed")
            await bench.apply(broker())
        finally:
            os.umask(before)
        assert bench.file.stat().st_mode & 0o777 == 0o600
        assert sorted(path.name for path in bench.folder.iterdir()) == ["broker", "objects.json"]

    run(test)


def test_a_secret_is_in_no_status(run) -> None:
    async def test(bench: Bench) -> None:
        given = detector()
        given["spec"]["template"]["spec"]["containers"][0]["envFrom"] = [
            {"secretRef": {"name": "keys"}}
        ]
        await bench.apply(secret(), given, service())
        spec = bench.supervisor.active["drift-ks"]
        assert spec.environment["password"] == "hunter2"
        shown = [
            bench.cluster.status(),
            bench.cluster.urls(),
            bench.supervisor.status(),
            spec.command,
        ]
        assert "hunter2" not in repr(shown)

    run(test)


def test_a_new_secret_makes_a_new_process(run) -> None:
    async def test(bench: Bench) -> None:
        given = detector()
        given["spec"]["template"]["spec"]["containers"][0]["envFrom"] = [
            {"secretRef": {"name": "keys"}}
        ]
        await bench.apply(secret(), given)
        bench.supervisor.become_ready()
        await bench.apply(secret("hunter3"))
        assert bench.supervisor.pending["drift-ks"].environment["password"] == "hunter3"

    run(test)


def test_everything_comes_back(run) -> None:
    left: list[Any] = []

    async def test(bench: Bench) -> None:
        await bench.apply(*ALL, secret())
        left.append(bench.snapshot())

    async def again(bench: Bench) -> None:
        await bench.cluster.restore()
        assert bench.snapshot()[:3] == left[0][:3]
        address = bench.cluster.urls()["Service/drift-ks"]
        assert bench.broker.lanes["walkthrough", "one"].trigger.subscriber == address
        assert {one.split()[1] for one in await bench.apply(*ALL, secret())} == {"unchanged"}

    run(test, again)


def test_one_document_that_cannot_be_any_more_does_not_take_the_others_with_it(
    run, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(bench: Bench) -> None:
        # The Service comes after what refers to it.
        await bench.apply(broker(), trigger(), detector(), model(), secret(), service())
        kept = json.loads(bench.file.read_bytes())
        (old,) = [one for one in kept if one["content"]["kind"] == "SeldonDeployment"]
        old["content"]["spec"]["predictors"][0]["graph"]["gone"] = 1
        bench.file.write_text(json.dumps(kept))

    async def again(bench: Bench) -> None:
        await bench.cluster.restore()
        kinds = {one.kind for one in bench.cluster.status()}
        assert kinds == {"Broker", "Trigger", "Deployment", "Secret", "Service"}
        address = bench.cluster.urls()["Service/drift-ks"]
        assert bench.broker.lanes["walkthrough", "one"].trigger.subscriber == address
        messages = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
        assert len(messages) == 1
        assert "graph.gone: the local stack does not support this field" in messages[0]
        await bench.apply(model())

    run(test, again)


def test_what_is_only_in_the_brokers_memory_is_forgotten(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(*ALL)
        bench.file.write_text("[]")

    async def again(bench: Bench) -> None:
        assert bench.broker.lanes
        await bench.cluster.restore()
        assert bench.broker.lanes == {}
        assert bench.broker.brokers == set()

    run(test, again)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "\xff",
        '{"a": 1}',
        "[1]",
        '[{"origin": "x"}]',
        '[{"origin": "x", "content": []}]',
        '[{"origin": "x", "content": {"kind": "x"}}]',
    ],
)
def test_a_damaged_file_is_set_aside(run, caplog: pytest.LogCaptureFixture, content: str) -> None:
    async def test(bench: Bench) -> None:
        bench.file.write_bytes(content.encode("latin-1"))
        await bench.cluster.restore()
        assert bench.cluster.status() == []
        assert "What was applied before is lost" in caplog.text
        assert bench.file.with_suffix(".damaged").read_bytes() == content.encode("latin-1")
        await bench.apply(*ALL)

    run(test)
