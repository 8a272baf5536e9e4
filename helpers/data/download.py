"""Fetch CIFAR-10's archive and unpack it, so that a half one is never taken for a whole one.

Everything happens in the folder `cifar-10.part`, beside the place where the batches will lie. They
appear there under their name by one rename, after the archive's checksum has matched and all of it
is unpacked; whatever an interrupted run leaves behind is in `cifar-10.part` and never read.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.data.cifar10 import ARCHIVE, FILES, FOLDER
from helpers.errors import DataError

URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
# Seconds to connect, and seconds without a single byte. The whole may take as long as it likes.
TIMEOUTS = (10, 60)
# Seconds to wait for another process that is fetching the same: 170 MB over a slow line.
PATIENCE = 3600

_WANTED = {f"{FOLDER}/{name}" for name in FILES}
_IGNORED = {FOLDER, f"{FOLDER}/readme.html"}


class DownloadError(DataError):
    """The server cannot be reached, or the connection broke off; trying again may help."""


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """Yield `folder`/cifar-10.part, empty but for a packed archive, to one process at a time."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "cifar-10.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0.1)
        except Timeout:
            print(f"Waiting: another process is fetching CIFAR-10 to {folder}", file=sys.stderr)
            lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise DataError(
            f"Another process has held {lock.lock_file} for {PATIENCE} s. "
            "Let it finish or end it, then run again."
        ) from None
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        workspace = folder / "cifar-10.part"
        if workspace.exists() and not workspace.is_dir():
            workspace.unlink()
        workspace.mkdir(exist_ok=True)
        for leftover in workspace.iterdir():
            if leftover.is_dir():
                shutil.rmtree(leftover)
            elif leftover.name != ARCHIVE:
                leftover.unlink()
        yield workspace
    except OSError as error:
        raise _not_writable(folder, error) from error
    finally:
        lock.release()


def _not_writable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"CIFAR-10 cannot be put into {folder}: {error.strerror or error}. "
        "Make room there and see that it can be written, or point CIFAR10_DIR at a copy."
    )


def _retrieve(url: str, sha256: str, workspace: Path) -> Path:
    """Return the verified archive in `workspace`, downloaded unless a verified one is there."""
    import pooch
    import requests

    # pooch writes to a temporary name, and renames only what matches the checksum.
    downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=2**16, timeout=TIMEOUTS)
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", ARCHIVE, workspace, None, downloader))
    except requests.RequestException as error:
        raise DownloadError(
            f"CIFAR-10 could not be downloaded from {url}: {_reason(error)}. Check the network and "
            f"run again, or put {ARCHIVE} or its folder {FOLDER}/ into {workspace.parent}, or set "
            'CIFAR10_DIR, or use load("digits").'
        ) from error
    except ValueError as error:  # pooch's word for a checksum that does not match
        raise DataError(
            f"What {url} delivers is not CIFAR-10: its sha256 checksum is not {sha256}. The file "
            "was removed. It broke off, or a proxy or login page answered instead; run again, or "
            f"put {ARCHIVE} from another source into {workspace.parent}."
        ) from error


def _reason(error: Exception) -> str:
    """Return in a few words what requests says in many."""
    import requests

    if isinstance(error, requests.HTTPError):
        return str(error).split(" for url", maxsplit=1)[0]
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server, or it fell silent"
    return "the connection broke off"


def _extract(archive: Path, workspace: Path) -> Path:
    """Unpack the batches of `archive` into `workspace`; return their folder."""
    seen = set()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.rstrip("/")
                if name in _WANTED and member.isfile():
                    tar.extract(member, workspace, filter="data")
                    seen.add(name)
                elif name not in _IGNORED:
                    raise DataError(f"{archive} is not CIFAR-10: it holds {member.name!r}.")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{archive} is damaged ({error}). Delete it and run again.") from error
    if missing := _WANTED - seen:
        raise DataError(f"{archive} is not CIFAR-10: {', '.join(sorted(missing))} is missing.")
    return workspace / FOLDER


def _publish(archive: Path, workspace: Path) -> Path:
    """Unpack `archive` and give the batches their final name in one step; return that."""
    target = workspace.parent / FOLDER
    os.replace(_extract(archive, workspace), target)
    shutil.rmtree(workspace)
    return target


def fetch(folder: Path, url: str = URL, sha256: str = SHA256) -> Path:
    """Download CIFAR-10 (163 MiB) with a progress bar and unpack it; return the batches' folder.

    An interrupted download starts anew; an interrupted unpacking does not download again. Several
    processes may ask at once: one works, the others wait and find the result.

    Raises:
        DownloadError: the server cannot be reached, or the connection broke off.
        DataError: the archive is not the expected one, or `folder` cannot be written.
    """
    with _workspace(folder) as workspace:
        if (folder / FOLDER).is_dir():  # another process was faster
            shutil.rmtree(workspace)
            return folder / FOLDER
        archive = _retrieve(url, sha256, workspace)
        try:
            return _publish(archive, workspace)
        except DataError:
            archive.unlink()
            raise


def unpack(archive: Path, folder: Path, sha256: str = SHA256) -> Path:
    """Unpack an archive that lies on this machine into `folder`; return the batches' folder.

    Raises:
        DataError: the archive's checksum is another, or `folder` cannot be written.
    """
    with _workspace(folder) as workspace:
        if (folder / FOLDER).is_dir():
            shutil.rmtree(workspace)
            return folder / FOLDER
        with open(archive, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise DataError(
                f"{archive} is not CIFAR-10's archive: its sha256 checksum is {found}, "
                f"{sha256} is needed. Delete it."
            )
        return _publish(archive, workspace)
