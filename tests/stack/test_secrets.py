"""No secret of a deployment shows where somebody else may look: logs, events, the audit trail, command lines."""

from __future__ import annotations

import contextlib
import json
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from helpers import artifacts
from helpers.data import load_table
from helpers.stack.local.client import LocalStack
from tests.monitoring.loans import explain

pytestmark = pytest.mark.timeout(240)

MANIFESTS = {
    "keys": "explainers/production-keys.yaml",
    "storage": "storage/s3-credentials.yaml",
    "terms": "explainers/production-terms.yaml",
    "explainer": "explainers/production-kernel-shap.yaml",
}
KEPT = {"token", "objects.json"}  # what the daemon needs to come back with all that was applied
LOAN = load_table("credit_risk").x_test[:1]


@pytest.fixture(scope="module")
def hidden(stack: LocalStack, manifest, tmp_path_factory) -> Iterator[dict[str, str]]:
    """What nobody may see, by name: keys made up here, of a running explainer, and the stack's own token."""
    if not artifacts.exists("credit_risk", "kernel_shap"):
        pytest.skip("artifacts/credit_risk/kernel_shap is not here")
    folder = tmp_path_factory.mktemp("secrets")
    made: dict[str, str] = {}
    files: list[Path] = []
    for name, path in MANIFESTS.items():
        content = yaml.safe_load(manifest(path).read_text())
        if content["kind"] == "Secret":
            for key in content["stringData"]:
                if key.endswith("_KEY"):
                    made[key] = content["stringData"][key] = secrets.token_hex(24)
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump(content))
    assert {"AUDIT_KEY", "SIGNING_KEY", "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY"} <= set(made)
    made["the stack's token"] = (stack.state.folder / "token").read_text().strip()
    made["a client's token"] = secrets.token_hex(24)
    try:
        stack.apply(*files)
        stack.wait("credit-risk", timeout=120)
        yield made
    finally:
        stack.delete(*(file for file in files if file.stem != "storage"))
        stack.apply(manifest(MANIFESTS["storage"]))


@pytest.fixture(scope="module")
def used(stack: LocalStack, hidden: dict[str, str]) -> None:
    """Requests that are answered and requests that are refused, from a client that shows its own token."""
    authorized = {"authorization": f"Bearer {hidden["a client's token"]}"}
    assert explain(stack, LOAN, headers=authorized).status_code == 200
    assert explain(stack, LOAN[:, :2], headers=authorized).status_code == 400
    url = f"{stack.url('cifar10')}/v1/models/resnet32:predict"
    for body, status in ((b'{"instances": [[1, 2]]}', 400), (b"{", 400)):
        refused = httpx.post(url, content=body, headers=authorized, timeout=30, trust_env=False)
        assert refused.status_code == status
    wrong = {"authorization": "Bearer nobody"}
    control = json.loads((stack.state.folder / "stack.json").read_text())["control"]
    refused = httpx.get(f"http://{control}/v1/targets", headers=wrong, trust_env=False)
    assert refused.status_code == 401


def shown(hidden: dict[str, str], content: str | bytes) -> list[str]:
    """The names of the secrets that a text shows."""
    content = content if isinstance(content, bytes) else content.encode()
    return [name for name, value in hidden.items() if value.encode() in content]


@pytest.mark.usefixtures("used")
def test_no_file_of_the_stack_shows_one(stack: LocalStack, hidden: dict[str, str]) -> None:
    files = [path for path in stack.state.folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"daemon.log", "payloads.sqlite", "broker.sqlite"} <= names
    assert any("credit-risk" in path.name and path.suffix == ".log" for path in files)
    assert any("audit" in path.name for path in files)
    told = {}
    for path in files:
        if path.name not in KEPT:
            # Prometheus and SQLite may have removed it meanwhile.
            with contextlib.suppress(FileNotFoundError):
                told[str(path)] = shown(hidden, path.read_bytes())
    assert {path: of for path, of in told.items() if of} == {}


def test_what_keeps_them_is_for_the_user_alone(stack: LocalStack, hidden: dict[str, str]) -> None:
    assert shown(hidden, (stack.state.folder / "objects.json").read_bytes())
    for path in (stack.state.folder, *(stack.state.folder / name for name in KEPT)):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@pytest.mark.usefixtures("used")
def test_neither_events_nor_logs_nor_command_lines_show_one(
    stack: LocalStack, hidden: dict[str, str]
) -> None:
    assert shown(hidden, json.dumps(stack.events(limit=1000), default=str)) == []
    pids = {one.name: one.pid for one in stack.status() if one.pid is not None}
    assert "credit-risk-default-explainer" in pids
    for name, pid in pids.items():
        assert shown(hidden, "\0".join(psutil.Process(pid).cmdline())) == [], name
        assert shown(hidden, stack.logs(name, 10_000)) == [], name
