"""Ports that others have, two users on one machine, and secrets that stay where they belong."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import yaml

from helpers.stack.local.client import LocalStack
from helpers.stack.local.process import STACK_VARIABLE

pytestmark = pytest.mark.timeout(180)

SMALL = (
    "eventing/broker.yaml",
    "logging/payload-logger.yaml",
    "eventing/trigger-payload-logger.yaml",
)


@pytest.mark.parametrize(
    ("module", "option", "arguments"),
    [
        ("broker", "--port", ["--state={folder}/broker", "--token-file={folder}/token"]),
        ("payload_log", "--port", ["--state={folder}/log"]),
        ("gateway", "--port", ["--config={folder}/routes.json"]),
        ("tf_server", "--rest_api_port", ["--model_name=m", "--model_base_path={folder}/none"]),
        (
            "detect",
            "--http_port",
            [
                "--storage_uri=helpers.serving.detect.classification.MulticlassMetrics",
                "--protocol=seldonfeedback.http",
                "MetricsServer",
            ],
        ),
    ],
)
def test_a_port_that_is_in_use_ends_a_server_with_one_sentence(
    program: Callable, tmp_path: Path, module: str, option: str, arguments: list[str]
) -> None:
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "routes.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ending = program(
            *("-m", f"helpers.serving.{module}", f"{option}={port}"),
            *(one.format(folder=tmp_path) for one in arguments),
        )
        assert ending.ended() != 0
    assert f"port {port} of 127.0.0.1 is in use; stop what listens there" in ending.said()
    assert "Traceback" not in ending.said()


def test_two_users_do_not_meet(tmp_path: Path, manifest: Callable, eventually: Callable) -> None:
    one, two = (LocalStack(folder=tmp_path / name) for name in ("one", "two"))
    try:
        with ThreadPoolExecutor(2) as both:  # at the same moment: neither has a port in advance
            list(both.map(lambda stack: stack.apply(*map(manifest, SMALL)), (one, two)))
        for stack in (one, two):
            stack.wait(timeout=90)
        assert _ports(one).isdisjoint(_ports(two))
        first, second = one.state.listening(), two.state.listening()
        strange = {"authorization": f"Bearer {two.state.token()}"}
        answer = httpx.get(f"http://{first.control}/v1/status", headers=strange, timeout=10)
        assert answer.status_code == 401
        assert one.state.token() not in answer.text

        _send(one, "of-one")
        eventually(lambda: not one.events(limit=1)[0]["waiting"], "the event to be delivered")
        assert two.events() == []
        log = two.url("payload-logger")
        assert httpx.get(f"{log}/v1/requests/of-one", timeout=10).status_code == 404

        one.down()
        assert not _processes(one)
        assert len(_processes(two)) >= 2
        assert two.state.listening() == second
        _send(two, "of-two")
        eventually(lambda: not two.events(limit=1)[0]["waiting"], "the event to be delivered")
    finally:
        one.down()
        two.down()


def test_no_secret_is_in_logs_events_or_the_payload_log(
    stack, traffic, manifest: Callable, eventually: Callable
) -> None:
    """After requests that had them in their headers, and an object that holds one."""
    load = traffic(5)
    load.run()
    load.check()
    header = "Bearer of-a-client-0123456789"
    url = f"{stack.url('cifar10')}/v1/models/resnet32:predict"
    asked = httpx.post(
        url,
        content=load.bodies[0],
        headers={"authorization": header, "seldon-puid": "with-a-token"},
        timeout=60,
    )
    assert asked.status_code == 200
    eventually(
        lambda: (
            httpx.get(f"{stack.url('payload-logger')}/v1/requests/with-a-token").status_code == 200
        ),
        "the request in the payload log",
    )
    secret = yaml.safe_load(manifest("storage/s3-credentials.yaml").read_text())["stringData"]
    told = {
        "the control token": stack.state.token(),
        "the S3 key": secret["RCLONE_CONFIG_S3_SECRET_ACCESS_KEY"],
        "a client's header": header.split()[1],
    }
    searched = []
    allowed = {stack.state.token_file, stack.state.objects}  # mode 600, and what they are for
    for path in stack.state.folder.rglob("*"):
        if path.is_file() and path not in allowed:
            content = path.read_bytes()
            searched.append(path.name)
            for name, value in told.items():
                assert value.encode() not in content, f"{name} is in {path}"
    assert {"daemon.log", "broker.sqlite", "payloads.sqlite", "outlier-vae.log"} <= set(searched)


def _ports(stack: LocalStack) -> set[int]:
    found = stack.state.listening()
    urls = [f"http://{one}" for one in (found.control, found.gateway, found.broker)]
    urls += [f"http://{one.address}" for one in stack.status()]
    return {urlsplit(one).port for one in urls}


def _processes(stack: LocalStack) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), process.environ().get(STACK_VARIABLE, "")])
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if str(stack.state.folder) in text and process.pid != psutil.Process().pid:
            found.append(process)
    return found


def _send(stack: LocalStack, id: str) -> None:
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
