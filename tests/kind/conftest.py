"""kind/up and kind/down in a repository of their own, with fake docker, kind, kubectl and helm."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("docker", "kind", "kubectl", "helm")
# All that the scripts may use beside those: what a bare Linux or macOS has.
TOOLS = [
    *(
        "awk",
        "basename",
        "bash",
        "cat",
        "cksum",
        "cut",
        "df",
        "dirname",
        "env",
        "find",
        "grep",
        "head",
        "mkdir",
        "mv",
    ),
    *("printf", "rm", "sed", "sha256sum", "sh", "sleep", "sort", "tail", "tr", "xargs"),
]
LIMIT = 20  # seconds; a script that waits for what never comes


class Sandbox:
    """A copy of kind/ in a small repository, and what the fake programs remember.

    Args:
        folder: an empty one.
        root: of the repository that kind/ is copied from.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.repository = folder / "repository"
        self.fake = folder / "fake"
        self.bin = folder / "bin"
        self.proc = folder / "proc"
        for path in (self.repository, self.fake, self.bin, self.proc / "sys/fs/inotify"):
            path.mkdir(parents=True)
        for name in ("kind", "manifests"):
            shutil.copytree(root / name, self.repository / name)
        shutil.copy(root / ".dockerignore", self.repository)
        for name in ("helpers", "artifacts"):
            (self.repository / name).mkdir()
            (self.repository / name / "a.txt").write_text(name)
        build = (
            self.repository / "kind/image/build.sh"
        )  # which looks for a Python, and for pip's settings
        build.write_text('#!/bin/sh\ntag=$1\nshift\nexec docker build --tag "$tag" "$@" .\n')
        build.chmod(0o755)
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
        for name in PROGRAMS:
            (self.bin / name).symlink_to(Path(__file__).with_name("fake.sh"))
        self.say("version-docker", "Docker version 28.2.2, build e6534b4")
        self.say("version-kind", "kind v0.33.0 go1.26.0 linux/amd64")
        self.say("version-kubectl", "Client Version: v1.34.1\nKustomize Version: v5.7.1")
        self.say("version-helm", "v3.19.0+g3d8990f")
        self.docker_info()
        self.free_memory(30)
        self.free_disk(80)
        self.inotify(524288, 512)
        self._free_ports()

    def say(self, name: str, text: str) -> None:
        """Write what a fake program shall say."""
        (self.fake / name).write_text(text + "\n")

    def docker_info(
        self,
        memory: int = 33,
        cpus: int = 8,
        architecture: str = "x86_64",
        system: str = "Debian GNU/Linux 12",
    ) -> None:
        """Let docker say this of itself; memory in GB."""
        self.say("docker-info", f"{memory}000000000|{cpus}|{architecture}|{system}|{self.fake}")

    def free_memory(self, gigabytes: int) -> None:
        (self.proc / "meminfo").write_text(
            f"MemTotal: 1 kB\nMemAvailable: {gigabytes * 10**9 // 1024 + 1} kB\n"
        )

    def free_disk(self, gigabytes: int) -> None:
        (self.bin / "df").unlink()
        free = gigabytes * 10**9 // 1024 + 1
        (self.bin / "df").write_text(f"#!/bin/sh\nprintf 'head\\n/dev/x 1 1 {free} 1%% /\\n'\n")
        (self.bin / "df").chmod(0o755)

    def inotify(self, watches: int, instances: int) -> None:
        (self.proc / "sys/fs/inotify/max_user_watches").write_text(f"{watches}\n")
        (self.proc / "sys/fs/inotify/max_user_instances").write_text(f"{instances}\n")

    def _free_ports(self) -> None:
        path = self.repository / "kind/versions.env"
        taken = [socket.socket() for _ in range(5)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        free = iter([each.getsockname()[1] for each in taken])
        path.write_text(
            re.sub(
                r"(?m)^(PORT_\w+)=.*", lambda match: f"{match[1]}={next(free)}", path.read_text()
            )
        )
        for each in taken:
            each.close()

    def port(self, name: str) -> int:
        """Return a port of the sandbox's versions.env, such as INGRESS."""
        text = (self.repository / "kind/versions.env").read_text()
        return int(re.findall(rf"(?m)^PORT_{name}=(\d+)$", text)[0])

    def start(self, script: str, **environment: str) -> subprocess.Popen[str]:
        """Start kind/up or kind/down, in a process group of its own."""
        return subprocess.Popen(
            [self.repository / "kind" / script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={
                "PATH": str(self.bin),
                "HOME": str(self.fake),
                "FAKE": str(self.fake),
                "PROC": str(self.proc),
                "POLL": "0.01",
                **environment,
            },
        )

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run kind/up or kind/down to its end, with all it says in `stdout`."""
        process = self.start(script, **environment)
        try:
            output, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, "")

    def calls(self, *parts: str) -> list[str]:
        """Return the calls of the fake programs that hold all of these parts."""
        path = self.fake / "calls"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [line for line in lines if all(part in line for part in parts)]

    def changes(self) -> list[str]:
        """Return the calls that change something, in the order in which they were made."""
        changing = (
            r"docker (build|start|image rm|network rm)|kind (create|delete|load)|"
            r"helm (upgrade|uninstall|rollback)|kubectl .*?\b(apply|replace|annotate|delete)\b"
        )
        return [call for call in self.calls() if re.match(changing, call)]

    def become(self, other: Sandbox) -> None:
        """Be as another sandbox is now, without its calls."""
        for name in ("repository", "fake"):
            shutil.rmtree(getattr(self, name))
            shutil.copytree(getattr(other, name), getattr(self, name))
        self.forget()

    def forget(self) -> None:
        """Forget the calls, not the cluster."""
        (self.fake / "calls").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def make_sandbox() -> Callable[[Path], Sandbox]:
    """Return make_sandbox(folder)."""
    return lambda folder: Sandbox(folder, ROOT)


@pytest.fixture
def sandbox(tmp_path: Path, make_sandbox: Callable[[Path], Sandbox]) -> Iterator[Sandbox]:
    """kind/ of a repository of its own; nothing that it started outlives the test."""
    made = make_sandbox(tmp_path)
    yield made
    hanging = made.fake / "hanging"
    for pid in hanging.read_text().split() if hanging.is_file() else []:
        command = Path(f"/proc/{pid}/cmdline")
        if command.is_file() and b"sleep" in command.read_bytes():
            os.kill(int(pid), signal.SIGKILL)
            pytest.fail(f"process {pid} outlived its script")


@pytest.fixture(scope="session")
def whole(
    tmp_path_factory: pytest.TempPathFactory, make_sandbox: Callable[[Path], Sandbox]
) -> SimpleNamespace:
    """One `up` of everything and a second one, with their calls; the sandbox as they leave it."""
    sandbox = make_sandbox(tmp_path_factory.mktemp("whole"))
    first = sandbox.run("up")
    calls, changes = sandbox.calls(), sandbox.changes()
    sandbox.forget()
    second = sandbox.run("up")
    return SimpleNamespace(
        first=first.stdout,
        first_status=first.returncode,
        calls=calls,
        changes=changes,
        second=second.stdout,
        second_status=second.returncode,
        second_changes=sandbox.changes(),
        sandbox=sandbox,
    )


@pytest.fixture
def standing(whole: SimpleNamespace, sandbox: Sandbox) -> Sandbox:
    """A sandbox of the test's own in which the whole cluster stands."""
    sandbox.become(whole.sandbox)
    return sandbox


@pytest.fixture
def versions(root: Path) -> dict[str, str]:
    """kind/versions.env."""
    lines = (root / "kind/versions.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Return until(condition): waits, for ten seconds at most."""
    import time

    def wait(condition: Callable[[], object]) -> None:
        limit = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < limit, "it never came"
            time.sleep(0.02)

    return wait
