"""One server as it should run: what the supervisor is told."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

PLACEHOLDERS = ("port", "grpc_port", "metrics_port", "folder")
LOOPBACK = {"SERVING_HOST": "127.0.0.1"}  # in the environment of every server of ours
BRACE = "brace"  # `{brace}` stands for `{`

_PLACEHOLDER = re.compile(rf"\{{(?=(?:{'|'.join((*PLACEHOLDERS, BRACE))})\}})")


def literal(text: str) -> str:
    """Return somebody's text for use in a spec: a `{port}` in it stays just that."""
    return _PLACEHOLDER.sub(f"{{{BRACE}}}", text)


@dataclass(frozen=True)
class ServerSpec:
    """One server process.

    Args:
        name: unique; the name its Deployment has on a cluster.
        owner: the object that asks for it, `SeldonDeployment/cifar10`.
        command: program and arguments; `{port}` stands for the HTTP port, `{grpc_port}` and
            `{metrics_port}` for further free ports where the program insists on having them, and
            `{folder}` for a folder of its own that lasts as long as the spec does. Text that
            comes from elsewhere goes through `literal` first.
        environment: added to the supervisor's own; the same placeholders.
        files: path inside `{folder}` -> content, written before the start.
        ready_path: GET of it answers 200 once the server can serve.
        metrics_path: where Prometheus scrapes; None where it does not.
        metrics_placeholder: the port that serves metrics_path: "port" or "metrics_port".
        labels: added to every scraped sample.
        recreate: stop the old process before the new one starts (a state folder, a window in memory);
            otherwise the new one is ready first.
        stop_seconds: from SIGTERM to SIGKILL.
        image: of the manifest, for status and metrics.
    """

    name: str
    owner: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/ready"
    metrics_path: str | None = "/metrics"
    metrics_placeholder: str = "port"
    labels: Mapping[str, str] = field(default_factory=dict)
    recreate: bool = False
    stop_seconds: float = 15.0
    image: str = ""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the process has to be another one."""
        content = json.dumps(asdict(self), sort_keys=True, default=dict)
        return hashlib.sha256(content.encode()).hexdigest()[:16]
