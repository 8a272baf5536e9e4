"""The log file of a server: appended to by its processes, capped, read from its end."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

CAP_BYTES = 10 * 1024 * 1024
BLOCK_BYTES = 64 * 1024
LINE_BYTES = 16 * 1024  # of which the last line is looked for
LAST_LINE_CHARACTERS = 500
NOTE_CHARACTERS = 2000
MARK = "[stack] "  # starts the lines that the supervisor writes between those of the server


class Log:
    """`<path>` and one old file, `<path>.1`.

    Args:
        path: its folder exists.
        cap_bytes: a file that has grown past it is cut.
    """

    def __init__(self, path: Path, cap_bytes: int = CAP_BYTES) -> None:
        self.path = path
        self.cap_bytes = cap_bytes
        self.keeps_old = True

    @property
    def old_path(self) -> Path:
        """Where the old lines go."""
        return self.path.with_name(self.path.name + ".1")

    def move_aside(self) -> None:
        """Become the old file: a new process's log takes the name. Open descriptors stay good."""
        old = self.old_path
        with contextlib.suppress(FileNotFoundError):
            self.path.replace(old)
        self.path = old
        self.keeps_old = False

    def open(self) -> int:
        """Return a descriptor that appends; the caller closes it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, sentence: str) -> None:
        """Append a line of the supervisor's own."""
        moment = time.strftime("%Y-%m-%d %H:%M:%S")
        sentence = sentence.replace("\n", "\\n")[:NOTE_CHARACTERS]
        # One write: lines of the server, which appends too, do not get into it.
        with contextlib.suppress(OSError):  # a full disk must not end the supervision
            descriptor = self.open()
            try:
                os.write(descriptor, f"{MARK}{moment} {sentence}\n".encode(errors="replace"))
            finally:
                os.close(descriptor)

    def size(self) -> int:
        """Return the bytes in the present file: where lines written from now on begin."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def cap(self) -> bool:
        """Cut the file if it has grown past the cap; its end becomes the old file. Returns whether.

        The process has the file open, so it is copied and emptied in place; what is written
        between the two steps is lost.
        """
        size = self.size()
        if size <= self.cap_bytes:
            return False
        with self.path.open("r+b") as present:
            if self.keeps_old:
                present.seek(size - self.cap_bytes)
                with self.old_path.open("wb") as old:
                    left = self.cap_bytes
                    while left and (block := present.read(min(left, 1 << 20))):
                        left -= old.write(block)
            present.truncate(0)
        return True

    def tail(self, lines: int) -> str:
        """Return the last lines, from the old file too where the present one has fewer."""
        text = _tail(self.path, lines)
        missing = lines - text.count("\n")
        if missing > 0 and self.keeps_old:
            text = _tail(self.old_path, missing) + text
        return text

    def last_line(self, since: int = 0) -> str:
        """Return the last line of the server's own, empty where there is none.

        Args:
            since: only what stands behind this offset; lines of earlier processes are before it.
        """
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                since = since if since <= size else 0  # cut in the meantime
                file.seek(max(since, size - LINE_BYTES))
                text = file.read(LINE_BYTES).decode(errors="replace")
        except OSError:
            return ""
        for line in reversed(text.splitlines()):
            if line.strip() and not line.startswith(MARK):
                return line.strip()[:LAST_LINE_CHARACTERS]
        return ""


def _tail(path: Path, lines: int) -> str:
    if lines <= 0:
        return ""
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            found = b""
            # One newline more than lines: the one that ends the line before them.
            while position and found.count(b"\n") <= lines:
                size = min(BLOCK_BYTES, position)
                position -= size
                file.seek(position)
                found = file.read(size) + found
    except OSError:
        return ""
    text = b"\n".join(found.rstrip(b"\n").split(b"\n")[-lines:]) if found.strip() else b""
    return text.decode(errors="replace") + "\n" if text else ""
