"""A Service of the cluster on a port of this machine, as `kubectl port-forward` has it.

Chosen over the API server's own proxy of Services, which changes paths and headers on the way and takes the
credentials along, and over a route of Istio's gateway for each Service, which would leave objects in the
cluster. Every connection goes to a pod that is ready when it is opened, so a relay outlives the pods that
it leads to; it ends with this process.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import threading
from typing import Any

from helpers.errors import StackError
from helpers.stack.kind import pods
from helpers.stack.kind.connection import Api, Object
from helpers.stack.kind.kinds import POD, SERVICE

CHUNK = 64 * 2**10
IDLE_SECONDS = 600.0  # a connection on which nothing moves is given up

logger = logging.getLogger(__name__)


class Relay:
    """Listens on 127.0.0.1 and leads each connection to a ready pod of a Service.

    Args:
        api: of the cluster.
        service: name of the Service; it has a selector.

    Raises:
        StackError: the Service has no selector or no port.
    """

    def __init__(self, api: Api, service: Object) -> None:
        self._api = api
        self._name = service["metadata"]["name"]
        target(service)  # refuses what cannot be led to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._numbers = itertools.count()
        thread = threading.Thread(target=self._accept, name=f"relay-{self._name}", daemon=True)
        thread.start()

    @property
    def url(self) -> str:
        """Its address."""
        host, port = self._listener.getsockname()[:2]
        return f"http://{host}:{port}"

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(
                target=self._serve,
                args=(connection,),
                name=f"relay-{self._name}-{next(self._numbers)}",
                daemon=True,
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                forward, port = self._connect()
            except StackError as problem:
                logger.debug("%s", problem)
                _refuse(connection, str(problem))
                return
            remote = forward.socket(port)
            try:
                _pump(connection, remote)
            finally:
                remote.close()

    def _connect(self) -> tuple[Any, int]:
        service = self._api.get(SERVICE, self._name)
        if service is None:
            raise StackError(f"The Service {self._name} has been deleted.")
        labels = ",".join(f"{key}={value}" for key, value in service["spec"]["selector"].items())
        ready = [pod for pod in self._api.list(POD, labels=labels) if pods.is_ready(pod)]
        if not ready:
            raise StackError(f"The Service {self._name} has no pod that is ready.")
        pod = ready[0]
        port = port_of(pod, target(service))
        return self._api.forward(pod["metadata"]["name"], port), port


def target(service: Object) -> int | str:
    """Return the first port of a Service as its pods know it, a number or a name.

    Raises:
        StackError: it has no selector, or no port.
    """
    spec = service["spec"]
    if not spec.get("selector") or not spec.get("ports"):
        raise StackError(
            f"The Service {service['metadata']['name']} selects no pods or has no port: there is nothing to "
            "lead to."
        )
    return spec["ports"][0].get("targetPort") or spec["ports"][0]["port"]


def port_of(pod: Object, port: int | str) -> int:
    """Return the number of a pod's port.

    Raises:
        StackError: no container has a port of that name.
    """
    if isinstance(port, int):
        return port
    for container in pod["spec"]["containers"]:
        for one in container.get("ports") or []:
            if one.get("name") == port:
                return one["containerPort"]
    raise StackError(f"The pod {pod['metadata']['name']} has no port named {port!r}.")


def _refuse(connection: socket.socket, why: str) -> None:
    """Answer as a gateway does whose server is away; whoever speaks no HTTP sees the connection end."""
    body = why.encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    with contextlib.suppress(OSError):
        connection.settimeout(5.0)
        connection.recv(CHUNK)  # the request, so that closing does not reset what is answered
        connection.sendall(head.encode() + body)


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until either side is done."""

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                sink.sendall(data)
        for end in (source, sink):  # also ends the other direction
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    one.settimeout(IDLE_SECONDS)
    back = threading.Thread(target=carry, args=(other, one), daemon=True)
    back.start()
    carry(one, other)
    back.join(IDLE_SECONDS)
