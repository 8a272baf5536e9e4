"""The local stack as a notebook or a shell sees it; starts the daemon on first use."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from helpers import artifacts
from helpers.errors import ManifestError, StackError
from helpers.metrics import Samples
from helpers.serving.common.polling import WaitError, wait_for
from helpers.stack import documents
from helpers.stack.interface import NAMESPACE, WAIT_SECONDS, Applied, ServerStatus, Stack
from helpers.stack.local import prometheus
from helpers.stack.local.state import VARIABLE, Listening, State, code_version

START_SECONDS = 60.0  # a busy machine; an idle one needs two
STOP_SECONDS = 60.0
TIMEOUT = httpx.Timeout(30.0, connect=2.0)


class LocalStack(Stack):
    """Processes on this machine.

    Args:
        dataset: whose artefacts storage URIs of CIFAR-10 mean.
        folder: of its state; $STACK_DIR or runs/stack by default.
    """

    backend = "local"

    def __init__(self, dataset: str = documents.DATASET, folder: Path | None = None) -> None:
        self.dataset = dataset
        self.state = State(folder)
        self._http = httpx.Client(timeout=TIMEOUT, trust_env=False)
        self._told = False
        self._child: subprocess.Popen[bytes] | None = None  # the daemon, where it was started here

    # Lifetime

    def up(self) -> Listening:
        """Start the daemon unless one runs, and return where it listens.

        Raises:
            StackError: it does not start, or the one that runs serves other artefacts.
        """
        found = self._running()
        if found is None:
            found = self._start()
        wanted = str(artifacts.root().resolve())
        if found.artifacts != wanted:
            raise StackError(
                f"The local stack that runs serves the artefacts in {found.artifacts}, not those in "
                f"{wanted}. Stop it with `python -m helpers.stack down`, or give this one a state of "
                f"its own with ${VARIABLE}."
            )
        if found.code != code_version() and not self._told:
            self._told = True
            print(
                "The local stack runs older code than lies here: `make down` ends it.",
                file=sys.stderr,
            )
        return found

    @property
    def is_up(self) -> bool:
        """Whether the daemon runs."""
        return self.state.is_running()

    @property
    def is_outdated(self) -> bool:
        """Whether the daemon was started from other code than lies here now."""
        found = self.state.listening()
        return found is not None and found.code != code_version()

    def _running(self) -> Listening | None:
        if not self.state.is_running():
            return None
        # It may be starting, or another notebook may have started it this moment.
        return self._wait_until_it_says(START_SECONDS)

    def _start(self) -> Listening:
        self.state.make()
        with self.state.log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "helpers.stack.local.daemon", str(self.state.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=documents.ROOT,
                start_new_session=True,  # Ctrl-C in the terminal is not for it
            )
        return self._wait_until_it_says(START_SECONDS, self._child)

    def _wait_until_it_says(
        self, seconds: float, process: subprocess.Popen[bytes] | None = None
    ) -> Listening:
        def said() -> Listening | None:
            ended = process is not None and process.poll() is not None
            if ended and not self.state.is_running():
                raise StackError(f"The local stack ended at once: {self._last_lines()}")
            found = self.state.listening()
            return found if found is not None and _exists(found.pid) else None

        try:
            return wait_for(said, "the local stack to start", seconds=seconds, errors=())
        except WaitError as problem:
            raise StackError(
                f"The local stack did not start within {seconds:g} s: {self._last_lines()}"
            ) from problem

    def _last_lines(self, count: int = 5) -> str:
        with contextlib.suppress(OSError):
            lines = self.state.log.read_text(encoding="utf-8", errors="replace").splitlines()
            return f"{' | '.join(lines[-count:])} (whole log: {self.state.log})"
        return f"no log at {self.state.log}"

    def down(self) -> None:
        """Stop every process and remove the state: events, payloads, metrics and logs."""
        found = self.state.listening()
        if self.state.is_running():
            if found is not None:
                with contextlib.suppress(StackError):
                    self._call("POST", "/v1/down")
            self._wait_for_end(found)
        if self._child is not None:
            self._child.wait(STOP_SECONDS)  # not a zombie for as long as this process lives
            self._child = None
        shutil.rmtree(self.state.folder, ignore_errors=True)
        if self.state.folder.exists():
            raise StackError(f"{self.state.folder} cannot be removed; remove it by hand.")

    def _wait_for_end(self, found: Listening | None) -> None:
        try:
            wait_for(
                lambda: not self.state.is_running(), "the local stack to stop", seconds=STOP_SECONDS
            )
        except WaitError as problem:
            if found is None:
                raise StackError(f"{problem} Its log: {self._last_lines()}") from problem
            os.kill(found.pid, signal.SIGKILL)  # its watchdog ends the servers
            wait_for(
                lambda: not self.state.is_running(), "the local stack to be killed", seconds=10.0
            )

    # Manifests

    def apply(self, *paths: str | Path) -> list[Applied]:
        return self._change("/v1/apply", paths)

    def delete(self, *paths: str | Path) -> list[Applied]:
        if not self.is_up and not self.state.objects.exists():
            documents.read(paths, self.dataset)  # a wrong path is an error here as well
            return []
        return self._change("/v1/delete", paths)

    def _change(self, path: str, paths: Sequence[str | Path]) -> list[Applied]:
        read = documents.read(paths, self.dataset)
        self.up()
        content = {"documents": [{"origin": one.origin, "content": one.content} for one in read]}
        return [Applied(**one) for one in self._call("POST", path, json=content)["applied"]]

    def wait(self, *names: str, timeout: float = WAIT_SECONDS) -> None:
        unready: list[dict[str, Any]] = []

        def is_ready() -> bool:
            nonlocal unready
            status = self._call("GET", "/v1/status")
            unready = _unready(status, names)
            return not unready

        try:
            wait_for(is_ready, "the servers to be ready", seconds=timeout, first=0.05, every=0.25)
        except WaitError as problem:
            told = "; ".join(
                f"{one['name']} is {one['state']} for {one['seconds']:.0f} s, {one['restarts']} "
                f"restarts, last line: {one['last_line'] or '-'}"
                for one in unready
            )
            raise StackError(
                f"Not ready after {timeout:g} s: {told}. `python -m helpers.stack logs "
                f"{unready[0]['name']}` shows more."
            ) from problem

    # Questions

    def status(self) -> list[ServerStatus]:
        if not self.is_up:
            return []
        return [ServerStatus(**one) for one in self._call("GET", "/v1/status")["servers"]]

    def logs(self, name: str, lines: int = 50) -> str:
        return self._get(f"/v1/logs/{quote(name, safe='')}", lines=lines).text

    def url(self, name: str) -> str:
        urls = self._call("GET", "/v1/urls")
        for key in (f"SeldonDeployment/{name}", f"Service/{name}", f"Broker/{name}", name):
            if key in urls:
                return urls[key]
        explained, suffix, predictor = name.partition("-explainer/")
        if suffix and f"SeldonDeployment/{explained}" in urls:
            return f"{urls[f'SeldonDeployment/{explained}']}-explainer/{predictor}"
        known = ", ".join(sorted(key.partition("/")[2] or key for key in urls)) or "nothing yet"
        raise StackError(f"Nothing here is called {name!r}; applied: {known}.")

    def metrics(self, name: str) -> Samples:
        if f"SeldonDeployment/{name}" in self._call("GET", "/v1/urls"):
            name = "gateway"
        return Samples.parse(self._get(f"/v1/metrics/{quote(name, safe='')}").text)

    def events(
        self,
        *,
        broker: str = "default",
        type: str | None = None,
        request_id: str | None = None,
        limit: int = 100,
        data: bool = False,
    ) -> list[dict[str, Any]]:
        query = {
            "namespace": NAMESPACE,
            "broker": broker,
            "type": type,
            "requestid": request_id,
            "limit": limit,
            "data": int(data),
        }
        given = {key: value for key, value in query.items() if value is not None}
        return self._get("/control/v1/events", of="broker", **given).json()["events"]

    def copy(self, name: str, path: str, to: Path) -> Path:
        folders = sorted(
            self.state.folder.glob(f"servers/{name}-{'[0-9a-f]' * 16}{path}"),
            key=lambda one: one.stat().st_mtime,
        )
        if not folders:
            raise StackError(f"The server {name} has no folder {path}.")
        return Path(shutil.copytree(folders[-1], to))

    @property
    def prometheus_url(self) -> str | None:
        if prometheus.find_prometheus() is None:
            return None
        return self._call("GET", "/v1/urls").get(prometheus.NAME)

    @property
    def prometheus_note(self) -> str:
        if prometheus.find_prometheus() is None:
            return prometheus.MISSING
        if self.prometheus_url is None:
            return "Prometheus does not run; `python -m helpers.stack status` says how it is."
        return ""

    # The control API

    def _call(self, method: str, path: str, **content: Any) -> Any:
        return self._request(method, path, "control", **content).json()

    def _get(self, path: str, of: str = "control", **query: Any) -> httpx.Response:
        return self._request("GET", path, of, params=query)

    def _request(self, method: str, path: str, of: str, **content: Any) -> httpx.Response:
        found = self.state.listening()
        if found is None or not self.state.is_running():
            raise StackError(
                "The local stack is not running: apply a manifest first, or run "
                "`python -m helpers.stack up`."
            )
        headers = {"authorization": f"Bearer {self.state.token()}"}
        url = f"http://{getattr(found, of)}{path}"
        try:
            answer = self._http.request(method, url, headers=headers, **content)
        except httpx.HTTPError as problem:
            told = str(problem) or type(problem).__name__
            raise StackError(
                f"The local stack does not answer: {told}. Its log: {self._last_lines()}"
            ) from problem
        if answer.is_success:
            return answer
        try:
            told = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            told = answer.text[:200]
        raise (ManifestError if answer.status_code == 422 else StackError)(told)


def _unready(status: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The servers that `names` wait for, or all that objects wait for."""
    servers = {one["name"]: one for one in status["servers"]}
    objects = status["objects"]
    for name in names:
        if name not in servers and not any(one["name"] == name for one in objects):
            known = (
                ", ".join(sorted({*servers, *(one["name"] for one in objects)})) or "nothing yet"
            )
            raise StackError(f"Nothing here is called {name!r}; there is {known}.")
    waiting = [
        server
        for one in objects
        for server in one["waits_for"]
        if not names or one["name"] in names or server in names
    ]
    gone = {"state": "not there", "seconds": 0.0, "restarts": 0, "last_line": ""}
    return [servers.get(name) or {"name": name, **gone} for name in dict.fromkeys(waiting)]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
