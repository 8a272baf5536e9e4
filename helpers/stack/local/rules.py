"""The PrometheusRule objects that are applied, as files that the local stack's Prometheus reads."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterable
from pathlib import Path

import yaml

from helpers.errors import ManifestError, StackError
from helpers.stack.interface import ServerStatus
from helpers.stack.local import prometheus
from helpers.stack.local.resources import PrometheusRule

log = logging.getLogger(__name__)

NOT_EVALUATED = (
    "not evaluated: the program `prometheus` is not on PATH, so there are neither its alerts nor its "
    "recorded series"
)
CHECK_SECONDS = 30.0
_GROUP = re.compile(
    r'group "(?P<group>[^"]*)", rule (?P<number>\d+), "(?P<rule>[^"]*)": (?P<why>.*)'
)


class RuleFiles:
    """Keeps one file for each PrometheusRule, and has Prometheus read them when they change.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unread = False  # Prometheus has not been told of the last change

    async def check(self, rule: PrometheusRule, origin: str) -> None:
        """Let `promtool` check the expressions and templates; without that program nothing does.

        Raises:
            ManifestError: names file, group and rule, and what is wrong.
            StackError: promtool does not end.
        """
        promtool = shutil.which("promtool")
        if promtool is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rules.yml"
            file.write_text(content(rule), encoding="utf-8")
            checking = await asyncio.create_subprocess_exec(
                promtool, "check", "rules", "--lint=none", str(file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            try:
                told, _ = await asyncio.wait_for(checking.communicate(), CHECK_SECONDS)
            except TimeoutError:
                checking.kill()
                await checking.wait()
                raise StackError(
                    f"{origin}: promtool did not check the rules within {CHECK_SECONDS:g} s."
                ) from None
        if checking.returncode:
            said = told.decode(errors="replace").replace(str(file), "")
            raise ManifestError(f"{origin}, PrometheusRule: {_reason(said)}.")

    def write(self, rules: Iterable[PrometheusRule]) -> None:
        """Make the files those of these objects.

        Raises:
            StackError: a file cannot be written.
        """
        wanted = {
            f"{one.namespace}.{one.name}{prometheus.RULES_SUFFIX}": content(one) for one in rules
        }
        try:
            if wanted:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            known = {file.name: file for file in self.folder.glob(f"*{prometheus.RULES_SUFFIX}")}
            for name, text in wanted.items():
                if name not in known or known[name].read_text(encoding="utf-8") != text:
                    half = self.folder / f"{name}.new"
                    half.write_text(text, encoding="utf-8")
                    os.replace(half, self.folder / name)
                    self._unread = True
            for name in known.keys() - wanted.keys():
                known[name].unlink()
                self._unread = True
        except OSError as problem:
            raise StackError(
                f"The rules cannot be written to {self.folder}: {problem.strerror}."
            ) from problem

    def load(self, servers: Iterable[ServerStatus]) -> None:
        """Have Prometheus read the files if they changed; one that is not ready yet, the next time."""
        if not self._unread:
            return
        for server in servers:
            # Before it is ready SIGHUP would end it.
            if server.name == prometheus.NAME and server.state == "ready" and server.pid:
                try:
                    os.kill(server.pid, signal.SIGHUP)
                except ProcessLookupError:
                    return
                self._unread = False
                log.info("Prometheus reads its rules anew")


def content(rule: PrometheusRule) -> str:
    """Return the file of rules that Prometheus reads."""
    groups = [
        group.model_dump(
            by_alias=True,
            exclude_none=True,
            exclude_defaults=True,
            exclude={"partial_response_strategy"},  # of Thanos
        )
        for group in rule.spec.groups
    ]
    return yaml.safe_dump({"groups": groups}, sort_keys=False, width=4096)


def _reason(said: str) -> str:
    """What promtool says, the first of its errors on one line."""
    for line in said.splitlines():
        found = _GROUP.search(line)
        if found:
            name = f"{found['rule']}" or f"number {found['number']}"
            return f"group {found['group']}, rule {name}: {found['why'].rstrip('.')}"
    lines = [line.strip(" :") for line in said.splitlines()]
    told = [line for line in lines if line and not re.match(r"(Checking|FAILED)", line)]
    return " ".join(told[:1]).rstrip(".") or "promtool refuses it"
