"""The model servers that stand behind a deployment: how each is started, as plain data.

Nothing of theirs is imported here. All of them listen on 127.0.0.1 only.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from helpers.errors import StackError
from helpers.serving.storage import locate


@dataclass(frozen=True)
class Program:
    """How one server is started.

    In command and environment `{port}`, `{grpc_port}` and `{metrics_port}` stand for free ports and
    `{folder}` for a folder of its own; other braces, as of JSON, are text.

    Args:
        command: program and arguments.
        environment: added to the environment that there is.
        files: path inside `{folder}` -> content.
        ready_path: GET of it answers 200 once the model serves.
        metrics_path: where Prometheus scrapes.
        metrics_placeholder: the port that serves metrics_path.
        stop_seconds: from SIGTERM to SIGKILL.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/ready"
    metrics_path: str | None = "/metrics"
    metrics_placeholder: Literal["port", "metrics_port"] = "port"
    stop_seconds: float = 15.0


def tf_server_program(node_name: str, model_uri: str) -> Program:
    """Return what serves a SavedModel over TensorFlow Serving's REST API: `helpers.serving.tf_server`.

    The real tensorflow_model_server has no option for the address of its REST API: it always listens
    on every interface. It is taken only where $TENSORFLOW_MODEL_SERVER names it, not because it is on
    PATH.

    Raises:
        ArtifactError: the URI does not name an artefact.
        StackError: $TENSORFLOW_MODEL_SERVER names no program.
    """
    folder = str(locate(model_uri).folder)
    model = (f"--model_name={node_name}", "--rest_api_port={port}", f"--model_base_path={folder}")
    chosen = os.environ.get("TENSORFLOW_MODEL_SERVER")
    metrics_path = "/monitoring/prometheus/metrics"  # of both
    if not chosen:
        return Program(
            command=(sys.executable, "-m", "helpers.serving.tf_server", *model),
            metrics_path=metrics_path,
        )
    found = shutil.which(chosen)
    if found is None:
        raise StackError(
            f"$TENSORFLOW_MODEL_SERVER is {chosen!r}, and there is no such program. Unset it to use "
            "helpers.serving.tf_server."
        )
    monitoring = f'prometheus_config {{ enable: true, path: "{metrics_path}" }}\n'
    return Program(
        command=(
            *(found, *model, "--port={grpc_port}"),
            "--monitoring_config_file={folder}/monitoring.config",
        ),
        files={"monitoring.config": monitoring},
        ready_path=f"/v1/models/{node_name}",
        metrics_path=metrics_path,
    )


def seldon_program(
    node_name: str, model_uri: str, parameters: Sequence[Mapping[str, Any]] = ()
) -> Program:
    """Return what serves `model.joblib` over the seldon protocol: seldon-core-microservice.

    Args:
        node_name: the graph node.
        model_uri: of an artefact with `model.joblib`.
        parameters: the graph node's, `{name, value, type}`; `method` is known.
    """
    return _microservice("sklearn_server.SKLearnServer", node_name, model_uri, parameters)


def tf_seldon_program(
    node_name: str, model_uri: str, parameters: Sequence[Mapping[str, Any]] = ()
) -> Program:
    """Return what serves a SavedModel over the seldon protocol, as TF Serving behind Seldon's proxy.

    Args:
        node_name: the graph node.
        model_uri: of an artefact with a SavedModel.
        parameters: the graph node's, `{name, value, type}`: those of Seldon's proxy.
    """
    # One process: TensorFlow uses every core for one call, and four would keep four copies.
    return _microservice(
        "tfserving_proxy.TfServingProxy", node_name, model_uri, parameters, "--workers", "1"
    )


def _microservice(
    kind: str,
    node_name: str,
    model_uri: str,
    parameters: Sequence[Mapping[str, Any]],
    *options: str,
) -> Program:
    locate(model_uri)
    uri = {"name": "model_uri", "value": model_uri, "type": "STRING"}
    return Program(
        command=(
            *(sys.executable, "-m", "helpers.serving.seldon_model"),
            f"helpers.serving.seldon_model.{kind}",
            *("--http-port", "{port}", "--metrics-port", "{metrics_port}"),
            *options,
        ),
        environment={
            "PREDICTIVE_UNIT_ID": node_name,
            "PREDICTIVE_UNIT_PARAMETERS": json.dumps([uri, *map(dict, parameters)]),
        },
        ready_path="/health/status",
        metrics_placeholder="metrics_port",
    )


def mlserver_program(
    node_name: str, model_uri: str, parameters: Sequence[Mapping[str, Any]] = ()
) -> Program:
    """Return what serves `model.joblib` over the v2 protocol: `mlserver start`.

    Args:
        node_name: the graph node.
        model_uri: of an artefact with `model.joblib`.
        parameters: the graph node's, `{name, value, type}`; `method` (predict or predict_proba) is
            what a request gets that names no output.
    """
    given = {str(one["name"]): one.get("value") for one in parameters}
    unknown = set(given) - {"method"}
    if unknown:
        raise StackError(
            f"The parameter {min(unknown)!r} of {node_name} is unknown to mlserver's scikit-learn "
            "server; `method` is known."
        )
    model = {
        "name": node_name,
        "implementation": "helpers.serving.mlserver_model.SKLearnModel",
        "parameters": {
            "uri": str(locate(model_uri).folder),
            "extra": {"predict_fn": given.get("method", "predict")},
        },
    }
    return Program(
        command=(str(Path(sys.executable).with_name("mlserver")), "start", "{folder}"),
        environment={
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": "{port}",
            "MLSERVER_GRPC_PORT": "{grpc_port}",
            "MLSERVER_METRICS_PORT": "{metrics_port}",
            "MLSERVER_METRICS_DIR": "{folder}/metrics",
            "MLSERVER_ENVIRONMENTS_DIR": "{folder}/environments",
            "MLSERVER_PARALLEL_WORKERS": "0",  # the model runs in the server's own process
            "MLSERVER_DEBUG": "false",
        },
        files={"model-settings.json": json.dumps(model, indent=1)},
        ready_path="/v2/health/ready",
        metrics_placeholder="metrics_port",
    )
