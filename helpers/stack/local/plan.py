"""From all applied objects to what has to run: servers, routes, Services, brokers and triggers.

Nothing here starts or stops anything; the daemon compares the plan with what there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from helpers.errors import ManifestError
from helpers.serving.broker.model import Delivery as BrokerDelivery
from helpers.serving.broker.model import Trigger as BrokerTrigger
from helpers.stack.local import programs, seldon
from helpers.stack.local.addresses import Addresses
from helpers.stack.local.environment import Sources, refuse_reference, variables
from helpers.stack.local.resources import (
    Broker,
    Deployment,
    Destination,
    Object,
    SeldonDeployment,
    Service,
    Trigger,
)
from helpers.stack.local.spec import LOOPBACK, ServerSpec, literal

RESERVED = ("gateway", "broker", "stack", "prometheus")  # names of what the stack runs itself

Key = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True)
class Plan:
    """What has to run.

    Args:
        models: SeldonDeployments by key.
        servers: the process of each Deployment, by the Deployment's key.
        services: (namespace, name) of each Service -> name of the server behind it, None for none.
        brokers: (namespace, name).
        triggers: (namespace, name) -> trigger.
    """

    models: Mapping[Key, seldon.Model]
    servers: Mapping[Key, ServerSpec]
    services: Mapping[tuple[str, str], str | None]
    brokers: frozenset[tuple[str, str]]
    triggers: Mapping[tuple[str, str], BrokerTrigger]


def make(objects: Mapping[Key, Object], addresses: Addresses, origins: Mapping[Key, str]) -> Plan:
    """Return the plan for all applied objects.

    Args:
        objects: by Object.key.
        addresses: what cluster addresses mean; has every Service among the objects.
        origins: where an object stands. Those in here are checked strictly; the others were when they
            were applied, and may refer to what has been deleted since.

    Raises:
        ManifestError: something that cannot be done, or refers to what is not there.
    """
    deployments = [one for one in objects.values() if isinstance(one, Deployment)]
    plan = Plan(
        models={
            one.key: seldon.plan(one, objects, addresses, origins.get(one.key))
            for one in objects.values()
            if isinstance(one, SeldonDeployment)
        },
        servers={
            one.key: _server(one, objects, addresses, origins.get(one.key))
            for one in deployments
            if one.spec.replicas
        },
        services={
            (one.namespace, one.name): _behind(one, deployments, origins.get(one.key))
            for one in objects.values()
            if isinstance(one, Service)
        },
        brokers=frozenset(
            (one.namespace, one.name) for one in objects.values() if isinstance(one, Broker)
        ),
        triggers={
            (one.namespace, one.name): _trigger(one, objects, addresses, origins.get(one.key))
            for one in objects.values()
            if isinstance(one, Trigger)
        },
    )
    _check_names(plan, origins)
    return plan


def _server(
    deployment: Deployment, sources: Sources, addresses: Addresses, origin: str | None
) -> ServerSpec:
    pod = deployment.spec.template.spec
    container = pod.containers[0]
    place = origin and f"{origin}, Deployment: spec.template.spec.containers[0]"
    program, arguments = programs.of_container(container, place or str(deployment))
    environment = variables(
        deployment, container.env, container.env_from, sources, addresses, place
    )
    folders = {mount.mount_path.rstrip("/"): mount.name for mount in container.volume_mounts}
    for one in arguments:
        refuse_reference(one, environment, f"{place or deployment}.args")
    resolved = [
        addresses.resolve(one, deployment.namespace, place and f"{place}.args") for one in arguments
    ]
    return ServerSpec(
        name=deployment.name,
        owner=str(deployment),
        command=programs.command(program, [_in_folder(one, folders) for one in resolved]),
        environment={
            **{name: _in_folder(literal(value), folders) for name, value in environment.items()},
            **LOOPBACK,
        },
        metrics_path=program.metrics_path,
        labels={"namespace": deployment.namespace},
        recreate=deployment.spec.strategy.type == "Recreate",
        stop_seconds=pod.termination_grace_period_seconds,
        image=container.image or "",
    )


def _in_folder(text: str, folders: Mapping[str, str]) -> str:
    """Return an argument with a path below a mounted volume moved to the server's own folder."""
    before, equals, path = text.partition("=") if text.startswith("--") else ("", "", text)
    for mounted, name in sorted(folders.items(), reverse=True):  # the longest first
        if path == mounted or path.startswith(f"{mounted}/"):
            return f"{before}{equals}{{folder}}/{name}{path.removeprefix(mounted)}"
    return text


def _behind(service: Service, deployments: list[Deployment], origin: str | None) -> str | None:
    """The name of the server that a Service leads to."""
    found = [
        one
        for one in deployments
        if one.namespace == service.namespace
        and service.spec.selector.items() <= one.spec.template.metadata.labels.items()
    ]
    where = f"{origin or service}, Service: spec"
    if len(found) > 1:
        names = " and ".join(one.name for one in found)
        raise ManifestError(
            f"{where}.selector: it picks {names}; here a Service leads to one process."
        )
    if not found:
        return None
    port = service.spec.ports[0]
    target = port.target_port if port.target_port is not None else port.port
    ports = found[0].spec.template.spec.containers[0].ports
    if target not in [known for one in ports for known in (one.name, one.container_port)]:
        raise ManifestError(
            f"{where}.ports[0].targetPort: the container of {found[0].name} has no port {target!r}."
        )
    return found[0].name


def _trigger(
    trigger: Trigger, objects: Mapping[Key, Object], addresses: Addresses, origin: str | None
) -> BrokerTrigger:
    place = f"{origin or trigger}, Trigger: spec"
    strict = origin is not None
    spec = trigger.spec
    if strict and ("Broker", trigger.namespace, spec.broker) not in objects:
        raise ManifestError(
            f"{place}.broker: there is no Broker {spec.broker} in the namespace {trigger.namespace}; "
            "apply its manifest before, or with this one."
        )
    delivery = spec.delivery.model_dump(
        by_alias=True, exclude_none=True, exclude={"dead_letter_sink"}
    )
    if spec.delivery.dead_letter_sink is not None:
        sink = spec.delivery.dead_letter_sink
        delivery["deadLetterSink"] = _url(
            sink, trigger, addresses, f"{place}.delivery.deadLetterSink", strict
        )
    try:
        # By itself, so that errors of both have the right place.
        field = "delivery."
        kept = BrokerDelivery.model_validate(delivery)
        field = ""
        return BrokerTrigger(
            namespace=trigger.namespace,
            name=trigger.name,
            broker=spec.broker,
            filter=spec.filter.attributes,
            subscriber=_url(spec.subscriber, trigger, addresses, f"{place}.subscriber", strict),
            delivery=kept,
        )
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        field += ".".join(map(str, first["loc"])).replace("filter", "filter.attributes")
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise ManifestError(f"{place}.{field}: {reason[:1].lower()}{reason[1:]}.") from problem


def _url(
    destination: Destination, trigger: Trigger, addresses: Addresses, place: str, strict: bool
) -> str:
    if destination.ref is None:
        return addresses.resolve(
            destination.uri, trigger.namespace, f"{place}.uri" if strict else None
        )
    namespace = destination.ref.namespace or trigger.namespace
    known = addresses.services.get((namespace, destination.ref.name))
    if known is None or not known.applied:
        if strict:
            raise ManifestError(
                f"{place}.ref: there is no Service {destination.ref.name} in the namespace {namespace}; "
                "apply its manifest before, or with this one."
            )
        if known is None:
            return seldon.NOWHERE
    return f"http://{known.local}{destination.uri}"


def _check_names(plan: Plan, origins: Mapping[Key, str]) -> None:
    """Names of servers are names of logs and processes, whatever their namespace."""
    servers = [
        *((key, spec) for key, spec in plan.servers.items()),
        *((key, spec) for key, model in plan.models.items() for spec in model.servers),
    ]
    owners: dict[str, str] = {}
    # Those that are there already come first: the error is about a new one.
    for key, spec in sorted(servers, key=lambda one: one[0] in origins):
        kind, namespace, name = key
        place = f"{origins[key]}, " if key in origins else ""
        if spec.name in RESERVED:
            raise ManifestError(
                f"{place}{kind}: metadata.name: {spec.name} is the name of a server of the local stack "
                "itself; choose another."
            )
        if spec.name in owners:
            raise ManifestError(
                f"{place}{kind}: metadata.name: the server {spec.name} of {name} in {namespace} would "
                f"have the name of one of {owners[spec.name]}; choose another."
            )
        owners[spec.name] = f"{kind}/{name} in {namespace}"
