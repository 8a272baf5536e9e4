"""A folder out of a container, as `kubectl cp` does it: `tar` there, unpacked here."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import time
from pathlib import Path, PurePosixPath

import yaml
from kubernetes.stream.ws_client import ERROR_CHANNEL, STDERR_CHANNEL, STDOUT_CHANNEL, WSClient

from helpers.errors import StackError
from helpers.stack.kind.connection import Api

LARGEST = 256 * 2**20  # bytes of the archive
MOST_FILES = 10_000
SECONDS = 300.0
END_SECONDS = 5.0


def copy(api: Api, pod: str, container: str, path: str, to: Path) -> Path:
    """Copy a folder of a container to a new folder.

    Only files and folders are taken, with their names below `path`: no links, no devices, and nothing that
    would land outside `to`, whatever the container answers.

    Args:
        api: of the cluster.
        pod: its name.
        container: in it; its image has `tar`.
        path: absolute, of the folder.
        to: the new folder; whole or not there.

    Raises:
        StackError: no such folder, no `tar`, more than LARGEST bytes, or no end in time.
    """
    where = f"{pod}:{path}"
    if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise StackError(f"{path!r} is not the absolute path of a folder.")
    if to.exists():
        raise StackError(f"{to} is there already; name a new folder.")
    archive = _received(
        api.execute(pod, container, ["tar", "cf", "-", "-C", path, "."]), container, where
    )
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".copy-") as scratch:
        unpacked = Path(scratch) / "files"
        unpacked.mkdir()
        _unpack(archive, unpacked, where)
        shutil.move(unpacked, to)
    return to


def _received(channels: WSClient, container: str, where: str) -> bytes:
    out, errors, end = bytearray(), bytearray(), bytearray()
    deadline = time.monotonic() + SECONDS
    try:
        while channels.is_open():
            channels.update(timeout=1.0)
            for channel, part in ((STDOUT_CHANNEL, out), (STDERR_CHANNEL, errors)):
                part += channels.read_channel(channel)
            end += channels.read_channel(ERROR_CHANNEL)
            # The library keeps a second copy of all output; it is not wanted.
            channels._all = io.BytesIO()
            if len(out) > LARGEST:
                raise StackError(f"{where} has more than {LARGEST // 2**20} MiB.")
            if time.monotonic() > deadline:
                if end:
                    break
                raise StackError(f"{where} was not copied within {SECONDS:g} s.")
            if (
                end
            ):  # how it ended may overtake the last of the output, which ends with the connection
                deadline = min(deadline, time.monotonic() + END_SECONDS)
    finally:
        channels.close()
    said = errors.decode(errors="replace").strip()
    status = yaml.safe_load(bytes(end)) or {}
    if status.get("status") != "Success":
        told = said or status.get("message", "the connection ended")
        if "executable file not found" in told:
            told = f"the image of {container} has no tar"
        raise StackError(f"{where} cannot be copied: {told}.")
    return bytes(out)


def _unpack(archive: bytes, folder: Path, where: str) -> None:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            members = [one for one in tar.getmembers() if one.isreg() or one.isdir()]
            if len(members) > MOST_FILES or sum(one.size for one in members) > LARGEST:
                raise StackError(f"{where} has too many files, or too large ones.")
            tar.extractall(folder, members=members, filter="data")
    except (tarfile.TarError, OSError) as problem:
        raise StackError(f"{where} cannot be unpacked: {problem}.") from problem
