"""What a notebook asks of the place where manifests run: the local stack or a cluster.

from helpers import stack

cluster = stack.connect(BACKEND, dataset=DATASET)
cluster.apply("manifests/model/cifar10.yaml")
cluster.wait()
cluster.url("cifar10")            # http://127.0.0.1:8003/seldon/walkthrough/cifar10
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.errors import StackError
from helpers.metrics import Samples
from helpers.stack import alerts

NAMESPACE = "walkthrough"  # of every manifest of this repository
WAIT_SECONDS = 180.0


@dataclass(frozen=True)
class ServerStatus:
    """One server: a process of the local stack, a pod of a cluster.

    Args:
        name: its name, `cifar10-default-0-resnet32`; that of the Deployment on a cluster.
        owner: the applied object that asked for it, `SeldonDeployment/cifar10`.
        state: starting, ready, restarting (dead, waits for its next start) or stopping.
        restarts: times it was started again after it died.
        pid: process id; None where there is no process (now).
        address: `host:port` of its HTTP server; None where it has none yet.
        seconds: since the present state began.
        last_line: last line of its log.
    """

    name: str
    owner: str
    state: str
    restarts: int = 0
    pid: int | None = None
    address: str | None = None
    seconds: float = 0.0
    last_line: str = ""


@dataclass(frozen=True)
class Applied:
    """What `apply` did with one object: created, configured (changed) or unchanged.

    Args:
        kind: of the object.
        name: of the object.
        action: what was done.
        note: what has no effect here, and why; empty where all of it has.
    """

    kind: str
    name: str
    action: str
    note: str = field(default="", repr=False)

    def __str__(self) -> str:
        done = f"{self.kind.lower()}/{self.name} {self.action}"
        return f"{done} ({self.note})" if self.note else done


class Stack(ABC):
    """Where manifests run. Both implementations take the same files and answer alike."""

    backend: str

    @abstractmethod
    def apply(self, *paths: str | Path) -> list[Applied]:
        """Apply manifest files, or every manifest of a folder, like `kubectl apply -f`.

        All of them are checked before the first one takes effect. Returns without waiting.

        Raises:
            ManifestError: names file, document and field, and what is supported.
            StackError: the backend does not answer.
        """

    @abstractmethod
    def delete(self, *paths: str | Path) -> list[Applied]:
        """Delete the objects of manifest files; those that are not there are left out."""

    @abstractmethod
    def wait(self, *names: str, timeout: float = WAIT_SECONDS) -> None:
        """Return once everything applied (or just `names`) is ready.

        Args:
            names: of servers or applied objects, e.g. "cifar10" or "outlier-vae".
            timeout: seconds; 600 by default on a cluster, which pulls images the first time.

        Raises:
            StackError: not ready in time; says what is not, since when, and its last log line.
        """

    @abstractmethod
    def status(self) -> list[ServerStatus]:
        """Return every server that runs or should."""

    @abstractmethod
    def logs(self, name: str, lines: int = 50) -> str:
        """Return the last lines of a server's log; `name` may also be the object that owns it."""

    @abstractmethod
    def url(self, name: str) -> str:
        """Return where an object is reached from here.

        A SeldonDeployment: `<ingress>/seldon/<namespace>/<name>`, also with `-explainer/<predictor>`
        appended to its name; a Service: `http://host:port`, on a cluster for as long as this process
        lives; a Broker: its ingress; "prometheus".

        Raises:
            StackError: nothing of that name has been applied, or it has no address.
        """

    @abstractmethod
    def metrics(self, name: str) -> Samples:
        """Return a scrape of a server's metrics; of a SeldonDeployment, those of its orchestrator."""

    @abstractmethod
    def events(
        self,
        *,
        broker: str = "default",
        type: str | None = None,
        request_id: str | None = None,
        limit: int = 100,
        data: bool = False,
    ) -> list[dict[str, Any]]:
        """Return what the broker took last, newest first: dicts with seq, arrived, attributes, matched,
        waiting, bytes, and with `data` the payload.

        `seq` grows from event to event. `matched` and `waiting` are the triggers that the event is for, and
        those that it still waits for; None on a cluster, whose broker does not tell. There, events are what
        Deployment `event-log` of kind/up has got from its own trigger, which filters nothing and stays when
        the payload logger goes. `wait` waits for it too where a broker is waited for.
        """

    def copy(self, name: str, path: str, to: Path) -> Path:
        """Copy a folder that a server writes, such as `/tmp/audit`, to a new folder, like `kubectl cp`.

        Args:
            name: of the server.
            path: of the folder, as the server's manifest has it.
            to: the new folder.

        Raises:
            StackError: there is no such folder, or the backend copies none.
        """
        raise StackError(f"The backend {self.backend} copies no files of servers: {name}:{path}.")

    @property
    @abstractmethod
    def prometheus_url(self) -> str | None:
        """Address of Prometheus; None where there is none, and `prometheus_note` says why."""

    @property
    @abstractmethod
    def prometheus_note(self) -> str:
        """One sentence: why there is no Prometheus and what to do; empty where there is one."""

    def alerts(self) -> list[alerts.Alert]:
        """Return the alerts that are pending or firing in Prometheus now.

        Raises:
            StackError: there is no Prometheus, or it does not answer.
        """
        if self.prometheus_url is None:
            raise StackError(self.prometheus_note)
        return alerts.read(self.prometheus_url)

    @abstractmethod
    def down(self) -> None:
        """Stop the local stack and remove its state; on a cluster, delete what applying has made there."""
