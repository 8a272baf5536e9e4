"""Ends the servers of a daemon that was killed: run as `python -I -S watchdog.py <run>`.

Reads `+<pgid>` and `-<pgid>` lines from stdin, a pipe whose other end only the daemon holds. When
the daemon is gone, however it went, the pipe is at its end: every group that is registered gets
SIGTERM, and SIGKILL three seconds later. Processes that left their group are found by
`WALKTHROUGH_RUN=<run>:` in their environment, where the system shows it as a file (Linux).

Standard library only: it is there as long as the daemon is, and costs 6 MB.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 3.0
KILL_SECONDS = 3.0
POLL_SECONDS = 0.05
# A process that was forked as the daemon died shows its own environment only after exec.
SETTLE_SECONDS = 0.3
GOODBYE = b"goodbye\n"  # the daemon has stopped all servers itself
RUN_VARIABLE = "WALKTHROUGH_RUN"


def main(run: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: dict[int, str | None] = {}  # of each group the identity of its leader
    for line in sys.stdin.buffer:
        if line == GOODBYE and not groups:
            return
        with contextlib.suppress(ValueError):
            group = int(line[1:])
            if line.startswith(b"+") and group > 1:
                groups[group] = identity(group)
            elif line.startswith(b"-"):
                groups.pop(group, None)
    end(groups, run)


def end(groups: dict[int, str | None], run: str) -> None:
    """Stop the groups and everything marked with the run."""
    started = time.monotonic()
    told: set[int] = set()
    while (elapsed := time.monotonic() - started) < GRACE_SECONDS:
        left = remaining(groups, run)
        if not left and elapsed > SETTLE_SECONDS:
            return
        for target in left - told:
            send(target, signal.SIGTERM)
        told |= left
        time.sleep(POLL_SECONDS)
    while time.monotonic() - started < GRACE_SECONDS + KILL_SECONDS:
        left = remaining(groups, run)
        if not left:
            return
        for target in left:
            send(target, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def remaining(groups: dict[int, str | None], run: str) -> set[int]:
    """Return what is left to end: groups as negative numbers, processes as positive ones."""
    left = set()
    for group, leader in groups.items():
        now = identity(group)
        # The number of a group is free again only when the group is empty: another leader under
        # it means that ours is gone.
        if (now is None or leader is None or now == leader) and group_runs(group):
            left.add(-group)
    return left | marked(run)


def group_runs(group: int) -> bool:
    """Return whether the group has a process that is more than a zombie."""
    try:
        os.killpg(group, 0)
    except OSError:
        return False  # macOS: EPERM where there are only zombies
    if not os.path.isdir("/proc/self"):
        return True
    shown = map(stat, processes())
    return any(one and int(one[2]) == group and one[0] not in "ZX" for one in shown)


def marked(run: str) -> set[int]:
    """Return the processes that carry the run in their environment."""
    wanted = f"{RUN_VARIABLE}={run}:".encode()
    found = set()
    for pid in processes():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if any(entry.startswith(wanted) for entry in file.read().split(b"\0")):
                found.add(pid)
    return found - {os.getpid()}


def processes() -> list[int]:
    """Return all process ids; none where the system has no /proc."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def stat(pid: int) -> list[str]:
    """Return /proc/<pid>/stat from the state on: state, parent, group, session, ..."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def identity(pid: int) -> str | None:
    """Return what tells this process from a later one with its number; None where there is none."""
    if os.path.isdir("/proc/self"):
        fields = stat(pid)
        return fields[19] if fields else None  # start time in clock ticks
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        shown = subprocess.run(
            ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, timeout=2
        )
        return shown.stdout.decode(errors="replace").strip() or None
    return None


def send(target: int, number: int) -> None:
    """Send a signal to a process or, where negative, to a group."""
    with contextlib.suppress(OSError):
        os.kill(target, number)


if __name__ == "__main__":
    main(sys.argv[1])
