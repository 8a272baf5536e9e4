"""Which program stands in for an image, and how its port is told.

The images are those of `manifests/`. Arguments pass unchanged, but for the port to listen on, paths of
mounted volumes, and addresses.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise

from helpers.errors import ManifestError
from helpers.stack.local.resources import Container
from helpers.stack.local.spec import literal

SERVING_IMAGE = "walkthrough/serving"  # ours
DETECT_IMAGE = "seldonio/alibi-detect-server"


@dataclass(frozen=True)
class Program:
    """A module of ours: what Prometheus scrapes of it, and the flag of its port."""

    module: str
    port_flag: str
    metrics_path: str


DETECT = Program("helpers.serving.detect", "--http_port", "/v1/metrics")
PAYLOAD_LOG = Program("helpers.serving.payload_log", "--port", "/metrics")
EXPLAIN = Program("helpers.serving.explain", "--http_port", "/metrics")
EXPLAIN_V2 = Program("helpers.serving.mlserver_explain", "", "/metrics")  # its port is a variable

_MODULES = {program.module: program for program in (DETECT, PAYLOAD_LOG, EXPLAIN)}


def check_explainer(image: str, command: list[str], program: Program, place: str) -> None:
    """Refuse an explainer's command that is not the one of `program` in our image.

    Raises:
        ManifestError: another command, or one for an image that is not ours.
    """
    if command and (
        split_image(image)[0] != SERVING_IMAGE
        or command[0] not in ("python", "python3")
        or command[1:] != ["-m", program.module]
    ):
        raise ManifestError(
            f"{place}.command: an explainer of this protocol has its image's own command, or "
            f"[python, -m, {program.module}] of {SERVING_IMAGE}."
        )


def split_image(image: str) -> tuple[str, str]:
    """Return repository and version of an image; the version is "" where it has none."""
    name = image.partition("@")[0]
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "")


def of_container(container: Container, place: str) -> tuple[Program, list[str]]:
    """Return the program for a container, and its arguments with `{port}` for the port.

    Raises:
        ManifestError: an image or a command that nothing here stands in for.
    """
    repository, _ = split_image(container.image or "")
    if repository == DETECT_IMAGE:
        if container.command:
            raise ManifestError(
                f"{place}.command: the image {DETECT_IMAGE} has its own; leave it out."
            )
        _check_port(container, container.args, DETECT.port_flag, place)
        return DETECT, with_port(container.args, DETECT.port_flag)
    if repository != SERVING_IMAGE:
        raise ManifestError(
            f"{place}.image: the local stack has no program for {container.image or 'no image'}; it has "
            f"them for {DETECT_IMAGE} and {SERVING_IMAGE}."
        )
    words = [*container.command, *container.args]
    if (
        len(words) < 3
        or words[0] not in ("python", "python3")
        or words[1] != "-m"
        or words[2] not in _MODULES
    ):
        raise ManifestError(
            f"{place}.command: of {SERVING_IMAGE} the local stack runs [python, -m, MODULE] with MODULE "
            f"one of {', '.join(_MODULES)}."
        )
    program = _MODULES[words[2]]
    _check_port(container, words[3:], program.port_flag, place)
    return program, with_port(words[3:], program.port_flag)


def _check_port(container: Container, arguments: list[str], flag: str, place: str) -> None:
    """Refuse another port than the container says: in a cluster its Service would lead nowhere."""
    declared = [str(one.container_port) for one in container.ports]
    told = [word.removeprefix(f"{flag}=") for word in arguments if word.startswith(f"{flag}=")]
    told += [after for word, after in pairwise(arguments) if word == flag]
    for port in told:
        if declared and port not in declared:
            raise ManifestError(
                f"{place}.args: {flag} is {port[:20]}, but the container's ports are "
                f"{', '.join(declared)}."
            )


def with_port(arguments: list[str], flag: str) -> list[str]:
    """Return the arguments with `{port}` as the value of `flag`, `--flag=8080` or `--flag 8080`.

    What else looks like a placeholder is text. The address to listen on is the loopback.
    """
    told = [literal(word) for word in arguments]
    for own, value in ((flag, "{port}"), ("--host", "127.0.0.1")):
        for position, word in enumerate(told):
            if word == own and position + 1 < len(told):
                told[position + 1] = value
            elif word.startswith(f"{own}="):
                told[position] = f"{own}={value}"
    if not any(word == flag or word.startswith(f"{flag}=") for word in told):
        told.insert(0, f"{flag}={{port}}")
    return told


def command(program: Program, arguments: list[str]) -> tuple[str, ...]:
    """Return the whole command."""
    return (sys.executable, "-m", program.module, *arguments)
