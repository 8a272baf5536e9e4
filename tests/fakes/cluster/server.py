"""The API server over HTTP and websockets, in a thread, with the controllers behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import struct
import threading
from pathlib import Path
from typing import Any

import yaml
from aiohttp import WSMsgType, web

from tests.fakes.cluster.controllers import Controllers
from tests.fakes.cluster.neighbours import Neighbours
from tests.fakes.cluster.store import RefusalError, Store

NAMESPACE, CONTEXT, TOKEN = "walkthrough", "kind-walkthrough", "a-token-of-the-test"
STEP_SECONDS = 0.02
# kind: group and version, plural
KINDS = {
    "ConfigMap": ("v1", "configmaps"),
    "Secret": ("v1", "secrets"),
    "Service": ("v1", "services"),
    "Pod": ("v1", "pods"),
    "Event": ("v1", "events"),
    "Deployment": ("apps/v1", "deployments"),
    "SeldonDeployment": ("machinelearning.seldon.io/v1", "seldondeployments"),
    "Broker": ("eventing.knative.dev/v1", "brokers"),
    "Trigger": ("eventing.knative.dev/v1", "triggers"),
    "VirtualService": ("networking.istio.io/v1", "virtualservices"),
    "PrometheusRule": ("monitoring.coreos.com/v1", "prometheusrules"),
}
PLURALS = {plural: kind for kind, (_, plural) in KINDS.items()}


class FakeCluster:
    """A cluster on a port of this machine; a context manager."""

    def __init__(self) -> None:
        self.store = Store()
        self.controllers = Controllers(self.store)
        self.neighbours = Neighbours(self.controllers)
        self.kinds = set(KINDS)  # take some out: their definitions are not installed
        self.namespaces = {NAMESPACE}
        self.token = TOKEN
        self.requests: list[tuple[str, str]] = []
        self.broken: tuple[int, str] | None = None  # answers everything so
        self.hangs = False
        self.logs: dict[tuple[str, str, bool], str] = {}  # Deployment, container, previous
        self.pages: dict[tuple[str, int, str], str] = {}  # pod's Deployment, port, path
        self.backends: dict[str, int] = {}  # port on this machine, by Deployment
        self.folders: dict[str, Path] = {}  # root of the containers, by Deployment
        self.events: list[dict[str, Any]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: list[asyncio.Task[Any]] = []

    def __enter__(self) -> FakeCluster:
        self._thread.start()
        self.port = self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine in the server's thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def change(self, function: Any, *arguments: Any) -> Any:
        """Call a function in the server's thread, where nothing else changes the store meanwhile."""

        async def call() -> Any:
            return function(*arguments)

        return self.run(call())

    @property
    def url(self) -> str:
        """Of the API server."""
        return f"http://127.0.0.1:{self.port}"

    def kubeconfig(self, path: Path, context: str = CONTEXT) -> Path:
        """Write a kubeconfig whose current context is another one, that leads nowhere."""
        named = {"cluster": {"server": self.url}, "name": context}
        other = {"cluster": {"server": "https://production.example:6443"}, "name": "production"}
        users = [{"name": name, "user": {"token": self.token}} for name in (context, "production")]
        contexts = [
            {"name": name, "context": {"cluster": name, "user": name}}
            for name in (context, "production")
        ]
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [named, other],
            "users": users,
            "contexts": contexts,
            "current-context": "production",
        }
        path.write_text(yaml.safe_dump(content))
        return path

    async def _start(self) -> int:
        app = web.Application(middlewares=[self._guard], client_max_size=2**24)
        one = "/{group:api|apis/[^/]+}/{version}/namespaces/{namespace}"
        app.add_routes(
            [
                web.get("/version", self._version),
                web.get("/apis", self._groups),
                web.get("/{group:api|apis/[^/]+}/{version:v[^/]+}", self._resources),
                web.get("/api/v1/namespaces/{name}", self._namespace),
                web.get(f"{one}/pods/{{name}}/log", self._log),
                web.get(f"{one}/pods/{{name}}/exec", self._exec),
                web.get(f"{one}/pods/{{name}}/portforward", self._forward),
                web.get(f"{one}/pods/{{place}}/proxy/{{path:.*}}", self._proxy),
                web.get(f"{one}/{{plural}}", self._list),
                web.get(f"{one}/{{plural}}/{{name}}", self._get),
                web.patch(f"{one}/{{plural}}/{{name}}", self._apply),
                web.delete(f"{one}/{{plural}}/{{name}}", self._delete),
                *self.neighbours.routes(),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._tasks.append(asyncio.ensure_future(self._control()))
        return site._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()

    async def _control(self) -> None:
        while True:
            self.controllers.step()
            await asyncio.sleep(STEP_SECONDS)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not request.path.startswith(("/api", "/version")):
            return await handler(request)
        self.requests.append((request.method, request.path_qs))
        if self.hangs:
            await asyncio.sleep(60)
        try:
            if self.broken is not None:
                raise RefusalError(self.broken[0], "InternalError", self.broken[1])
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                raise RefusalError(401, "Unauthorized", "Unauthorized")
            return await handler(request)
        except RefusalError as refusal:
            return web.json_response(refusal.body, status=refusal.code)

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"major": "1", "minor": "34", "gitVersion": "v1.34.11"})

    async def _groups(self, request: web.Request) -> web.Response:
        found = {KINDS[kind][0] for kind in self.kinds if "/" in KINDS[kind][0]}
        groups = []
        for version in sorted(found):
            name, _, number = version.partition("/")
            one = {"groupVersion": version, "version": number}
            groups.append({"name": name, "versions": [one], "preferredVersion": one})
        return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})

    async def _resources(self, request: web.Request) -> web.Response:
        group = request.match_info["group"].removeprefix("apis/")
        version = request.match_info["version"]
        wanted = version if group == "api" else f"{group}/{version}"
        found = [
            {"name": KINDS[kind][1], "kind": kind, "namespaced": True, "verbs": ["get", "patch"],
             "singularName": kind.lower()}
            for kind in sorted(self.kinds)
            if KINDS[kind][0] == wanted
        ]  # fmt: skip
        if not found:
            raise RefusalError(404, "NotFound", "the server could not find the requested resource")
        body = {"kind": "APIResourceList", "groupVersion": wanted, "resources": found}
        return web.json_response(body)

    async def _namespace(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.namespaces:
            raise RefusalError(404, "NotFound", f'namespaces "{name}" not found')
        return web.json_response({"kind": "Namespace", "metadata": {"name": name}})

    def _kind(self, request: web.Request) -> str:
        kind = PLURALS.get(request.match_info["plural"], "")
        if kind not in self.kinds:
            raise RefusalError(404, "NotFound", "the server could not find the requested resource")
        return kind

    async def _list(self, request: web.Request) -> web.Response:
        kind = self._kind(request)
        found = list(self.store.of(kind)) if kind != "Event" else self.events
        for wanted in filter(None, request.query.get("labelSelector", "").split(",")):
            key, _, value = wanted.partition("=")
            found = [one for one in found if one["metadata"].get("labels", {}).get(key) == value]
        if fields := request.query.get("fieldSelector"):
            name = re.fullmatch(r"involvedObject\.name=(.+)", fields)[1]
            found = [one for one in found if one["involvedObject"]["name"] == name]
        return web.json_response({"kind": f"{kind}List", "apiVersion": "v1", "items": found})

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self.store.get(self._kind(request), request.match_info["name"]))

    async def _apply(self, request: web.Request) -> web.Response:
        kind = self._kind(request)
        namespace = request.match_info["namespace"]
        if namespace not in self.namespaces:
            raise RefusalError(404, "NotFound", f'namespaces "{namespace}" not found')
        if request.content_type != "application/apply-patch+yaml":
            raise RefusalError(415, "UnsupportedMediaType", request.content_type)
        query = dict(request.query)
        if query.pop("fieldValidation", "") != "Strict" or not query.get("fieldManager"):
            raise RefusalError(
                400, "BadRequest", f"this fake wants strict validation and a manager: {query}"
            )
        body = yaml.safe_load(await request.text())
        if (body["kind"], body["metadata"]["name"]) != (kind, request.match_info["name"]):
            raise RefusalError(400, "BadRequest", "the body is of another object than the path")
        content, new = self.store.apply(
            body,
            query["fieldManager"],
            force=query.get("force", "").lower() == "true",
            dry_run=query.get("dryRun") == "All",
        )
        return web.json_response(content, status=201 if new else 200)

    async def _delete(self, request: web.Request) -> web.Response:
        options = await request.json() if request.can_read_body else {}
        kind, name = self._kind(request), request.match_info["name"]
        return web.json_response(self.store.delete(kind, name, options))

    def _pod(self, name: str) -> tuple[dict[str, Any], str]:
        pod = self.store.get("Pod", name)
        return pod, pod["metadata"]["ownerReferences"][0]["name"].rpartition("-")[0]

    async def _log(self, request: web.Request) -> web.Response:
        pod, deployment = self._pod(request.match_info["name"])
        container = request.query["container"]
        previous = request.query.get("previous") == "true"
        status = next(
            (one for one in pod["status"].get("containerStatuses", []) if one["name"] == container),
            None,
        )
        if status is None:
            raise RefusalError(400, "BadRequest", f"container {container} is not valid for pod")
        if "running" not in status["state"] and not status["restartCount"]:
            why = status["state"]["waiting"]["reason"]
            raise RefusalError(
                400, "BadRequest", f'container "{container}" is waiting to start: {why}'
            )
        if previous and not status.get("lastState"):
            raise RefusalError(400, "BadRequest", "previous terminated container not found")
        default = "" if previous else "started\nlistens\n"
        lines = self.logs.get((deployment, container, previous), default).splitlines(True)
        return web.Response(text="".join(lines[-int(request.query["tailLines"]) :]))

    async def _proxy(self, request: web.Request) -> web.Response:
        name, _, port = request.match_info["place"].partition(":")
        _, deployment = self._pod(name)
        pages = {
            key: text for key, text in self.pages.items() if key[:2] == (deployment, int(port))
        }
        if not pages:
            raise RefusalError(503, "ServiceUnavailable", "error trying to reach service: refused")
        text = pages.get((deployment, int(port), request.match_info["path"]))
        return web.Response(text="404 page not found" if text is None else text,
                            status=404 if text is None else 200)  # fmt: skip

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        """`tar` on a folder of the test, with the channels of v4.channel.k8s.io."""
        _, deployment = self._pod(request.match_info["name"])
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        command = request.query.getall("command")
        place = command.index("-C") + 1
        command[place] = f"{self.folders[deployment]}{command[place]}"
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, errors = await process.communicate()
        for start in range(0, len(out), 30_000):
            await socket.send_bytes(b"\x01" + out[start : start + 30_000])
        if errors:
            await socket.send_bytes(
                b"\x02" + errors.replace(str(self.folders[deployment]).encode(), b"")
            )
        status: dict[str, Any] = {"metadata": {}, "status": "Success"}
        if process.returncode:
            cause = {"reason": "ExitCode", "message": str(process.returncode)}
            status = {"status": "Failure", "message": f"exit code {process.returncode}",
                      "details": {"causes": [cause]}}  # fmt: skip
        await socket.send_bytes(b"\x03" + json.dumps(status).encode())
        await socket.close()
        return socket

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        """One TCP connection to the backend of a Deployment."""
        _, deployment = self._pod(request.match_info["name"])
        port = int(request.query["ports"])
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        await socket.send_bytes(b"\x00" + struct.pack("<H", port))
        await socket.send_bytes(b"\x01" + struct.pack("<H", port))
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.backends[deployment])
        except (OSError, KeyError):
            await socket.send_bytes(b"\x01an error occurred forwarding: connection refused")
            await socket.close()
            return socket

        async def back() -> None:
            while data := await reader.read(65536):
                await socket.send_bytes(b"\x00" + data)
            await socket.close()

        task = asyncio.ensure_future(back())
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                writer.write(message.data[1:])
                await writer.drain()
        writer.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await task
        return socket
