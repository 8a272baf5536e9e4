"""The model servers of the seldon and v2 protocols as real processes, directly and through the gateway."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from helpers import artifacts
from helpers.errors import ArtifactError, StackError
from helpers.serving.gateway.app import Gateway
from helpers.serving.gateway.routes import RouteTable
from helpers.serving.program import (
    Program,
    mlserver_program,
    seldon_program,
    tf_seldon_program,
    tf_server_program,
)
from helpers.stack.local.ports import Ports

URI = "s3://walkthrough/iris/classifier"
ROWS = load_iris().data[::50]  # one of each class
START_SECONDS = 60.0


PORTS = Ports()


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


class Running:
    """A program as the local stack starts it: in a session of its own, its places filled in."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.folder = folder / "own"
        self.home = folder / "home"
        self.log = folder / "log"
        for one in (self.folder, self.home):
            one.mkdir(parents=True)
        ports = {name: free_port() for name in ("port", "grpc_port", "metrics_port")}
        self.places = {f"{{{name}}}": str(port) for name, port in ports.items()}
        self.places["{folder}"] = str(self.folder)
        self.url = f"http://127.0.0.1:{ports['port']}"
        self.metrics_url = (
            f"http://127.0.0.1:{ports[program.metrics_placeholder]}{program.metrics_path}"
        )
        for name, content in program.files.items():
            (self.folder / name).write_text(content)
        added = {name: self.filled(value) for name, value in program.environment.items()}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [self.filled(part) for part in program.command],
                env={**os.environ, "HOME": str(self.home), **added},
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def filled(self, text: str) -> str:
        for place, value in self.places.items():
            text = text.replace(place, value)
        return text

    def wait(self) -> Running:
        end = time.monotonic() + START_SECONDS
        while not self._ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)
        return self

    def _ready(self) -> bool:
        try:
            return httpx.get(self.url + self.program.ready_path, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def group(self) -> list[psutil.Process]:
        """Every process of its group that has not ended."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getpgid(process.pid) == self.process.pid:
                    found.append(process)
            except ProcessLookupError:
                continue
        return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]

    def metrics(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        text = httpx.get(self.metrics_url, timeout=10).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        return found

    def kill(self) -> None:
        for process in self.group():
            process.kill()
        self.process.wait(10)


def free_port() -> int:
    """One below those of outgoing connections, which could take it before the program does."""
    return PORTS.take()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogisticRegression]:
    """A classifier saved as the artefact iris/classifier."""
    trained = LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS_DIR", str(tmp_path_factory.mktemp("artifacts")))
        save("classifier", trained)
        yield trained


def save(name: str, thing: Any) -> Path:
    artifacts.save(
        "iris",
        name,
        lambda folder: joblib.dump(thing, folder / "model.joblib"),
        format="scikit-learn",
        summary="A classifier",
        figures={},
    )
    return artifacts.path("iris", name)


Starter = Callable[[Program], Running]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Return start(program): a process that is gone after the tests of this file."""
    started: list[Running] = []

    def one(program: Program) -> Running:
        started.append(Running(program, tmp_path_factory.mktemp("program")))
        return started[-1]

    yield one
    for running in started:
        running.kill()


@pytest.fixture(scope="module")
def seldon(model: LogisticRegression, start: Starter) -> Running:
    return start(seldon_program("classifier", URI)).wait()


@pytest.fixture(scope="module")
def v2(model: LogisticRegression, start: Starter) -> Running:
    return start(mlserver_program("classifier", URI)).wait()


def ask(protocol: str, running: Running, method: str, path: str, content: Any = None) -> Any:
    """Return the answer of /seldon/default/iris<path> at a gateway before the server."""
    predictor = {"name": "main", "model": "classifier", "url": running.url}
    given = {"namespace": "default", "name": "iris", "protocol": protocol}
    table = RouteTable.model_validate({"deployments": [{**given, "predictors": [predictor]}]})

    async def scenario() -> httpx.Response:
        gateway = Gateway(table)
        transport = httpx.ASGITransport(app=gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            body = content if content is None or isinstance(content, bytes) else json.dumps(content)
            headers = {"content-type": "application/json"}
            answer = await client.request(
                method, f"/seldon/default/iris{path}", content=body, headers=headers
            )
        await gateway.aclose()
        return answer

    return asyncio.run(scenario())


def listening(running: Running) -> set[str]:
    """Addresses that processes of the group listen on."""
    return {
        connection.laddr.ip.removeprefix("::ffff:")  # gRPC binds IPv4 through an IPv6 socket
        for process in running.group()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


# The seldon protocol -----------------------------------------------------------------------------


def message(rows: Any) -> dict[str, Any]:
    return {"data": {"ndarray": np.asarray(rows).tolist()}}


def test_seldon_predictions_are_the_models(seldon: Running, model: LogisticRegression) -> None:
    wanted = model.predict_proba(ROWS)
    direct = httpx.post(f"{seldon.url}/predict", json=message(ROWS), timeout=20)
    np.testing.assert_allclose(direct.json()["data"]["ndarray"], wanted, rtol=1e-12)
    answer = ask("seldon", seldon, "POST", "/api/v1.0/predictions", message(ROWS))
    assert answer.status_code == 200
    assert answer.headers["seldon-puid"]
    np.testing.assert_allclose(answer.json()["data"]["ndarray"], wanted, rtol=1e-12)


def test_seldon_feedback_is_counted_at_the_model(seldon: Running) -> None:
    def counted() -> float:
        samples = seldon.metrics().get("seldon_api_model_feedback_reward_total", [])
        return sum(one.value for one in samples if one.labels["model_name"] == "classifier")

    before = counted()
    feedback = {"request": message(ROWS[:1]), "reward": 0.5, "truth": message([[0]])}
    assert ask("seldon", seldon, "POST", "/api/v1.0/feedback", feedback).status_code == 200
    assert counted() - before == 0.5


def test_seldon_metadata_and_status(seldon: Running) -> None:
    metadata = ask("seldon", seldon, "GET", "/api/v1.0/metadata").json()
    assert metadata["name"] == "main"
    assert set(metadata["models"]) == {"classifier"}
    assert ask("seldon", seldon, "GET", "/api/v1.0/health/status").status_code == 200
    assert ask("seldon", seldon, "GET", "/ready").json() == {"ready": True}


@pytest.mark.parametrize(
    "content",
    [
        b"not JSON",
        b"",
        {},
        [1],
        {"data": 5},
        {"data": {}},
        {"meta": 3, "data": {"ndarray": [[1, 2, 3, 4]]}},
        message([[1, 2]]),
        {"data": {"ndarray": [["a", 1, 2, 3]]}},
        {"data": {"ndarray": [[1, 2, 3, 4], [1]]}},
        b'{"data": {"ndarray": [[NaN, 1, 2, 3]]}}',
        {"data": {"tensor": {"shape": [3, 9], "values": [1]}}},
        {"strData": "text"},
    ],
)
def test_seldon_bad_input_is_400(seldon: Running, content: Any) -> None:
    answer = ask("seldon", seldon, "POST", "/api/v1.0/predictions", content)
    assert answer.status_code == 400
    assert answer.json()["status"]["info"]
    assert "Traceback" not in answer.text


def test_seldon_parameter_method(model: LogisticRegression) -> None:
    from helpers.serving.seldon_model.sklearn_server import SKLearnServer

    server = SKLearnServer(URI, method="predict")
    server.load()
    assert server.predict(ROWS, []).tolist() == [0, 1, 2]
    with pytest.raises(ArtifactError, match="there are predict_proba, predict"):
        SKLearnServer(URI, method="fit")
    program = seldon_program(
        "classifier", URI, [{"name": "method", "value": "predict", "type": "STRING"}]
    )
    given = json.loads(program.environment["PREDICTIVE_UNIT_PARAMETERS"])
    assert {one["name"]: one["value"] for one in given} == {"model_uri": URI, "method": "predict"}


def test_seldon_a_model_without_the_method_is_refused(model: LogisticRegression) -> None:
    from helpers.serving.seldon_model.sklearn_server import SKLearnServer

    save("no-model", ["a list"])
    server = SKLearnServer("s3://walkthrough/iris/no-model")
    with pytest.raises(ArtifactError, match="'list' object has no attribute 'predict_proba'"):
        server.load()


# TENSORFLOW_SERVER over the seldon protocol -------------------------------------------------------

RESNET = "s3://walkthrough/cifar10/resnet32"


@pytest.fixture(scope="module")
def proxied(model: LogisticRegression, start: Starter) -> Running:
    """The committed classifier of images; ARTIFACTS_DIR is a folder of this file's."""
    committed = Path(__file__).resolve().parents[2] / "artifacts" / "cifar10" / "resnet32"
    shutil.copytree(committed, artifacts.path("cifar10", "resnet32"))
    return start(tf_seldon_program("classifier", RESNET)).wait()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((3, 32, 32, 3))


def test_seldon_savedmodel_predictions_are_the_artefacts(
    proxied: Running, images: np.ndarray
) -> None:
    from helpers.models.predictor import as_function

    wanted = as_function(artifacts.load("cifar10", "resnet32"))(images)
    answer = ask("seldon", proxied, "POST", "/api/v1.0/predictions", message(images))
    assert answer.status_code == 200
    np.testing.assert_allclose(answer.json()["data"]["ndarray"], wanted, atol=1e-5)
    flat = {"shape": list(images.shape), "values": images.ravel().tolist()}
    answer = httpx.post(f"{proxied.url}/predict", json={"data": {"tensor": flat}}, timeout=20)
    told = answer.json()["data"]["tensor"]
    np.testing.assert_allclose(np.reshape(told["values"], told["shape"]), wanted, atol=1e-5)
    whole = {"jsonData": {"instances": images[:1].tolist()}}
    answer = httpx.post(f"{proxied.url}/predict", json=whole, timeout=20)
    told = answer.json()["jsonData"]["predictions"]
    np.testing.assert_allclose(told, wanted[:1], atol=1e-5)
    assert listening(proxied) == {"127.0.0.1"}


@pytest.mark.parametrize(
    "content",
    [
        b"not JSON",
        b"",
        {},
        [1],
        {"data": {}},
        message([]),
        message([[1, 2]]),
        message([["a"]]),
        message(np.zeros((1, 31, 32, 3))),
        {"data": {"tensor": {"shape": [1, 32, 32, 3], "values": [1]}}},
        {"strData": "an image"},
        {"jsonData": {"rows": [1]}},
        {"jsonData": {"instances": [1], "signature_name": "other"}},
    ],
)
def test_seldon_savedmodel_bad_input_is_refused(proxied: Running, content: Any) -> None:
    answer = ask("seldon", proxied, "POST", "/api/v1.0/predictions", content)
    assert answer.status_code == 400
    assert answer.json()["status"]["info"]
    assert "Traceback" not in answer.text


def test_seldon_savedmodel_is_not_opened_when_changed(proxied: Running) -> None:
    from helpers.serving.seldon_model.tfserving_proxy import TfServingProxy

    changed = artifacts.path("cifar10", "changed")
    shutil.copytree(artifacts.path("cifar10", "resnet32"), changed)
    (changed / "1" / "saved_model.pb").write_bytes(b"something else")
    with pytest.raises(ArtifactError):
        TfServingProxy("s3://walkthrough/cifar10/changed")
    with pytest.raises(ArtifactError, match="parameter 'threshold' is unknown"):
        TfServingProxy(RESNET, threshold="1")


# The v2 protocol ---------------------------------------------------------------------------------


def tensor(rows: Any, *outputs: str) -> dict[str, Any]:
    rows = np.asarray(rows)
    one = {"name": "x", "shape": list(rows.shape), "datatype": "FP64", "data": rows.tolist()}
    named = {"outputs": [{"name": name} for name in outputs]} if outputs else {}
    return {"inputs": [one], **named}


@pytest.mark.parametrize("path", ["/v2/models/classifier/infer", "/v2/models/infer"])
def test_v2_predictions_are_the_models(v2: Running, model: LogisticRegression, path: str) -> None:
    answer = ask("v2", v2, "POST", path, tensor(ROWS, "predict", "predict_proba"))
    assert answer.status_code == 200
    classes, shares = answer.json()["outputs"]
    assert classes["data"] == [0, 1, 2]
    wanted = model.predict_proba(ROWS)
    np.testing.assert_allclose(np.reshape(shares["data"], shares["shape"]), wanted, rtol=1e-12)
    direct = httpx.post(f"{v2.url}/v2/models/classifier/infer", json=tensor(ROWS), timeout=20)
    assert [one["name"] for one in direct.json()["outputs"]] == ["predict"]


def test_v2_metadata_readiness_and_metrics(v2: Running) -> None:
    assert ask("v2", v2, "GET", "/v2/models/classifier").json()["name"] == "classifier"
    assert ask("v2", v2, "GET", "/v2/models/classifier/ready").status_code == 200
    assert ask("v2", v2, "GET", "/v2/health/ready").status_code == 200
    assert ask("v2", v2, "GET", "/ready").json() == {"ready": True}
    assert httpx.post(f"{v2.url}/v2/models/other/infer", json=tensor(ROWS)).status_code == 404
    ask("v2", v2, "POST", "/v2/models/infer", tensor(ROWS))
    counted = v2.metrics()["model_infer_request_success_total"]
    assert {one.labels["model"] for one in counted} == {"classifier"}
    assert counted[0].value >= 1


@pytest.mark.parametrize(
    "content",
    [
        b"not JSON",
        b"",
        {},
        [1],
        {"inputs": []},
        tensor([[1, 2]]),
        tensor([["a", "b", "c", "d"]]),
        {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [1]}]},
        {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "WHAT", "data": [1, 2, 3, 4]}]},
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [NaN]}]}',
        tensor(ROWS, "no-such-output"),
    ],
)
def test_v2_bad_input_is_refused(v2: Running, content: Any) -> None:
    answer = ask("v2", v2, "POST", "/v2/models/classifier/infer", content)
    assert answer.status_code in (400, 422)  # 422: mlserver's own, where the JSON is not a request
    assert set(answer.json()) in ({"error"}, {"detail"})
    assert "Traceback" not in answer.text


def test_v2_parameter_method(model: LogisticRegression) -> None:
    def default_output(parameters: list[dict[str, Any]]) -> str:
        written = mlserver_program("classifier", URI, parameters).files["model-settings.json"]
        return json.loads(written)["parameters"]["extra"]["predict_fn"]

    assert default_output([]) == "predict"
    assert default_output([{"name": "method", "value": "predict_proba"}]) == "predict_proba"
    with pytest.raises(StackError, match="'threshold' of classifier is unknown"):
        default_output([{"name": "threshold", "value": "1"}])


# Both --------------------------------------------------------------------------------------------


def test_nothing_is_unpickled_from_a_changed_artefact(
    model: LogisticRegression, start: Starter, tmp_path: Path
) -> None:
    from mlserver.settings import ModelSettings

    from helpers.serving.mlserver_model import SKLearnModel

    joblib.dump(Hostile(tmp_path / "canary"), save("changed", "harmless") / "model.joblib")
    uri = "s3://walkthrough/iris/changed"
    running = start(seldon_program("classifier", uri))
    assert running.process.wait(START_SECONDS) == 1
    assert "nothing of it was loaded" in running.log.read_text().splitlines()[-1]
    assert running.group() == []

    written = mlserver_program("classifier", uri).files["model-settings.json"]
    with pytest.raises(ArtifactError, match="nothing of it was loaded"):
        asyncio.run(SKLearnModel(ModelSettings.model_validate_json(written)).load())
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("make", [seldon_program, mlserver_program])
def test_they_listen_on_loopback_only_and_end_without_leaving_anything(
    model: LogisticRegression, start: Starter, make: Callable[..., Program]
) -> None:
    program = make("classifier", URI)
    running = start(program).wait()
    assert listening(running) == {"127.0.0.1"}
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(program.stop_seconds) == 0
    assert running.group() == []
    left = {path.name for path in running.folder.parent.rglob("*") if path.is_file()}
    assert left == {"log", *program.files}


# What the programs are ---------------------------------------------------------------------------


def test_tf_server_is_ours_unless_the_environment_names_another(
    model: LogisticRegression, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = artifacts.path("iris", "classifier")
    ours = tf_server_program("resnet32", URI)
    assert ours.command == (
        *(sys.executable, "-m", "helpers.serving.tf_server", "--model_name=resnet32"),
        *("--rest_api_port={port}", f"--model_base_path={folder}"),
    )
    real = tmp_path / "tensorflow_model_server"
    real.write_text("#!/bin/sh\n")
    real.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert tf_server_program("resnet32", URI) == ours  # on PATH, but it cannot stay on loopback
    monkeypatch.setenv("TENSORFLOW_MODEL_SERVER", "tensorflow_model_server")
    chosen = tf_server_program("resnet32", URI)
    assert chosen.command[0] == str(real)
    assert "--rest_api_port={port}" in chosen.command
    assert chosen.metrics_path in chosen.files["monitoring.config"]
    monkeypatch.setenv("TENSORFLOW_MODEL_SERVER", "no-such-program")
    with pytest.raises(StackError, match="no-such-program"):
        tf_server_program("resnet32", URI)


@pytest.mark.parametrize(
    "make", [tf_server_program, tf_seldon_program, seldon_program, mlserver_program]
)
@pytest.mark.parametrize("uri", ["/etc", "s3://other/iris/classifier", "../iris/classifier", ""])
def test_models_come_from_the_folder_of_artefacts_only(
    model: LogisticRegression, make: Callable[..., Program], uri: str
) -> None:
    with pytest.raises(ArtifactError):
        make("classifier", uri)


def test_saying_how_a_program_starts_imports_none_of_it() -> None:
    heavy = ("numpy", "tensorflow", "sklearn", "flask", "mlserver", "seldon_core")
    code = f"import sys, helpers.serving.program; print([m for m in {heavy} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert said.stdout == "[]\n"
