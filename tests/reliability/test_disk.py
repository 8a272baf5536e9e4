"""A disk that is full, one that cannot be written, and files that are damaged."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from helpers.errors import StackError
from helpers.stack.local.client import LocalStack

pytestmark = pytest.mark.timeout(180)

PATH = "/seldon/default/model/v1/models/m:predict"
BODY = json.dumps({"instances": [[0.123456789] * 4000]}).encode()  # 48 kB
CONTROL = {"authorization": "Bearer secret"}


def value(url: str, name: str) -> float:
    """The sum of a metric's samples."""
    lines = httpx.get(url, timeout=10).text.splitlines()
    return sum(float(one.split()[-1]) for one in lines if one.startswith(name))


def whole(path: Path) -> bool:
    """Whether SQLite finds nothing wrong with a file."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    finally:
        database.close()


def test_a_full_disk_costs_no_prediction_and_no_event(
    program: Callable, slow_server: Callable, disk: Callable, eventually: Callable, tmp_path: Path
) -> None:
    folder = disk("size=3m")
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    broker = program(
        *("-m", "helpers.serving.broker", "--port=0", f"--token-file={token}"),
        f"--state={folder / 'broker'}",
    ).listening()
    log = program(
        "-m", "helpers.serving.payload_log", "--port=0", f"--state={folder / 'log'}"
    ).listening()
    httpx.put(f"{broker}/control/v1/brokers/default/default", headers=CONTROL).raise_for_status()
    trigger = {"broker": "default", "subscriber": log, "delivery": {"backoffDelay": "PT0.05S"}}
    httpx.put(
        f"{broker}/control/v1/triggers/default/log", headers=CONTROL, json=trigger
    ).raise_for_status()
    logger = {"url": f"{broker}/default/default", "mode": "all"}
    model = {"name": "main", "model": "m", "url": slow_server(8, 0.001), "logger": logger}
    one = {"namespace": "default", "name": "d", "protocol": "tensorflow", "predictors": [model]}
    config = tmp_path / "routes.json"
    config.write_text(json.dumps({"deployments": [one | {"name": "model"}]}))
    gateway = program(
        *("-m", "helpers.serving.gateway", "--port=0", f"--config={config}"),
        f"--spool={folder / 'spool'}",
    )
    url = gateway.listening()

    with httpx.Client(base_url=url, timeout=30) as client:
        for number in range(150):  # 7 MB
            answer = client.post(PATH, content=BODY, headers={"seldon-puid": f"p{number}"})
            assert answer.status_code == 200, answer.text
    assert httpx.get(f"{broker}/ready").status_code == 503
    assert "full" in httpx.get(f"{broker}/ready").text
    assert value(f"{url}/prometheus", "gateway_spool_errors_total") > 0
    assert value(f"{url}/prometheus", "gateway_events_waiting") > 50
    assert "cannot be written" in gateway.said()

    disk("size=200m")
    index = "inference-log-seldon-default-model-main"

    def complete() -> bool:
        found = httpx.get(f"{log}/v1/counts", timeout=10).json()["counts"].get(index, {})
        return found.get("request") == found.get("response") == 150

    eventually(complete, "all requests and responses to be in the payload log", 90)
    eventually(lambda: httpx.get(f"{broker}/ready").status_code == 200, "the broker to be ready")
    assert value(f"{url}/prometheus", "gateway_events_dropped_total") == 0
    for name in ("broker/broker.sqlite", "log/payloads.sqlite", "spool/spool.sqlite"):
        assert whole(folder / name), name


@pytest.mark.faults
def test_a_stack_that_cannot_write_predicts_and_catches_up(
    stack, traffic, eventually, capsys
) -> None:
    """RLIMIT_FSIZE on the daemon: gateway and broker cannot write, the servers can."""
    daemon = psutil.Process(stack.state.listening().pid)
    load = traffic(400)
    _, hard = daemon.rlimit(psutil.RLIMIT_FSIZE)
    load.run(lambda: daemon.rlimit(psutil.RLIMIT_FSIZE, (1, hard)))
    broker = f"http://{stack.state.listening().broker}"
    assert httpx.get(f"{broker}/ready", timeout=10).status_code == 503
    daemon.rlimit(psutil.RLIMIT_FSIZE, (hard, hard))
    counted = load.check()
    with capsys.disabled():
        print(f"\n{counted}")
    assert load.refused == {}
    assert httpx.get(f"{broker}/ready", timeout=10).status_code == 200
    for name in ("broker/broker.sqlite", "gateway/spool.sqlite"):
        assert whole(stack.state.folder / name), name


def test_a_folder_that_cannot_be_written_is_said(disk: Callable) -> None:
    folder = disk("size=1m,ro")
    with pytest.raises(StackError, match=f"cannot use {folder}/state: Read-only file system"):
        LocalStack(folder=folder / "state").up()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("broker", ["--state={folder}", "--token-file={token}"]),
        ("payload_log", ["--state={folder}"]),
        ("gateway", ["--spool={folder}", "--config={config}"]),
    ],
)
def test_a_server_without_a_folder_to_write_ends_with_one_sentence(
    program: Callable, disk: Callable, tmp_path: Path, module: str, arguments: list[str]
) -> None:
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "routes.json").write_text("{}")
    named = {
        "folder": disk("size=1m,ro") / "state",
        "token": tmp_path / "token",
        "config": tmp_path / "routes.json",
    }
    ending = program(
        "-m", f"helpers.serving.{module}", "--port=0", *(one.format(**named) for one in arguments)
    )
    assert ending.ended() == 1
    said = ending.said()
    assert "Read-only file system" in said
    assert str(named["folder"]) in said
    assert "Traceback" not in said


def test_a_state_that_is_damaged_is_said_or_set_aside(tmp_path: Path) -> None:
    """What the broker has is not to be thrown away unasked; who starts it is told what to do."""
    stack = LocalStack(folder=tmp_path / "state")
    (tmp_path / "state" / "broker").mkdir(parents=True)
    (tmp_path / "state" / "broker" / "broker.sqlite").write_bytes(os.urandom(50_000))
    try:
        with pytest.raises(StackError, match=r"broker\.sqlite cannot be opened.*Move it away"):
            stack.up()
        assert "Traceback" not in stack.state.log.read_text()
    finally:
        stack.down()
