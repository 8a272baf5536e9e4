"""The stack on a kind cluster, as a notebook or a shell sees it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import httpx

from helpers.errors import StackError
from helpers.metrics import Samples
from helpers.stack import documents
from helpers.stack.interface import NAMESPACE, Applied, ServerStatus, Stack
from helpers.stack.kind import copying, objects, pods, scraping, waiting
from helpers.stack.kind import events as event_log
from helpers.stack.kind.addresses import Addresses, addresses
from helpers.stack.kind.connection import Api
from helpers.stack.kind.kinds import (
    BROKER,
    MONITORING,
    SELDON_DEPLOYMENT,
    SERVICE,
    Kind,
    kind_of,
)
from helpers.stack.kind.relay import Relay
from helpers.stack.kind.servers import Servers

WAIT_SECONDS = 600.0  # images are pulled the first time, some of them of 2 GB and more
PROMETHEUS = "prometheus"
PROBE = httpx.Timeout(5.0, connect=2.0)


class KindStack(Stack):
    """Objects in the namespace of the manifests, on the cluster that `make kind-up` makes.

    Only the context kind-walkthrough of the kubeconfig is used ($KIND_CONTEXT names another), whichever is
    the current one. Nothing is asked of the cluster before the first call.

    Args:
        dataset: whose artefacts storage URIs of CIFAR-10 mean.
        context: of the kubeconfig, in place of that.
        reached: addresses in place of those in kind/versions.env.

    Raises:
        StackError: there is no such context.
    """

    backend = "kind"

    def __init__(
        self,
        dataset: str = documents.DATASET,
        context: str | None = None,
        reached: Addresses | None = None,
    ) -> None:
        self.dataset = dataset
        self.addresses = reached or addresses()
        self._api = Api(context)
        self._relays: dict[str, Relay] = {}
        self._applied: dict[tuple[Kind, str], None] = {}  # by this very stack, in order

    def check(self) -> None:
        """Return if the cluster answers and is the walkthrough's.

        Raises:
            StackError: it does not; says what to do.
        """
        self._api.check()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there that was made through a stack."""
        return not objects.applied(self._api)

    # Manifests

    def apply(self, *paths: str | Path) -> list[Applied]:
        read = documents.read(paths, self.dataset)
        done = objects.apply(self._api, read)
        self._applied |= {
            (kind_of(one.content, one.origin), one.content["metadata"]["name"]): None
            for one in read
        }
        return done

    def delete(self, *paths: str | Path) -> list[Applied]:
        return objects.delete(self._api, documents.read(paths, self.dataset))

    def down(self) -> None:
        """Delete what was made through a stack, and nothing else; events and payloads stay in the logs.

        What was there before a manifest was applied to it, by kind/up or kubectl, stays as it is then.
        """
        self.close()
        found = objects.applied(self._api)
        objects.remove(self._api, [(kind, one["metadata"]["name"]) for kind, one in found])
        self._applied.clear()

    def close(self) -> None:
        """End the connections to Services."""
        while self._relays:
            self._relays.popitem()[1].close()

    def wait(self, *names: str, timeout: float = WAIT_SECONDS) -> None:
        waiting.wait(self._api, self.addresses.ingress, names, self._applied, timeout)

    # Questions

    def status(self) -> list[ServerStatus]:
        return self._servers().status()

    def logs(self, name: str, lines: int = 50) -> str:
        found = self._servers()
        logs = []
        for server in found.named(name, self._known):
            newest = found.pods(server)
            text = pods.log(self._api, newest[0], lines) if newest else "It has no pod."
            logs.append((server["metadata"]["name"], text))
        if len(logs) == 1:
            return logs[0][1]
        return "\n".join(f"== {server}\n{text}" for server, text in logs)

    def url(self, name: str) -> str:
        if name == PROMETHEUS:
            return self.addresses.prometheus
        explained, suffix, predictor = name.partition("-explainer/")
        if self._has(SELDON_DEPLOYMENT, explained if suffix else name):
            end = f"-explainer/{predictor}" if suffix else ""
            model = explained if suffix else name
            return f"{self.addresses.ingress}/seldon/{NAMESPACE}/{model}{end}"
        if (service := self._api.get(SERVICE, name)) is not None:
            if name not in self._relays:
                self._relays[name] = Relay(self._api, service)
            return self._relays[name].url
        if self._has(BROKER, name):
            return f"{self.addresses.broker}/{NAMESPACE}/{name}"
        raise StackError(f"Nothing here is called {name!r}; applied: {self._known()}.")

    def metrics(self, name: str) -> Samples:
        found = self._servers()
        if name == "stack":
            return scraping.of_all(self.addresses.prometheus, found.all_pods)
        if found.is_model(name):
            servers = found.named(name, self._known)
            return scraping.of_orchestrators(
                self._api, name, [pod for one in servers for pod in found.pods(one)]
            )
        server = found.named(name, self._known)[0]
        return scraping.of_server(self._api, name, found.pods(server))

    def events(
        self,
        *,
        broker: str = "default",
        type: str | None = None,
        request_id: str | None = None,
        limit: int = 100,
        data: bool = False,
    ) -> list[dict[str, Any]]:
        if broker != "default":
            raise StackError(
                f"On a cluster the events of the broker {broker!r} are not known: the event log writes down "
                "those that its trigger brings, and that one is of the broker default."
            )
        return event_log.events(
            self.addresses.elasticsearch, limit=limit, data=data, type=type, request_id=request_id
        )

    def copy(self, name: str, path: str, to: Path) -> Path:
        found = self._servers()
        server = found.named(name, self._known)[0]
        running = [pod for pod in found.pods(server) if pods.is_ready(pod)]
        if not running:
            raise StackError(f"{name} has no pod that is ready to copy {path} from.")
        pod = running[0]
        container = pods.main_container(pod)["name"]
        return copying.copy(self._api, pod["metadata"]["name"], container, path, to)

    @property
    def prometheus_url(self) -> str | None:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(
                f"{self.addresses.prometheus}/-/ready", timeout=PROBE, trust_env=False
            )
            if answer.is_success:
                return self.addresses.prometheus
        return None

    @property
    def prometheus_note(self) -> str:
        if self.prometheus_url is not None:
            return ""
        return (
            f"There is no Prometheus at {self.addresses.prometheus}; `make kind-up PARTS={MONITORING}` "
            "installs it."
        )

    def _has(self, kind: Kind, name: str) -> bool:
        return self._api.knows(kind) and self._api.get(kind, name) is not None

    def _servers(self) -> Servers:
        return Servers(self._api)

    def _known(self) -> str:
        return waiting.known(self._api)
