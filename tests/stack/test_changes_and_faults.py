"""Applying again, rolling over, dying: what a stack goes through while requests keep coming."""

from __future__ import annotations

import os
import signal
import threading
import time

import httpx
import psutil
import pytest
import yaml

from helpers.client import one_hot
from helpers.errors import ClientError, ManifestError, StackError
from helpers.stack.local.client import LocalStack
from helpers.stack.local.process import STACK_VARIABLE

pytestmark = pytest.mark.timeout(240)


def pid(stack, name: str) -> int | None:
    """The process of a server that takes requests."""
    found = [one for one in stack.status() if one.name == name and one.state != "stopping"]
    return found[0].pid if found else None


class Load:
    """Predictions one after the other until the block ends; counts those that failed."""

    def __init__(self, client, x) -> None:
        self.client, self.x = client, x
        self.failed: list[str] = []
        self.done = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.client.predict(self.x, skip_logging=True)
                self.done += 1
            except ClientError as problem:
                self.failed.append(str(problem))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)


def test_applying_again_changes_nothing(stack, everything):
    before = {one.name: one.pid for one in stack.status()}
    assert {one.action for one in stack.apply(*everything)} == {"unchanged"}
    stack.wait(timeout=10)
    assert {one.name: one.pid for one in stack.status()} == before


def test_a_changed_model_rolls_over_without_a_dropped_request(
    stack, client, images, manifest, tmp_path, eventually
):
    content = yaml.safe_load(manifest("explainers/cifar10-explained.yaml").read_text())
    container = content["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]
    container["env"] = [{"name": "CHANGED", "value": "yes"}]
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(content))
    before = pid(stack, "cifar10-default-0-resnet32")
    detectors = {name: pid(stack, name) for name in ("outlier-vae", "drift-ks")}
    with Load(client, images[:1]) as load:
        applied = stack.apply(changed)
        assert [one.action for one in applied] == ["configured"]
        stack.wait("cifar10", timeout=120)
        eventually(lambda: not psutil.pid_exists(before), "the old process to end")
        so_far = load.done
        eventually(lambda: load.done > so_far + 20, "requests after the change")
    assert load.failed == []
    assert pid(stack, "cifar10-default-0-resnet32") != before
    assert {name: pid(stack, name) for name in detectors} == detectors
    stack.apply(manifest("explainers/cifar10-explained.yaml"))
    stack.wait(timeout=120)


def test_a_killed_model_comes_back(stack, client, images, eventually):
    name = "cifar10-default-0-resnet32"
    before = pid(stack, name)
    body = client.encode(images[:1])
    seen: dict[int, httpx.Response] = {}

    def serves_again() -> bool:
        url = f"{stack.url('cifar10')}/v1/models/resnet32:predict"
        answer = httpx.post(url, content=body, timeout=10)
        seen.setdefault(answer.status_code, answer)
        return answer.status_code == 200 and pid(stack, name) not in (before, None)

    os.kill(before, signal.SIGKILL)
    eventually(serves_again, "the model to serve again", 60)
    refused = [answer for status, answer in seen.items() if status != 200]
    assert refused
    for answer in refused:
        assert answer.status_code in (502, 503)
        assert answer.json()["error"]
    status = next(one for one in stack.status() if one.name == name)
    assert status.restarts >= 1


def test_feedback_outlives_the_death_of_its_metrics_server(stack, client, images, eventually):
    prediction = client.predict(images[:1], skip_logging=True)
    os.kill(pid(stack, "multiclass-metrics"), signal.SIGKILL)
    for _ in range(5):
        client.feedback(truth=one_hot(prediction.labels), response=prediction.probabilities)

    def counted() -> bool:
        try:
            metrics = stack.metrics("multiclass-metrics")
        except StackError:  # it is being started
            return False
        return metrics.value("seldon_metric_true_positive_total") == 5

    eventually(counted, "five pieces of feedback, delivered to the next process", 60)


def test_a_wrong_manifest_changes_nothing(stack, manifest, tmp_path):
    before = {one.name: one.pid for one in stack.status()}
    content = yaml.safe_load(manifest("model/cifar10.yaml").read_text())
    content["spec"]["predictors"][0]["graph"]["modelUri"] = "s3://walkthrough/../../etc"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(content))
    with pytest.raises(ManifestError, match=r"wrong\.yaml.*graph\.modelUri"):
        stack.apply(manifest("detectors/drift-ks.yaml"), wrong)
    assert {one.name: one.pid for one in stack.status()} == before


def test_nothing_listens_beyond_loopback(stack):
    found = 0
    for process in _processes(stack):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found += 1
                assert connection.laddr.ip in ("127.0.0.1", "::1"), (process.cmdline(), connection)
    assert found >= 10


def test_only_the_user_can_read_the_state(stack):
    state = stack.state
    for path in (state.folder, state.token_file, state.objects, state.info):
        assert path.stat().st_mode & 0o077 == 0, path
    control = f"http://{state.listening().control}"
    assert httpx.get(f"{control}/v1/status", timeout=5).status_code == 401


def test_a_killed_daemon_leaves_no_server_and_comes_back_with_all(tmp_path, manifest, eventually):
    stack = LocalStack(folder=tmp_path / "state")
    small = [manifest("eventing/broker.yaml"), manifest("logging/payload-logger.yaml")]
    small.append(manifest("eventing/trigger-payload-logger.yaml"))
    try:
        stack.apply(*small)
        stack.wait(timeout=60)
        _send_event(stack, "kept")
        eventually(lambda: not stack.events(limit=1)[0]["waiting"], "the event to be delivered")
        processes = _processes(stack)
        assert len(processes) >= 3
        os.kill(stack.state.listening().pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(processes, timeout=15)
        assert alive == []

        stack.up()
        stack.wait("payload-logger", timeout=60)
        assert stack.events(limit=1)[0]["attributes"]["id"] == "kept"
        _send_event(stack, "next")
        eventually(lambda: not stack.events(limit=1)[0]["waiting"], "the next to be delivered")
    finally:
        stack.down()


def test_down_leaves_no_process_no_port_and_no_file(tmp_path, manifest):
    stack = LocalStack(folder=tmp_path / "state")
    stack.apply(manifest("eventing/broker.yaml"), manifest("logging/payload-logger.yaml"))
    stack.wait(timeout=60)
    listening = stack.state.listening()
    addresses = [listening.control, listening.gateway, listening.broker]
    addresses += [one.address for one in stack.status()]
    processes = _processes(stack)
    started = time.monotonic()
    stack.down()
    assert time.monotonic() - started < 30
    assert not any(process.is_running() for process in processes)
    for address in addresses:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{address}/live", timeout=2)
    assert list(tmp_path.iterdir()) == []
    assert stack.status() == []
    stack.down()  # twice is no error


def _send_event(stack, id: str) -> None:
    answer = httpx.post(
        stack.url("default"),
        headers={
            "ce-specversion": "1.0",
            "ce-id": id,
            "ce-source": "test",
            "ce-type": "io.seldon.serving.inference.request",
            "ce-requestid": id,
            "content-type": "application/json",
        },
        content=b'{"instances": [[1.0]]}',
        timeout=10,
    )
    assert answer.status_code == 202


def _processes(stack) -> list[psutil.Process]:
    """The daemon, its watchdog, and every process of every server."""
    daemon = psutil.Process(stack.state.listening().pid)
    found = {daemon.pid: daemon}
    found |= {one.pid: one for one in daemon.children(recursive=True)}
    for process in psutil.process_iter():
        try:
            marked = str(stack.state.folder) in process.environ().get(STACK_VARIABLE, "")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if marked:
            found[process.pid] = process
    return list(found.values())
