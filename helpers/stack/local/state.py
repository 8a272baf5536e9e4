"""Where the local stack keeps what it needs: `runs/stack` of this checkout, or `$STACK_DIR`.

stack.json     where the daemon listens
token          of its control API, readable by the user alone
lock           held as long as the daemon runs, however it ends
objects.json   what has been applied, so that a daemon that was killed comes back with it
daemon.log, logs/, servers/, broker/, gateway/, prometheus/, rules/
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from helpers.errors import StackError
from helpers.serving.common.errors import ServingError
from helpers.serving.common.tokens import read_token
from helpers.stack.documents import ROOT

VARIABLE = "STACK_DIR"


class Listening(BaseModel):
    """Where a daemon listens, and what it was started with.

    Args:
        pid: its process id.
        control, gateway, broker: `host:port`.
        artifacts: folder of the artefacts that it serves.
        code: `code_version` when it started.
    """

    pid: int
    control: str
    gateway: str
    broker: str
    artifacts: str
    code: str


class State:
    """The files of one local stack.

    Args:
        folder: $STACK_DIR or runs/stack by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (
            folder or Path(os.environ.get(VARIABLE) or ROOT / "runs" / "stack")
        ).absolute()
        self.info = self.folder / "stack.json"
        self.token_file = self.folder / "token"
        self.objects = self.folder / "objects.json"
        self.log = self.folder / "daemon.log"
        self.lock = FileLock(self.folder / "lock", timeout=0)

    def make(self) -> None:
        """Make the folder, for the user alone.

        Raises:
            StackError: it cannot be made, or belongs to somebody else.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
        except OSError as problem:
            raise StackError(
                f"The local stack cannot use {self.folder}: {problem.strerror}. Point ${VARIABLE} "
                "at a folder of your own."
            ) from problem

    def is_running(self) -> bool:
        """Whether a daemon holds the lock."""
        if not self.folder.is_dir():
            return False
        try:
            with self.lock:
                return False
        except Timeout:
            return True

    def listening(self) -> Listening | None:
        """Return where the daemon listens; None where it has not said so (yet)."""
        try:
            return Listening.model_validate_json(self.info.read_bytes())
        except (OSError, ValidationError):
            return None

    def token(self) -> str:
        """Return the token of the control API.

        Raises:
            StackError: it cannot be read.
        """
        try:
            return read_token(self.token_file)
        except ServingError as problem:
            raise StackError(str(problem)) from problem


def code_version() -> str:
    """Return what changes when a file of the servers or the stack does."""
    told = hashlib.sha256()
    for folder in ("serving", "stack"):
        for path in sorted((ROOT / "helpers" / folder).rglob("*.py")):
            about = path.stat()
            told.update(f"{path} {about.st_size} {about.st_mtime_ns}".encode())
    return told.hexdigest()[:12]
