"""Containers as a cluster runs them: read-only, without capabilities, /tmp the one place to write to."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

START_SECONDS = 180.0  # from nothing to ready, on a busy machine
COMMAND_SECONDS = 120.0  # one command of the engine
GRACE_SECONDS = 20
POLL_SECONDS = 0.2
LABEL = "walkthrough.test-image"

# Limits of the machines that this is tested on: containers in a container may not raise theirs.
PODMAN = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", "--read-only-tmpfs=false")


def until(what: str, done: Callable[[], bool], seconds: float) -> None:
    """Poll `done` until it is true.

    Raises:
        AssertionError: it was not, for `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Stopped:
    """How a container ended."""

    code: int
    seconds: float


class Engine:
    """podman or docker, with the image under test.

    Args:
        command: the program with its global options.
        image: name of the image.
    """

    def __init__(self, command: Sequence[str], image: str) -> None:
        self.command = tuple(command)
        self.image = image
        self.podman = command[0] == "podman"

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one command of the engine.

        Raises:
            AssertionError: it failed, and `check` is true.
        """
        done = subprocess.run(
            [*self.command, *arguments], capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
        assert not check or done.returncode == 0, f"{' '.join(arguments)}: {done.stderr[-2000:]}"
        return done

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what the engine knows of an image or a container."""
        return json.loads(self("inspect", name).stdout)[0]

    def confined(self, read_only: bool = True) -> list[str]:
        """Return the options of `run` that stand for a pod's securityContext and its emptyDir /tmp."""
        options = ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp"]
        options += [f"--label={LABEL}", *(PODMAN if self.podman else ())]
        return [*options, "--read-only"] if read_only else options

    def run(self, *command: str, read_only: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in a new container to its end, whatever that is."""
        told = ("--no-healthcheck", *self.confined(read_only))
        return self("run", "--rm", *told, self.image, *command, check=False)

    def python(self, program: str, read_only: bool = True) -> Any:
        """Run a Python program in a new container and return the JSON that it prints last."""
        done = self.run("python", "-c", program, read_only=read_only)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    def start(
        self,
        *arguments: str,
        port: int,
        entrypoint: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> Container:
        """Start a container in the background; `port` gets a free port of this machine."""
        told = [f"--publish=127.0.0.1::{port}", *options]
        told += [f"--env={name}={value}" for name, value in (environment or {}).items()]
        if entrypoint:
            # The engine's option takes one program, a manifest's `command` several words.
            told.append(f"--entrypoint={entrypoint[0]}")
            arguments = (*entrypoint[1:], *arguments)
        done = self("run", "--detach", *self.confined(), *told, self.image, *arguments)
        return Container(self, done.stdout.split()[-1], port)


class Container:
    """A container that serves HTTP on one port."""

    def __init__(self, engine: Engine, name: str, port: int) -> None:
        self.engine = engine
        self.name = name
        self.port = port
        published = engine("port", name, str(port)).stdout.split()[0]
        self.http = httpx.Client(base_url=f"http://{published}", timeout=120)

    @property
    def address(self) -> str:
        """host:port at which other containers reach it."""
        networks = self.engine.inspect(self.name)["NetworkSettings"]
        host = networks.get("IPAddress") or next(iter(networks["Networks"].values()))["IPAddress"]
        return f"{host}:{self.port}"

    @property
    def state(self) -> dict[str, Any]:
        """Running, Pid, ExitCode and more."""
        return self.engine.inspect(self.name)["State"]

    def logs(self) -> str:
        """Return what it has said."""
        done = self.engine("logs", self.name, check=False)
        return done.stdout + done.stderr

    def answers(self, path: str) -> bool:
        """Return whether GET of the path answers 200; an ended container is an error."""
        try:
            if self.http.get(path, timeout=5).status_code == 200:
                return True
        except httpx.HTTPError:
            pass
        assert self.state["Running"], f"it ended:\n{self.logs()[-3000:]}"
        return False

    def wait(self, path: str, seconds: float = START_SECONDS) -> None:
        """Wait until GET of the path answers 200."""
        try:
            until(f"GET {path}", lambda: self.answers(path), seconds)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.logs()[-3000:]}") from None

    def healthy(self) -> bool:
        """Run the image's health check now, or, where the engine does by itself, say what it found."""
        if self.engine.podman:  # which needs systemd to do so
            return self.engine("healthcheck", "run", self.name, check=False).returncode == 0
        return self.state["Health"]["Status"] == "healthy"

    def stop(self) -> Stopped:
        """Stop it as a cluster does: SIGTERM, and SIGKILL after GRACE_SECONDS."""
        begun = time.monotonic()
        self.engine("stop", f"--time={GRACE_SECONDS}", self.name)
        return Stopped(self.state["ExitCode"], time.monotonic() - begun)

    def remove(self) -> None:
        """Remove it, running or not."""
        self.http.close()
        self.engine("rm", "--force", "--volumes", self.name, check=False)
