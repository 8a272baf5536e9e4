"""A manifest's containers of our image, as arguments of the engine: command, args, env and volumes as written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

IMAGE = "walkthrough/serving:"


@dataclass(frozen=True)
class Pod:
    """One container of a manifest."""

    container: Mapping[str, Any]
    volumes: tuple[str, ...] = ()
    explainer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> tuple[str, ...]:
        """`args`."""
        return tuple(self.container.get("args", ()))

    @property
    def command(self) -> tuple[str, ...]:
        """`command`."""
        return tuple(self.container["command"])

    @property
    def environment(self) -> dict[str, str]:
        """`env`, where it holds values."""
        return {
            one["name"]: one["value"] for one in self.container.get("env", ()) if "value" in one
        }

    @property
    def options(self) -> list[str]:
        """Its empty folders beside /tmp, and its user."""
        user = self.container["securityContext"]["runAsUser"]
        folders = [f"--tmpfs={path}:mode=0777" for path in self.volumes if path != "/tmp"]
        return [f"--user={user}", *folders]


def read(manifest: Path) -> Iterator[Pod]:
    """Yield the containers of our image in a manifest."""
    for document in yaml.safe_load_all(manifest.read_text(encoding="utf-8")):
        yield from _find(document)


def _find(part: Any) -> Iterator[Pod]:
    """Yield them from any depth: a pod's containers, and an explainer's containerSpec."""
    if isinstance(part, list):
        for one in part:
            yield from _find(one)
    elif isinstance(part, dict):
        empty = {volume["name"] for volume in part.get("volumes", ()) if "emptyDir" in volume}
        for container in part.get("containers", ()):
            if str(container.get("image")).startswith(IMAGE):
                mounts = container.get("volumeMounts", ())
                folders = tuple(one["mountPath"] for one in mounts if one["name"] in empty)
                yield Pod(container, folders)
        spec = part.get("containerSpec", {})
        if str(spec.get("image")).startswith(IMAGE):
            yield Pod(spec, explainer=part)
        for key, value in part.items():
            if key not in ("containers", "containerSpec"):
                yield from _find(value)
