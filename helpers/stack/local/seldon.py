"""A SeldonDeployment as servers and a route, as Seldon's operator makes pods and a VirtualService of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from helpers.errors import ManifestError, StackError, WalkthroughError
from helpers.serving import program
from helpers.serving.common.errors import ServingError
from helpers.serving.explain.methods import METHODS, method_class
from helpers.serving.explain.production.settings import ProductionSettings, read_settings
from helpers.serving.gateway import routes
from helpers.serving.mlserver_explain import TAGS
from helpers.serving.storage import locate
from helpers.stack.local import programs
from helpers.stack.local.addresses import Addresses
from helpers.stack.local.environment import Sources, need_secret, variables
from helpers.stack.local.resources import (
    TF_SERVING,
    Explainer,
    ExplainerContainer,
    Predictor,
    SeldonDeployment,
)
from helpers.stack.local.spec import LOOPBACK, ServerSpec, literal

TIMEOUT = "seldon.io/rest-timeout"  # annotation, milliseconds
MAX_IN_FLIGHT = (
    "walkthrough/max-in-flight"  # annotation of our gateway; Seldon knows nothing like it
)
NOWHERE = "http://127.0.0.1:9"  # the discard port, where nothing listens: connections are refused

V2_IMAGE = "seldonio/mlserver:1.6.1-alibi-explain"  # the operator's own choice
WRITTEN = ("audit_file", "cache_disk_folder")  # options of an explainer that name what it writes
TENSORFLOW_ONLY = "AnchorImages"  # the operator passes it --tf_data_type


@dataclass(frozen=True)
class Model:
    """A SeldonDeployment to be: its servers, and its route once their addresses are known."""

    deployment: SeldonDeployment
    servers: tuple[ServerSpec, ...]
    loggers: Mapping[str, str] = field(default_factory=dict)  # predictor -> local address

    @property
    def models(self) -> tuple[ServerSpec, ...]:
        """The servers that answer predictions: all but the explainers."""
        names = {model_name(self.deployment, one) for one in self.deployment.spec.predictors}
        return tuple(spec for spec in self.servers if spec.name in names)

    def route(self, address: Callable[[str], tuple[str, int] | None]) -> routes.Deployment:
        """Return the gateway's entry.

        Args:
            address: name of a server -> host and port; None where it has none (yet).
        """

        def url(name: str) -> str:
            found = address(name)
            return NOWHERE if found is None else f"http://{found[0]}:{found[1]}"

        deployment = self.deployment
        predictors = []
        for one in deployment.spec.predictors:
            repository, version = programs.split_image(
                (one.container and one.container.image) or ""
            )
            limit = _timeout(deployment, one, str(deployment))
            most = _number(deployment, one, MAX_IN_FLIGHT, str(deployment))
            predictors.append(
                routes.Predictor(
                    name=one.name,
                    model=one.graph.name,
                    url=url(model_name(deployment, one)),
                    image=repository,
                    image_version=version,
                    version=one.annotations.get("version", one.labels.get("version", "")),
                    traffic=one.traffic,
                    shadow=one.shadow,
                    logger=(
                        routes.Logger(url=self.loggers[one.name], mode=one.graph.logger.mode)
                        if one.graph.logger
                        else None
                    ),
                    takes_feedback=deployment.spec.protocol == "seldon",
                    explainer=url(explainer_name(deployment, one)) if one.explainer else None,
                    **({"timeout_seconds": limit} if limit else {}),
                    **({"max_in_flight": most} if most else {}),
                )
            )
        return routes.Deployment(
            namespace=deployment.namespace,
            name=deployment.name,
            protocol=deployment.spec.protocol,
            predictors=tuple(predictors),
        )


def model_name(deployment: SeldonDeployment, predictor: Predictor) -> str:
    """Return the name of a model's server, that of its Deployment in a cluster."""
    return f"{deployment.name}-{predictor.name}-0-{predictor.graph.name}"


def explainer_name(deployment: SeldonDeployment, predictor: Predictor) -> str:
    """Return the name of an explainer's server."""
    return f"{deployment.name}-{predictor.name}-explainer"


def plan(
    deployment: SeldonDeployment, sources: Sources, addresses: Addresses, origin: str | None
) -> Model:
    """Return what a SeldonDeployment asks for.

    Args:
        deployment: the object.
        sources: all applied objects.
        addresses: what cluster addresses mean.
        origin: where it stands, for errors; None is lenient about what it refers to.

    Raises:
        ManifestError: something that the local stack cannot do, or refers to what is not there.
    """
    servers, loggers = [], {}
    for number, predictor in enumerate(deployment.spec.predictors):
        place = (
            None if origin is None else f"{origin}, {deployment.kind}: spec.predictors[{number}]"
        )
        _timeout(deployment, predictor, place or str(deployment))
        _number(deployment, predictor, MAX_IN_FLIGHT, place or str(deployment))
        servers.append(_model_server(deployment, predictor, sources, addresses, place))
        if predictor.explainer is not None:
            servers.append(_explain_server(deployment, predictor, sources, addresses, place))
        if predictor.graph.logger is not None:
            url, where = predictor.graph.logger.url, f"{place or deployment}.graph.logger.url"
            if not re.fullmatch(r"http://[!-~]+", url):
                raise ManifestError(f"{where}: it is an http:// address, not {url!r:.80}.")
            loggers[predictor.name] = addresses.resolve(url, deployment.namespace, place and where)
    model = Model(deployment, tuple(servers), loggers)
    try:
        model.route(lambda name: None)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        field = "".join(f"{part}: " for part in first["loc"][:1])
        reason = first["msg"].removeprefix("Value error, ")
        raise ManifestError(
            f"{origin or deployment}, {deployment.kind}: spec.predictors: {field}{reason}."
        ) from problem
    return model


def _model_server(
    deployment: SeldonDeployment,
    predictor: Predictor,
    sources: Sources,
    addresses: Addresses,
    place: str | None,
) -> ServerSpec:
    graph = predictor.graph
    where = f"{place or deployment}.graph"
    need_secret(
        deployment, graph.env_secret_ref_name, sources, place and f"{where}.envSecretRefName"
    )
    _check_artifact(graph.model_uri, f"{where}.modelUri", strict=place is not None)
    parameters = [
        {**one.model_dump(), "value": literal(one.value), "name": literal(one.name)}
        for one in graph.parameters
    ]
    try:
        match graph.implementation, deployment.spec.protocol:
            case "TENSORFLOW_SERVER", "tensorflow":
                told = program.tf_server_program(graph.name, literal(graph.model_uri))
            case "TENSORFLOW_SERVER", "seldon":
                told = program.tf_seldon_program(graph.name, literal(graph.model_uri), parameters)
            case "SKLEARN_SERVER", "seldon":
                told = program.seldon_program(graph.name, literal(graph.model_uri), parameters)
            case "SKLEARN_SERVER", "v2":
                told = program.mlserver_program(graph.name, literal(graph.model_uri), parameters)
            case implementation, protocol:
                raise ManifestError(
                    f"{where}.implementation: {implementation} does not speak the {protocol} protocol "
                    "here; TENSORFLOW_SERVER speaks tensorflow and seldon, SKLEARN_SERVER seldon and v2."
                )
    except ManifestError:
        raise
    except StackError as problem:
        raise ManifestError(f"{where}: {problem}") from problem
    container = predictor.container
    image = (container.image if container else "") or graph.implementation
    environment = _operator_environment(deployment, predictor, image)
    if container:
        proxied = (graph.implementation, deployment.spec.protocol) == (
            "TENSORFLOW_SERVER",
            "seldon",
        )
        wanted = TF_SERVING if proxied else graph.name
        if container.name != wanted:
            raise ManifestError(
                f"{place or deployment}.componentSpecs: over the {deployment.spec.protocol} protocol "
                f"{graph.implementation} is in the container {wanted!r}, not {container.name!r}."
            )
        if container.command or container.args:
            raise ManifestError(
                f"{place or deployment}.componentSpecs: command and args are the operator's for "
                f"{graph.implementation}; leave them out."
            )
        environment |= variables(
            deployment,
            container.env,
            container.env_from,
            sources,
            addresses,
            place and f"{place}.componentSpecs[0].spec.containers[0]",
        )
    return ServerSpec(
        name=model_name(deployment, predictor),
        owner=str(deployment),
        command=told.command,
        # What the program is told about its ports and folders stands above the manifest.
        environment={
            **{name: literal(value) for name, value in environment.items()},
            **told.environment,
            **LOOPBACK,
        },
        files=told.files,
        ready_path=told.ready_path,
        metrics_path=told.metrics_path,
        metrics_placeholder=told.metrics_placeholder,
        stop_seconds=told.stop_seconds,
        labels={"namespace": deployment.namespace},
        image=image,
    )


def _explain_server(
    deployment: SeldonDeployment,
    predictor: Predictor,
    sources: Sources,
    addresses: Addresses,
    place: str | None,
) -> ServerSpec:
    explainer = predictor.explainer
    assert explainer is not None
    where = f"{place or deployment}.explainer"
    if explainer.type not in METHODS:
        raise ManifestError(
            f"{where}.type: there is no explainer {explainer.type} here; {', '.join(METHODS)} there is."
        )
    v2 = deployment.spec.protocol == "v2"
    told = programs.EXPLAIN_V2 if v2 else programs.EXPLAIN
    container = explainer.container_spec or ExplainerContainer()
    image = container.image or (V2_IMAGE if v2 else "seldonio/alibiexplainer:1.19.0")
    programs.check_explainer(image, container.command, told, f"{where}.containerSpec")
    if v2:
        _check_v2(explainer, container, where)
    else:
        _check_config(explainer.type, explainer.config, f"{where}.config")
        if container.args:
            raise ManifestError(
                f"{where}.containerSpec.args: the operator overwrites them; an explainer's options go "
                "into explainer.config."
            )
    need_secret(
        deployment, explainer.env_secret_ref_name, sources, place and f"{where}.envSecretRefName"
    )
    if explainer.model_uri:
        _check_artifact(explainer.model_uri, f"{where}.modelUri", strict=place is not None)
    host = (
        f"{addresses.gateway}/predictor/{deployment.namespace}/{deployment.name}/{predictor.name}"
    )
    environment = _operator_environment(deployment, predictor, image) | variables(
        deployment,
        container.env,
        container.env_from,
        sources,
        addresses,
        place and f"{where}.containerSpec",
    )
    environment = {key: literal(value) for key, value in environment.items()}
    if v2:
        name = container.name or explainer_name(deployment, predictor)
        environment |= _v2_variables(explainer, name, predictor.graph.name, host)
        ready_path = f"/v2/models/{name}/ready"
        arguments = [literal(word) for word in container.args]
    else:
        ready_path = "/ready"
        arguments = _explainer_arguments(
            explainer, predictor.graph.name, host, deployment.spec.protocol
        )
    return ServerSpec(
        name=explainer_name(deployment, predictor),
        owner=str(deployment),
        command=programs.command(told, arguments),
        environment={**environment, **LOOPBACK},
        ready_path=ready_path,
        metrics_path=told.metrics_path,
        labels={"namespace": deployment.namespace},
        image=image,
    )


def _check_v2(explainer: Explainer, container: ExplainerContainer, place: str) -> None:
    """Refuse what the operator does not pass on to a v2 explainer."""
    if explainer.config:
        raise ManifestError(
            f"{place}.config: the operator passes none to an explainer of the v2 protocol; write "
            f"containerSpec.args: [--{min(explainer.config)}=...], and the image {programs.SERVING_IMAGE} "
            f"with the command [python, -m, {programs.EXPLAIN_V2.module}]."
        )
    if container.env or container.env_from:
        raise ManifestError(
            f"{place}.containerSpec.env: the operator drops it for an explainer of the v2 protocol; "
            "options go into containerSpec.args."
        )
    if not container.args:
        return
    if not container.command:
        raise ManifestError(
            f"{place}.containerSpec.args: they are for the command [python, -m, "
            f"{programs.EXPLAIN_V2.module}] of {programs.SERVING_IMAGE}; name both."
        )
    given = {}
    for word in container.args:
        option = re.fullmatch(r"--([A-Za-z_]+)=(.*)", word, re.DOTALL)
        if option is None:
            raise ManifestError(
                f"{place}.containerSpec.args: an option is written --name=value, not {word!r:.60}."
            )
        given[option[1]] = option[2]
    uri = given.pop("storage_uri", None)
    if uri is not None:
        _check_artifact(uri, f"{place}.containerSpec.args: --storage_uri", strict=False)
    _check_config(explainer.type, given, f"{place}.containerSpec.args")


def _v2_variables(
    explainer: Explainer, name: str, model: str, predictor_host: str
) -> dict[str, str]:
    """What Seldon's operator sets for a v2 explainer, and the places that MLServer must have here."""
    tag = next(tag for tag, type in TAGS.items() if type == explainer.type)
    extra = {
        "explainer_type": tag,
        "infer_uri": f"http://{predictor_host}/v2/models/{model}/infer",
    }
    return {
        "MLSERVER_HTTP_PORT": "{port}",
        "MLSERVER_GRPC_PORT": "{grpc_port}",
        "MLSERVER_METRICS_PORT": "{metrics_port}",
        "MLSERVER_METRICS_DIR": "{folder}/metrics",
        "MLSERVER_ENVIRONMENTS_DIR": "{folder}/environments",
        "MLSERVER_MODEL_NAME": literal(name),
        "MLSERVER_MODEL_URI": literal(explainer.model_uri),
        "MLSERVER_MODEL_EXTRA": literal(json.dumps(extra)),
    }


def _explainer_arguments(
    explainer: Explainer, model: str, predictor_host: str, protocol: str
) -> list[str]:
    """What Seldon's operator passes to the explain container."""
    told = [
        f"--model_name={model}",
        f"--predictor_host={predictor_host}",
        f"--protocol={protocol}.http",
        "--http_port={port}",
    ]
    if explainer.model_uri:
        told.append(f"--storage_uri={literal(explainer.model_uri)}")
    told.append(explainer.type)
    if explainer.type == TENSORFLOW_ONLY:
        told.append("--tf_data_type=float32")
    return [
        *told,
        *(f"--{key}={_own(key, value)}" for key, value in sorted(explainer.config.items())),
    ]


def _own(option: str, value: str) -> str:
    """Return an option's value; what a container writes below its /tmp is in the server's own folder."""
    below = value.removeprefix("/tmp/")
    if option not in WRITTEN or below == value:
        return literal(value)
    return f"{{folder}}/tmp/{literal(below)}"


def _check_config(method: str, config: Mapping[str, str], place: str) -> None:
    """Refuse what the explainer would end with, again and again."""
    kind = method_class(method)
    options, production = kind.options, ProductionSettings.model_fields
    unknown = sorted(config.keys() - options.model_fields.keys() - production.keys())
    if unknown:
        raise ManifestError(
            f"{place}.{unknown[0]}: {method} has no such option; it has "
            f"{', '.join(options.model_fields)}."
        )
    try:
        options.model_validate(
            {name: value for name, value in config.items() if name in options.model_fields}
        )
        read_settings(
            {name: value for name, value in config.items() if name in production},
            method,
            kind.asks_model,
        )
    except ServingError as problem:
        raise ManifestError(f"{place}: {problem}") from problem
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ManifestError(
            f"{place}.{field}: {first['msg'].removeprefix('Value error, ')}, not {first['input']!r:.60}."
        ) from problem


def _operator_environment(
    deployment: SeldonDeployment, predictor: Predictor, image: str
) -> dict[str, str]:
    return {
        "SELDON_DEPLOYMENT_ID": deployment.name,
        "SELDON_DEPLOYMENT_NAMESPACE": deployment.namespace,
        "PREDICTOR_ID": predictor.name,
        "PREDICTIVE_UNIT_ID": predictor.graph.name,
        "PREDICTIVE_UNIT_IMAGE": image,
    }


def _check_artifact(uri: str, place: str, *, strict: bool) -> None:
    try:
        location = locate(uri)
    except WalkthroughError as problem:
        raise ManifestError(f"{place}: {problem}") from problem
    if strict and not location.folder.is_dir():
        raise ManifestError(
            f"{place}: there is no artefact {location}; train it (`make train`), or for the digits run "
            f"a notebook that makes it (`make run ONLY=01 DATASET=digits`)."
        )


def _timeout(deployment: SeldonDeployment, predictor: Predictor, place: str) -> float | None:
    """The limit of one call in seconds, where an annotation sets it."""
    told = _number(deployment, predictor, TIMEOUT, place, " in milliseconds,")
    return None if told is None else told / 1000


def _number(
    deployment: SeldonDeployment, predictor: Predictor, name: str, place: str, unit: str = ""
) -> int | None:
    """The whole number that an annotation sets, on the predictor or else the deployment."""
    told = {**deployment.spec.annotations, **predictor.annotations}.get(name)
    if told is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", told):
        raise ManifestError(
            f"{place}: the annotation {name} is{unit} a whole number, not {told!r:.40}."
        )
    return int(told)
