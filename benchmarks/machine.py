"""What figures depend on: the machine, the versions, and who else is using it just now."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from helpers.serving.common.polling import WaitError, wait_for

LIBRARIES = (
    *("tensorflow", "numpy", "alibi", "alibi-detect", "shap", "scikit-learn"),
    *("uvicorn", "aiohttp", "orjson"),
)
CALM_LOAD = 0.7  # load average of the last minute, before anything of ours runs
CALM_OTHERS = 0.2  # cores that other processes use meanwhile


@dataclass(frozen=True)
class Quiet:
    """How calm the machine was.

    Args:
        load: average of the last minute when the run began.
        others: cores that processes not of this run used meanwhile, on average.
        stolen: share of the processors' time that the hypervisor gave to others.
    """

    load: float
    others: float
    stolen: float

    @property
    def calm(self) -> bool:
        """Whether figures taken meanwhile can be quoted."""
        return self.load <= CALM_LOAD and self.others <= CALM_OTHERS


def describe() -> dict[str, Any]:
    """Return processor, cores, memory, system, and versions."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in LIBRARIES},
    }


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def wait_until_calm(seconds: float) -> bool:
    """Wait until the load average is low enough, so long at most; return whether it is."""
    if load() <= CALM_LOAD:
        return True
    if seconds <= 0:
        return False
    try:
        what = f"a load average of {CALM_LOAD} or less"
        return wait_for(lambda: load() <= CALM_LOAD, what, seconds=seconds, first=1.0, every=5.0)
    except WaitError:
        return False


@contextmanager
def watched(at_start: float) -> Iterator[list[Quiet]]:
    """Watch who uses the processors during the block; its end puts one Quiet into the list.

    Every process that the block starts has to end in it and be waited for, or counts as another's.
    """
    found: list[Quiet] = []
    began, before, own = time.monotonic(), psutil.cpu_times(), _own()
    try:
        yield found
    finally:
        seconds = max(time.monotonic() - began, 1e-9)
        after = psutil.cpu_times()
        busy = sum(_busy(after)) - sum(_busy(before))
        others = max(0.0, busy - (_own() - own)) / seconds
        stolen = getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)
        found.append(Quiet(at_start, round(others, 2), round(stolen / seconds / cores(), 3)))


def _busy(times: Any) -> tuple[float, ...]:
    # guest time is part of user time already
    named = ("user", "nice", "system", "irq", "softirq")
    return tuple(getattr(times, name, 0.0) for name in named)


def _own() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if "model name" in line)
    return next(named, "") or platform.processor() or platform.machine()
