"""The API server of one context of the kubeconfig, as plain dicts; every call has a limit.

Importing this takes a second and more, for the kubernetes client: only where a cluster is asked.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket
import yaml
from kubernetes import client, config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.discovery import LazyDiscoverer
from kubernetes.dynamic.exceptions import NotFoundError, ResourceNotFoundError
from kubernetes.stream import portforward, stream
from kubernetes.stream.ws_client import PortForward, WSClient

from helpers.errors import StackError
from helpers.stack.interface import NAMESPACE
from helpers.stack.kind.kinds import Kind
from helpers.stack.kind.problems import UP, explained, status_of

VARIABLE = "KIND_CONTEXT"
CONTEXT = "kind-walkthrough"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0  # applying waits for webhooks, which have 10 s each
UNKNOWN_SECONDS = 10.0
FIELD_MANAGER = "walkthrough"

Object = dict[str, Any]
_websockets = threading.Lock()


class Api:
    """The API server; objects are those of the namespace of the manifests.

    Args:
        context: of the kubeconfig; $KIND_CONTEXT or kind-walkthrough by default. The kubeconfig's current
            context does not matter: what a notebook deletes must not depend on it.

    Raises:
        StackError: there is no kubeconfig, or no such context in it.
    """

    def __init__(self, context: str | None = None) -> None:
        self.context = context or os.environ.get(VARIABLE) or CONTEXT
        self._configuration = _configuration(self.context)
        self.server = f"The cluster {self.context} at {self._configuration.host}"
        self._client: DynamicClient | None = None
        self._resources: dict[Kind, Any] = {}
        self._unknown: dict[Kind, float] = {}  # until when a kind counts as not installed

    def check(self) -> None:
        """Return if the cluster answers and has the namespace.

        Raises:
            StackError: it does not; says what to do.
        """
        with explained("looking for the namespace", self.server):
            answer = self._request("get", f"/api/v1/namespaces/{NAMESPACE}")
        if answer is None:
            raise StackError(f"{self.server} has no namespace {NAMESPACE}; {UP} makes it.")

    def get(self, kind: Kind, name: str, origin: str | None = None) -> Object | None:
        """Return an object; None where it is not there."""
        with explained(f"reading {kind.name}/{name}", self.server, origin=origin, kind=kind):
            resource = self._resource(kind)
            return self._request("get", resource.path(name=name, namespace=NAMESPACE))

    def list(self, kind: Kind, labels: str = "", fields: str = "") -> list[Object]:
        """Return the objects of a kind, with these labels and fields, as selectors.

        Raises:
            StackError: the cluster does not know the kind, or does not answer.
        """
        with explained(f"listing {kind.name}", self.server, kind=kind):
            path = self._resource(kind).path(namespace=NAMESPACE)
            found = self._request(
                "get", path, label_selector=labels or None, field_selector=fields or None
            )
        return found["items"] if found else []

    def knows(self, kind: Kind) -> bool:
        """Return whether the kind's definition is installed."""
        if kind in self._resources:
            return True
        # The library asks for everything again where it does not find something.
        if time.monotonic() < self._unknown.get(kind, 0.0):
            return False
        with explained("asking for its kinds", self.server):
            try:
                self._resource(kind)
            except ResourceNotFoundError:
                self._unknown[kind] = time.monotonic() + UNKNOWN_SECONDS
                return False
        return True

    def apply(self, kind: Kind, content: Object, origin: str, *, dry_run: bool) -> Object:
        """Apply an object server-side, as `kubectl apply --server-side --force-conflicts --validate=strict`.

        Fields that somebody else has set are taken over where the manifest has them too, as an ordinary
        `kubectl apply` would.

        Raises:
            ManifestError: the API server or a webhook refuses it.
        """
        name = content["metadata"]["name"]
        with explained(f"applying {kind.name}/{name}", self.server, origin=origin, kind=kind):
            answer = self._dynamic().server_side_apply(
                self._resource(kind),
                body=content,
                name=name,
                namespace=NAMESPACE,
                field_manager=FIELD_MANAGER,
                force_conflicts=True,
                dry_run="All" if dry_run else None,
                query_params=[("fieldValidation", "Strict")],
                serialize=False,
            )
            return json.loads(answer.data)

    def delete(self, kind: Kind, name: str, uid: str) -> bool:
        """Delete an object, if it is still that of `uid`; return whether it was there."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Foreground" if kind.foreground else "Background",
        }
        with explained(f"deleting {kind.name}/{name}", self.server, kind=kind):
            path = self._resource(kind).path(name=name, namespace=NAMESPACE)
            return self._request("delete", path, body=body) is not None

    def text(self, path: str, query: Mapping[str, Any] | None = None) -> str:
        """Return what a subresource of a pod answers to GET: `pods/NAME/log`, `pods/NAME:PORT/proxy/…`.

        Raises:
            ApiException: its status is not 200; not a StackError, as callers tell statuses apart.
        """
        answer = self._dynamic().request(
            "get",
            f"/api/v1/namespaces/{NAMESPACE}/{path}",
            query_params=list((query or {}).items()),
            header_params={"Accept": "*/*"},
            serialize=False,
        )
        return answer.data.decode("utf-8", errors="replace")

    def execute(self, pod: str, container: str, command: list[str]) -> WSClient:
        """Start a command in a container; its output is bytes on the channels of the answer."""
        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("command", word) for word in command]
        with explained(f"running {command[0]} in {pod}", self.server), _limited_websockets():
            connect = _Pod(self._configuration, pod).connect
            return stream(connect, "exec", query, binary=True, _preload_content=False)

    def forward(self, pod: str, port: int) -> PortForward:
        """Connect to a port of a pod; its `socket(port)` is the connection."""
        with explained(f"connecting to {pod}:{port}", self.server), _limited_websockets():
            connect = _Pod(self._configuration, pod).connect
            return portforward(connect, "portforward", [("ports", str(port))])

    def _request(self, method: str, path: str, **options: Any) -> Object | None:
        try:
            answer = self._dynamic().request(method, path, serialize=False, **options)
        except NotFoundError as problem:
            if not status_of(problem):
                raise ValueError("it answers 404, and not as such a server does") from problem
            return None
        return json.loads(answer.data)

    def _resource(self, kind: Kind) -> Any:
        if kind not in self._resources:
            # Without the prefix the library looks for a kind of `v1` in every other group too.
            prefix = "apis" if "/" in kind.api_version else "api"
            self._resources[kind] = self._dynamic().resources.get(
                prefix=prefix, api_version=kind.api_version, kind=kind.name
            )
        return self._resources[kind]

    def _dynamic(self) -> DynamicClient:
        if self._client is None:
            self._client = DynamicClient(
                _Client(self._configuration), cache_file=os.devnull, discoverer=_Discoverer
            )
        return self._client


class _Client(client.ApiClient):
    """Gives every call a limit, which the library itself does not."""

    def call_api(self, *arguments: Any, _request_timeout: Any = None, **options: Any) -> Any:
        limit = _request_timeout or (CONNECT_SECONDS, ANSWER_SECONDS)
        return super().call_api(*arguments, _request_timeout=limit, **options)


class _Pod:
    """Subresources of a pod that take a websocket.

    The library's own CoreV1Api has them too, and takes seconds to import. While it connects, the library
    replaces a method of the client, so each connection has a client of its own.
    """

    def __init__(self, configuration: client.Configuration, name: str) -> None:
        self.api_client = _Client(configuration)  # the library looks for it here
        self._path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}"

    def connect(self, subresource: str, query: list[tuple[str, str]], **_: Any) -> Any:
        """Open the websocket."""
        request = self.api_client.param_serialize(
            "GET", f"{self._path}/{subresource}", query_params=query, auth_settings=["BearerToken"]
        )
        return self.api_client.call_api(*request).response


class _Discoverer(LazyDiscoverer):
    """Asks which kinds there are once for each process.

    The library's own keeps them in a file in /tmp that anybody may write, under a name that a cluster
    made anew at the same port shares.
    """

    def __init__(self, dynamic: DynamicClient, cache_file: str | None) -> None:
        super().__init__(dynamic, os.path.join(os.devnull, "none"))

    def _write_cache(self) -> None:
        pass


def _configuration(context: str) -> client.Configuration:
    settings = client.Configuration()
    settings.proxy = None  # the cluster is on this machine
    settings.retries = 1
    # The library reads the variable when it is imported; here it counts when it is needed.
    files = os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not any(Path(one).expanduser().is_file() for one in files.split(os.pathsep)):
        raise StackError(f"There is no cluster: no kubeconfig at {files}. {UP} makes one.")
    try:
        known, _ = config.list_kube_config_contexts(files)
        names = sorted(one["name"] for one in known)
        if context not in names:
            raise StackError(
                f"The kubeconfig has no context {context}, so there is no cluster of this repository: {UP} "
                f"makes one, ${VARIABLE} names another. "
                + (f"It has {', '.join(names)}, which are left alone." if names else "It is empty.")
            )
        config.load_kube_config(
            files, context=context, client_configuration=settings, persist_config=False
        )
    except (config.ConfigException, OSError) as problem:
        raise StackError(
            f"The context {context} of {files} cannot be used: {problem}."
        ) from problem
    except (LookupError, TypeError, ValueError, AttributeError, yaml.YAMLError) as problem:
        raise StackError(f"{files} is no kubeconfig: {problem}.") from problem
    settings.proxy = None
    return settings


@contextmanager
def _limited_websockets() -> Iterator[None]:
    """The library opens websockets without a limit; the only one that it takes is for the whole process."""
    with _websockets:
        before = websocket.getdefaulttimeout()
        websocket.setdefaulttimeout(ANSWER_SECONDS)
        try:
            yield
        finally:
            websocket.setdefaulttimeout(before)
