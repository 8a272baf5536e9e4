"""The running stack: what has been applied, and the servers, routes and triggers that come of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from helpers.errors import ManifestError, StackError
from helpers.serving.broker.broker import Broker
from helpers.serving.gateway.routes import Routes, RouteTable
from helpers.stack.documents import Document, checked
from helpers.stack.interface import Applied
from helpers.stack.local import plan as planning
from helpers.stack.local import prometheus
from helpers.stack.local.addresses import Addresses, ServiceAddress
from helpers.stack.local.plan import Key, Plan
from helpers.stack.local.relay import Relay
from helpers.stack.local.resources import Object, PrometheusRule, Service, Trigger, parse
from helpers.stack.local.rules import NOT_EVALUATED, RuleFiles
from helpers.stack.local.seldon import Model
from helpers.stack.local.spec import ServerSpec
from helpers.stack.local.supervisor import Supervisor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ObjectStatus:
    """One applied object, its servers, and those of them that are not ready yet."""

    kind: str
    namespace: str
    name: str
    servers: tuple[str, ...]
    waits_for: tuple[str, ...]


class Cluster:
    """All applied objects and what runs for them. Lives on one event loop.

    Args:
        supervisor: runs server processes; its `on_change` must call `refresh`.
        routes: the gateway's.
        broker: events.
        gateway, broker_address: `host:port`.
        file: keeps what has been applied.
        rules: where Prometheus reads its rules; None where nobody evaluates any.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        routes: Routes,
        broker: Broker,
        gateway: str,
        broker_address: str,
        file: Path,
        rules: RuleFiles | None = None,
    ) -> None:
        self.supervisor = supervisor
        self.routes = routes
        self.broker = broker
        self.gateway = gateway
        self.broker_address = broker_address
        self.file = file
        self.rules = rules
        self.documents: dict[Key, Document] = {}
        self.objects: dict[Key, Object] = {}
        self.plan = Plan({}, {}, {}, frozenset(), {})
        self.relays: dict[tuple[str, str], Relay] = {}
        self._serving: dict[Key, Model] = {}  # the last version of each that was ready
        self._changing = asyncio.Lock()
        self._extra: dict[str, ServerSpec] = {}

    def run_beside(self, spec: ServerSpec) -> None:
        """Run a server that nobody applied, such as Prometheus."""
        self._extra[spec.name] = spec
        self.supervisor.apply(spec)

    async def restore(self) -> None:
        """Apply what an earlier daemon had; what no longer can be is left out, and the log says so."""
        async with self._changing:
            documents: dict[Key, Document] = {}
            objects: dict[Key, Object] = {}
            for document in self._kept():
                try:
                    one = parse(document)
                    # Leniently: what it refers to may have been deleted since.
                    await self._listen_for([one])
                    tried = {**objects, one.key: one}
                    planning.make(tried, self._addresses(tried), {})
                except ManifestError as problem:
                    log.error("Not applied again: %s", problem)
                    continue
                objects, documents[one.key] = tried, document
            # With all addresses known.
            plan = planning.make(objects, self._addresses(objects), {})
            await self._enforce(documents, objects, plan)

    def _kept(self) -> list[Document]:
        """What the file has; a damaged one is set aside."""
        try:
            kept = orjson.loads(self.file.read_bytes())
            return [
                Document(str(one["origin"]), checked(one["content"], str(one["origin"])))
                for one in kept
            ]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, ManifestError) as problem:
            aside = self.file.with_suffix(".damaged")
            log.error("What was applied before is lost: %s: %s; see %s", self.file, problem, aside)
            with contextlib.suppress(OSError):
                os.replace(self.file, aside)
            return []

    async def apply(self, documents: Iterable[Document]) -> list[Applied]:
        """Apply objects: all of them, or none if one is refused.

        Raises:
            ManifestError: names file, document and field.
            StackError: the list of what is applied cannot be written.
        """
        async with self._changing:
            given = [(document, parse(document)) for document in documents]
            origins: dict[Key, str] = {}
            for document, one in given:
                if one.key in origins:
                    raise ManifestError(
                        f"{document.origin}: {one} is in {origins[one.key]} as well; apply it once."
                    )
                origins[one.key] = document.origin
                self._check_moved(one, document.origin)
            notes = await self._check_rules(given)
            objects = {**self.objects, **{one.key: one for _, one in given}}
            known = set(self.relays)
            try:
                await self._listen_for(objects.values())
                plan = planning.make(objects, self._addresses(objects), origins)
                applied = [
                    Applied(one.kind, one.name, self._action(one), notes.get(one.key, ""))
                    for _, one in given
                ]
                kept = {**self.documents, **{one.key: document for document, one in given}}
                await self._enforce(kept, objects, plan)
            except StackError:
                # Addresses of Services that were refused lead nowhere, and nobody has them.
                for key in self.relays.keys() - known:
                    await self.relays.pop(key).stop()
                raise
            return applied

    async def _check_rules(self, given: list[tuple[Document, Object]]) -> dict[Key, str]:
        """Check rules as Prometheus would; return by key what will not be done with them."""
        found = [(document, one) for document, one in given if isinstance(one, PrometheusRule)]
        if self.rules is not None:
            for document, one in found:
                await self.rules.check(one, document.origin)
        missing = prometheus.find_prometheus() is None
        return {one.key: NOT_EVALUATED for _, one in found} if missing else {}

    def _check_moved(self, one: Object, origin: str) -> None:
        """A trigger stays with its broker, as in Knative: its backlog is of that one."""
        before = self.objects.get(one.key)
        if (
            isinstance(one, Trigger)
            and isinstance(before, Trigger)
            and one.spec.broker != before.spec.broker
        ):
            raise ManifestError(
                f"{origin}, Trigger: spec.broker: {one.name} belongs to the Broker "
                f"{before.spec.broker}; delete it first to move it to {one.spec.broker}."
            )

    async def delete(self, documents: Iterable[Document]) -> list[Applied]:
        """Delete objects; those that are not there are left out.

        Raises:
            StackError: the list of what is applied cannot be written.
        """
        async with self._changing:
            named = dict.fromkeys(map(_key, documents))  # two files may name the same object
            keys = [key for key in named if key in self.objects]
            objects = {key: one for key, one in self.objects.items() if key not in keys}
            plan = planning.make(objects, self._addresses(objects), {})
            kept = {key: one for key, one in self.documents.items() if key not in keys}
            await self._enforce(kept, objects, plan)
            return [Applied(kind, name, "deleted") for kind, _, name in keys]

    def _addresses(self, objects: dict[Key, Object]) -> Addresses:
        """What cluster addresses mean once `objects` are all there is."""
        services = {}
        for key, relay in self.relays.items():
            one = objects.get(("Service", *key))
            # The port of a deleted one matters to nobody.
            port = one.spec.ports[0].port if isinstance(one, Service) else 80
            services[key] = ServiceAddress(port, relay.address, applied=one is not None)
        return Addresses(self.gateway, self.broker_address, services)

    async def _listen_for(self, objects: Iterable[Object]) -> None:
        """Give every Service its address. It keeps it when it is deleted: others may still have it."""
        for one in objects:
            key = (one.namespace, one.name)
            if isinstance(one, Service) and key not in self.relays:
                self.relays[key] = Relay(lambda key=key: self._behind(key))
                await self.relays[key].start()

    def _behind(self, service: tuple[str, str]) -> tuple[str, int] | None:
        name = self.plan.services.get(service)
        return None if name is None else self.supervisor.address(name)

    def _action(self, one: Object) -> str:
        if one.key not in self.objects:
            return "created"
        return "unchanged" if self.objects[one.key] == one else "configured"

    async def _enforce(
        self, documents: dict[Key, Document], objects: dict[Key, Object], plan: Plan
    ) -> None:
        self._keep(documents)
        self.documents, self.objects, self.plan = documents, objects, plan
        # Compared with what the broker has, not with what was applied: its memory is its own.
        for namespace, name in plan.brokers - self.broker.brokers:
            await self.broker.declare_broker(namespace, name)
        for key, trigger in plan.triggers.items():
            lane = self.broker.lanes.get(key)
            if lane is not None and lane.trigger.broker != trigger.broker:
                await self.broker.delete_trigger(*key)  # of before the daemon was killed
            await self.broker.put_trigger(trigger)
        for namespace, name in self.broker.lanes.keys() - plan.triggers.keys():
            await self.broker.delete_trigger(namespace, name)
        # Last: a trigger declares its broker, also one that was deleted before it.
        for namespace, name in self.broker.brokers - plan.brokers:
            await self.broker.delete_broker(namespace, name)
        for spec in self._wanted():
            self.supervisor.apply(spec)
        if self.rules is not None:
            rules = [one for one in objects.values() if isinstance(one, PrometheusRule)]
            self.rules.write(rules)
        self.refresh()

    def _keep(self, documents: dict[Key, Document]) -> None:
        """Write what is applied to the file, for the user alone: there are Secrets in it."""
        kept = [{"origin": one.origin, "content": one.content} for one in documents.values()]
        half = self.file.with_suffix(".new")
        try:
            half.unlink(missing_ok=True)
            descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(orjson.dumps(kept, option=orjson.OPT_INDENT_2))
                file.flush()
                os.fsync(file.fileno())
            os.replace(half, self.file)
        except OSError as problem:
            raise StackError(
                f"Nothing was changed: {self.file} cannot be written: {problem.strerror}."
            ) from problem

    def _wanted(self) -> list[ServerSpec]:
        return [
            *self.plan.servers.values(),
            *(spec for model in self.plan.models.values() for spec in model.servers),
        ]

    def refresh(self) -> None:
        """Bring the routes up to date with what is ready, then end what nothing leads to any more."""
        for key, model in self.plan.models.items():
            # A changed deployment takes requests once all of it can: until then the old one does.
            # Not once its explainers can: they ask the models through the gateway, the new ones too.
            if key not in self._serving or all(map(self.supervisor.is_ready, model.models)):
                self._serving[key] = model
        for key in self._serving.keys() - self.plan.models.keys():
            del self._serving[key]
        deployments = tuple(
            model.route(self.supervisor.address) for model in self._serving.values()
        )
        if deployments != self.routes.table.deployments:
            revision = str(int(self.routes.table.revision or 0) + 1)
            self.routes.replace(RouteTable(revision=revision, deployments=deployments))
        serving = (spec for model in self._serving.values() for spec in model.servers)
        needed = {spec.name for spec in [*self._wanted(), *serving]} | self._extra.keys()
        for status in self.supervisor.status():
            if status.name not in needed and status.state != "stopping":
                self.supervisor.remove(status.name)
        if self.rules is not None and prometheus.NAME in self._extra:
            self.rules.load(self.supervisor.status())

    def status(self) -> list[ObjectStatus]:
        """Return every applied object."""
        return [self._status(one) for one in self.objects.values()]

    def _status(self, one: Object) -> ObjectStatus:
        specs: tuple[ServerSpec, ...] = ()
        if one.key in self.plan.models:
            specs = self.plan.models[one.key].servers
        elif one.key in self.plan.servers:
            specs = (self.plan.servers[one.key],)
        elif isinstance(one, Service):
            name = self.plan.services[one.namespace, one.name]
            specs = tuple(spec for spec in self.plan.servers.values() if spec.name == name)
        return ObjectStatus(
            one.kind,
            one.namespace,
            one.name,
            tuple(spec.name for spec in specs),
            tuple(spec.name for spec in specs if not self.supervisor.is_ready(spec)),
        )

    def urls(self) -> dict[str, str]:
        """Return `<kind>/<name>` -> address, and those of the stack's own servers."""
        found = {}
        for one in self.objects.values():
            if one.kind == "SeldonDeployment":
                found[str(one)] = f"http://{self.gateway}/seldon/{one.namespace}/{one.name}"
            elif one.kind == "Service":
                found[str(one)] = f"http://{self.relays[one.namespace, one.name].address}"
            elif one.kind == "Broker":
                found[str(one)] = f"http://{self.broker_address}/{one.namespace}/{one.name}"
        for name in self._extra:
            address = self.supervisor.address(name)
            if address is not None:
                found[name] = f"http://{address[0]}:{address[1]}"
        return found

    async def stop(self) -> None:
        """Close the addresses of Services."""
        await asyncio.gather(*(relay.stop() for relay in self.relays.values()))


def _key(document: Document) -> Key:
    metadata: dict[str, Any] = document.content["metadata"]
    return document.content["kind"], metadata.get("namespace", "default"), metadata["name"]
