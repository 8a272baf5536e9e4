"""The part of each Kubernetes kind that the local stack understands.

A field that is not written here is refused, with its place. Fields of type `Ignored` are taken and have
no effect on one machine: who may use how much memory, or which volume a container mounts.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from helpers.errors import ManifestError
from helpers.stack.documents import Document

Ignored = Annotated[Any, Field(default=None)]


def _is_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text):
        raise ValueError(
            "a name is of a-z, 0-9 and '-', begins and ends with a letter or digit, and has at most "
            "63 characters"
        )
    return text


def _is_key(text: str) -> str:
    if not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", text):
        raise ValueError("a key is of letters, digits, '-', '_' and '.'")
    return text


def _is_duration(text: str) -> str:
    parts = "".join(f"([0-9]+{unit})?" for unit in ("y", "w", "d", "h", "m", "s", "ms"))
    if not re.fullmatch(f"0|{parts}", text) or not text:
        raise ValueError("a duration is written as 30s, 5m or 1h30m")
    return text


DnsName = Annotated[str, AfterValidator(_is_name)]
DataKey = Annotated[str, AfterValidator(_is_key)]


class Part(BaseModel):
    """A mapping of a manifest, in camelCase there and in snake_case here."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,  # as in a cluster "1" is no number and 1 no text
        hide_input_in_errors=True,  # also tracebacks show no Secret
        alias_generator=to_camel,
        populate_by_name=False,
    )


class Metadata(Part):
    """Name, namespace, labels and annotations of an object."""

    name: DnsName
    namespace: DnsName = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Template(Part):
    """Metadata of a pod template."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class KeyOf(Part):
    """One key of a ConfigMap or Secret."""

    name: DnsName
    key: str
    optional: bool = False


class FieldOf(Part):
    """A field of the pod itself."""

    field_path: Literal["metadata.name", "metadata.namespace"]
    api_version: Ignored


class ValueFrom(Part):
    """Where the value of a variable comes from; exactly one of these."""

    secret_key_ref: KeyOf | None = None
    config_map_key_ref: KeyOf | None = None
    field_ref: FieldOf | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [self.secret_key_ref, self.config_map_key_ref, self.field_ref]
        if sum(one is not None for one in given) != 1:
            raise ValueError("give one of secretKeyRef, configMapKeyRef and fieldRef")
        return self


class Variable(Part):
    """One variable of a container's environment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]
    value: str = ""
    value_from: ValueFrom | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.value and self.value_from is not None:
            raise ValueError("give value or valueFrom, not both")
        return self


class Named(Part):
    """A reference by name."""

    name: DnsName
    optional: bool = False


class VariablesFrom(Part):
    """Every key of a ConfigMap or Secret as variables."""

    secret_ref: Named | None = None
    config_map_ref: Named | None = None
    prefix: str = ""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.secret_ref is None) == (self.config_map_ref is None):
            raise ValueError("give one of secretRef and configMapRef")
        return self


class ContainerPort(Part):
    """A port that a container listens on."""

    container_port: Annotated[int, Field(ge=1, le=65535)]
    name: str = ""
    protocol: Literal["TCP"] = "TCP"


class Mount(Part):
    """Where a container sees a volume."""

    name: DnsName
    mount_path: Annotated[str, Field(pattern=r"^/.+")]
    read_only: Ignored


class Volume(Part):
    """An empty folder that lasts as long as the pod: restarts of its process keep it."""

    name: DnsName
    empty_dir: dict[str, Any]


class AnyContainer(Part):
    """What every container has; its image decides which program stands in for it."""

    image: Annotated[str, Field(min_length=1)] | None = None
    command: list[str] = []
    args: list[str] = []
    env: list[Variable] = []
    env_from: list[VariablesFrom] = []
    image_pull_policy: Ignored
    resources: Ignored
    security_context: Ignored
    liveness_probe: Ignored
    readiness_probe: Ignored
    startup_probe: Ignored


class Container(AnyContainer):
    """A container of a pod."""

    name: DnsName
    ports: list[ContainerPort] = []
    volume_mounts: list[Mount] = []


class PodSpec(Part):
    """A pod of one container."""

    containers: Annotated[list[Container], Field(min_length=1, max_length=1)]
    termination_grace_period_seconds: Annotated[float, Field(ge=0, le=600)] = 30.0
    automount_service_account_token: Ignored
    enable_service_links: Ignored
    security_context: Ignored
    service_account_name: Ignored
    volumes: list[Volume] = []

    @model_validator(mode="after")
    def _mounted(self) -> Self:
        names = {volume.name for volume in self.volumes}
        for mount in self.containers[0].volume_mounts:
            if mount.name not in names:
                raise ValueError(
                    f"volumeMounts names {mount.name!r}, which is not among the volumes"
                )
        return self


class PodTemplate(Part):
    """What the pods of a Deployment look like."""

    metadata: Template = Template()
    spec: PodSpec


class Selector(Part):
    """Which pods belong to a Deployment."""

    match_labels: Annotated[dict[str, str], Field(min_length=1)]


class RollingUpdate(Part):
    """Limits of a rolling update; here it is always one new process before the old one goes."""

    max_surge: Ignored
    max_unavailable: Ignored


class Strategy(Part):
    """RollingUpdate: the new process is ready before the old one goes. Recreate: never two at once."""

    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    rolling_update: RollingUpdate | None = None


class DeploymentSpec(Part):
    """One process; `replicas: 0` stops it."""

    selector: Selector
    template: PodTemplate
    replicas: Annotated[int, Field(ge=0, le=1)] = 1
    strategy: Strategy = Strategy()
    min_ready_seconds: Ignored
    progress_deadline_seconds: Ignored
    revision_history_limit: Ignored

    @model_validator(mode="after")
    def _selects(self) -> Self:
        labels = self.template.metadata.labels
        if not self.selector.match_labels.items() <= labels.items():
            raise ValueError("selector.matchLabels are not among the labels of the template")
        return self


class Object(Part):
    """Any object: where it stands, what it is called."""

    api_version: str
    kind: str
    metadata: Metadata

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self.metadata.namespace

    @property
    def key(self) -> tuple[str, str, str]:
        """Kind, namespace and name."""
        return self.kind, self.namespace, self.name

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class Deployment(Object):
    """apps/v1 Deployment."""

    api_version: Literal["apps/v1"]
    kind: Literal["Deployment"]
    spec: DeploymentSpec


class ServicePort(Part):
    """A port of a Service."""

    port: Annotated[int, Field(ge=1, le=65535)]
    target_port: Any = None
    name: str = ""
    protocol: Literal["TCP"] = "TCP"
    app_protocol: Ignored

    @field_validator("target_port")
    @classmethod
    def _is_port(cls, value: Any) -> Any:
        if not isinstance(value, int | str | None) or isinstance(value, bool):
            raise ValueError("a port has a number or a name")
        return value


class ServiceSpec(Part):
    """A name for the process whose labels the selector picks."""

    selector: Annotated[dict[str, str], Field(min_length=1)]
    ports: Annotated[list[ServicePort], Field(min_length=1, max_length=1)]
    type: Literal["ClusterIP"] = "ClusterIP"


class Service(Object):
    """v1 Service."""

    api_version: Literal["v1"]
    kind: Literal["Service"]
    spec: ServiceSpec


class Settings(Object):
    """v1 ConfigMap."""

    api_version: Literal["v1"]
    kind: Literal["ConfigMap"]
    data: dict[DataKey, str] = {}
    immutable: bool = False

    @property
    def values(self) -> dict[str, str]:
        """The keys and their values."""
        return self.data


class Secret(Object):
    """v1 Secret."""

    api_version: Literal["v1"]
    kind: Literal["Secret"]
    type: str = "Opaque"
    data: dict[DataKey, str] = {}
    string_data: dict[DataKey, str] = {}
    immutable: bool = False

    @model_validator(mode="after")
    def _decodes(self) -> Self:
        _ = self.values
        return self

    @property
    def values(self) -> dict[str, str]:
        """The keys and their decoded values."""
        decoded = {}
        for key, value in self.data.items():
            try:
                decoded[key] = base64.b64decode(value, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError) as problem:
                raise ValueError(f"data.{key} is not text in base64") from problem
            if "\0" in decoded[key]:
                raise ValueError(f"data.{key} holds a zero byte, which no variable can")
        return decoded | self.string_data


class Sink(Part):
    """A Service that takes events."""

    kind: Literal["Service"]
    name: DnsName
    api_version: Literal["v1"] = "v1"
    namespace: DnsName | None = None


class Destination(Part):
    """Where events go: a Service, a path on it, or an address."""

    ref: Sink | None = None
    uri: str = ""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.ref is None and not self.uri.startswith(("http://", "https://")):
            raise ValueError("give a ref, or a whole address as uri")
        if self.ref is not None and self.uri and not self.uri.startswith("/"):
            raise ValueError("beside a ref, uri is a path that starts with /")
        return self


class Delivery(Part):
    """How hard a trigger tries; durations are ISO 8601, e.g. `PT0.2S`."""

    retry: int | None = None
    backoff_policy: Literal["linear", "exponential"] | None = None
    backoff_delay: str | None = None
    timeout: str | None = None
    dead_letter_sink: Destination | None = None


class EventFilter(Part):
    """Attributes that an event must have, with these values."""

    attributes: dict[str, str] = {}


class TriggerSpec(Part):
    """Which events go to whom."""

    broker: DnsName
    subscriber: Destination
    filter: EventFilter = EventFilter()
    delivery: Delivery = Delivery()


class Trigger(Object):
    """eventing.knative.dev/v1 Trigger."""

    api_version: Literal["eventing.knative.dev/v1"]
    kind: Literal["Trigger"]
    spec: TriggerSpec


class BrokerSpec(Part):
    """Taken as it is: delivery belongs to triggers here."""

    config: Ignored


class Broker(Object):
    """eventing.knative.dev/v1 Broker."""

    api_version: Literal["eventing.knative.dev/v1"]
    kind: Literal["Broker"]
    spec: BrokerSpec = BrokerSpec()


class GraphLogger(Part):
    """Where payload events go, and which."""

    url: str
    mode: Literal["all", "request", "response"] = "all"


class Parameter(Part):
    """A parameter of the model's class."""

    name: str
    value: str
    type: Literal["INT", "FLOAT", "DOUBLE", "STRING", "BOOL"] = "STRING"


class Endpoint(Part):
    """How the orchestrator reaches the model; only REST here."""

    type: Literal["REST"] = "REST"
    service_host: Ignored
    service_port: Ignored


class Graph(Part):
    """The one node of a predictor's graph."""

    name: DnsName
    implementation: Literal["TENSORFLOW_SERVER", "SKLEARN_SERVER"]
    model_uri: str
    type: Literal["MODEL"] = "MODEL"
    children: Annotated[list[Any], Field(max_length=0)] = []
    logger: GraphLogger | None = None
    parameters: list[Parameter] = []
    endpoint: Endpoint = Endpoint()
    env_secret_ref_name: DnsName | None = None
    service_account_name: Ignored
    storage_initializer_image: Ignored


class ExplainerContainer(AnyContainer):
    """The explainer's container; its arguments are the operator's, but not those of a v2 explainer."""

    name: str = ""


class Explainer(Part):
    """The explainer of a predictor."""

    type: str
    model_uri: str = ""
    config: dict[str, str] = {}
    container_spec: ExplainerContainer | None = None
    env_secret_ref_name: DnsName | None = None
    replicas: Annotated[int, Field(ge=1, le=1)] = 1
    service_account_name: Ignored
    storage_initializer_image: Ignored


# The operator's name for TensorFlow Serving's container where a proxy of the seldon protocol stands
# before it; the proxy's is called like the graph's node.
TF_SERVING = "tfserving"


class ModelPod(Part):
    """Overrides for the model's container, the one called like the graph's node, or TF_SERVING."""

    containers: Annotated[list[Container], Field(max_length=1)] = []
    termination_grace_period_seconds: Annotated[float, Field(ge=0, le=600)] = 30.0
    automount_service_account_token: Ignored
    enable_service_links: Ignored
    security_context: Ignored
    service_account_name: Ignored
    volumes: Ignored


class ComponentSpec(Part):
    """A pod of a predictor."""

    spec: ModelPod
    metadata: Ignored
    replicas: Annotated[int, Field(ge=1, le=1)] = 1


class Predictor(Part):
    """One version of the model, with its share of the traffic in percent."""

    name: DnsName
    graph: Graph
    component_specs: Annotated[list[ComponentSpec], Field(max_length=1)] = []
    traffic: Annotated[int, Field(ge=0, le=100)] = 0
    shadow: bool = False
    explainer: Explainer | None = None
    replicas: Annotated[int, Field(ge=1, le=1)] = 1
    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}
    engine_resources: Ignored
    svc_orch_spec: Ignored
    progress_deadline_seconds: Ignored

    @model_validator(mode="after")
    def _containers_are_nodes(self) -> Self:
        for pod in self.component_specs:
            for container in pod.spec.containers:
                names = {self.graph.name}
                if self.graph.implementation == "TENSORFLOW_SERVER":
                    names.add(TF_SERVING)
                if container.name not in names:
                    raise ValueError(
                        f"componentSpecs has a container {container.name!r}, but the graph's only "
                        f"node is {self.graph.name!r}"
                    )
        return self

    @property
    def container(self) -> Container | None:
        """What componentSpecs says about the model's container."""
        found = [one for pod in self.component_specs for one in pod.spec.containers]
        return found[0] if found else None


class SeldonDeploymentSpec(Part):
    """A model behind one address: one or several predictors."""

    predictors: Annotated[list[Predictor], Field(min_length=1)]
    protocol: Literal["seldon", "tensorflow", "v2"] = "seldon"
    name: str = ""
    annotations: dict[str, str] = {}
    transport: Literal["rest"] = "rest"
    replicas: Annotated[int, Field(ge=1, le=1)] = 1
    server_type: Literal["rpc"] = "rpc"


class SeldonDeployment(Object):
    """machinelearning.seldon.io/v1 SeldonDeployment."""

    api_version: Literal["machinelearning.seldon.io/v1"]
    kind: Literal["SeldonDeployment"]
    spec: SeldonDeploymentSpec


RuleDuration = Annotated[str, AfterValidator(_is_duration)]  # as the operator checks them


class Rule(Part):
    """One alert, or one recorded series."""

    expr: str | int
    alert: Annotated[str, Field(min_length=1)] | None = None
    record: Annotated[str, Field(min_length=1)] | None = None
    for_: Annotated[RuleDuration | None, Field(alias="for")] = None
    keep_firing_for: Annotated[RuleDuration | None, Field(alias="keep_firing_for")] = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.alert is None) == (self.record is None):
            raise ValueError("give alert or record, one of them")
        if self.record is not None and (self.for_, self.keep_firing_for) != (None, None):
            raise ValueError(f"{self.record} is recorded: for and keep_firing_for are of alerts")
        if self.record is not None and self.annotations:
            raise ValueError(f"{self.record} is recorded: annotations are of alerts")
        return self


class RuleGroup(Part):
    """Rules that are evaluated one after the other."""

    name: Annotated[str, Field(min_length=1)]
    rules: list[Rule] = []
    interval: RuleDuration | None = None
    limit: Annotated[int, Field(ge=0)] = 0
    partial_response_strategy: Annotated[Any, Field(alias="partial_response_strategy")] = None


class PrometheusRuleSpec(Part):
    """What Prometheus computes at intervals, and when it raises an alert."""

    groups: list[RuleGroup] = []

    @field_validator("groups")
    @classmethod
    def _differ(cls, groups: list[RuleGroup]) -> list[RuleGroup]:
        names = [group.name for group in groups]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"two groups are called {twice[0]!r}")
        return groups


class PrometheusRule(Object):
    """monitoring.coreos.com/v1 PrometheusRule."""

    api_version: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PrometheusRule"]
    spec: PrometheusRuleSpec


KINDS: dict[str, type[Object]] = {
    "SeldonDeployment": SeldonDeployment,
    "Deployment": Deployment,
    "Service": Service,
    "ConfigMap": Settings,
    "Secret": Secret,
    "Broker": Broker,
    "Trigger": Trigger,
    "PrometheusRule": PrometheusRule,
}


def parse(document: Document) -> Object:
    """Return the object in a document.

    Raises:
        ManifestError: a kind, a field or a value that is not supported here; names its place.
    """
    kind = document.content["kind"]
    if kind not in KINDS:
        raise ManifestError(
            f"{document.origin}: the kind {kind} is not supported by the local stack; "
            f"{', '.join(KINDS)} are."
        )
    try:
        return KINDS[kind].model_validate(document.content)
    except ValidationError as problem:
        told = [_told(error, KINDS[kind]) for error in problem.errors(include_url=False)]
        more = f"; and {len(told) - 1} more: {'; '.join(told[1:4])}" if len(told) > 1 else ""
        raise ManifestError(f"{document.origin}, {kind}: {told[0]}{more}.") from problem


def _told(error: Any, kind: type[Object]) -> str:
    """One sentence, without its full stop, about one error of pydantic."""
    location = [part for part in error["loc"] if part != "[key]"]
    place = ""
    for part in location:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    place = place or "the object"
    value, limits = error.get("input"), error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            known = ", ".join(_fields_at(error["loc"][:-1], kind))
            return f"{place}: the local stack does not support this field; here it knows {known}"
        case "missing":
            return f"{place}: is missing"
        case "too_long":
            most = limits["max_length"] or "none"
            return f"{place}: the local stack takes {most} of these, not {limits['actual_length']}"
        case "too_short":
            return f"{place}: is empty"
        case "model_type" | "dict_type":
            message = "must be a mapping"
        case "list_type":
            message = "must be a list"
        case "string_type" if isinstance(value, int | float):
            message = "must be text; write it in quotes"
        case _:
            message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
            message = message[:1].lower() + message[1:]
    if value is None:
        return f"{place}: {message}, not empty"
    hidden = kind is Secret and location[:1] in (["data"], ["stringData"])
    if hidden or not isinstance(value, str | int | float):
        return f"{place}: {message}"
    return f"{place}: {message}, not {value!r:.60}"


def _fields_at(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """The supported fields of the mapping at a place."""
    for part in location:
        if isinstance(part, str):
            fields = {field.alias: field.annotation for field in model.model_fields.values()}
            model = _model_in(fields[part]) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as `list[Container]` or `Explainer | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inside = (_model_in(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in inside if model is not None), None)
