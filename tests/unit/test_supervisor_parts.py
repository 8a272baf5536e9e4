"""The small parts of the supervisor: logs, ports, the sum of what processes use."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

from helpers.stack.local.logs import Log
from helpers.stack.local.ports import PORTS, Ports
from helpers.stack.local.process import Meter


def test_a_log_is_capped_and_goes_on(tmp_path):
    log = Log(tmp_path / "a.log", cap_bytes=1000)
    descriptor = log.open()
    try:
        for number in range(300):
            os.write(descriptor, f"line {number}\n".encode())
        assert log.cap() is True
        assert log.cap() is False
        assert log.size() == 0
        os.write(descriptor, b"line 300\n")  # the process has noticed nothing
    finally:
        os.close(descriptor)
    assert log.path.read_text() == "line 300\n"
    assert log.old_path.stat().st_size == 1000
    assert log.tail(3) == "line 298\nline 299\nline 300\n"
    assert log.last_line(since=5000) == "line 300"


def test_the_log_of_a_process_that_is_replaced_moves_aside(tmp_path):
    old = Log(tmp_path / "a.log")
    descriptor = old.open()
    try:
        os.write(descriptor, b"old\n")
        old.move_aside()
        new = Log(tmp_path / "a.log")
        new.note("starts")
        os.write(descriptor, b"old again\n")
    finally:
        os.close(descriptor)
    assert old.last_line() == "old again"
    assert new.last_line() == ""  # the supervisor's own lines are none of the server's
    assert new.tail(10).startswith("old\nold again\n[stack] ")


@pytest.mark.parametrize(
    ("content", "lines", "expected"),
    [
        ("", 5, ""),
        ("a\nb\nc\n", 2, "b\nc\n"),
        ("a\nb", 1, "b\n"),
        ("a\nb\n", 9, "a\nb\n"),
        ("a\n", 0, ""),
        ("x" * 200_000 + "\nend\n", 1, "end\n"),
    ],
)
def test_tail(tmp_path, content, lines, expected):
    log = Log(tmp_path / "a.log")
    log.path.write_text(content)
    assert log.tail(lines) == expected


def test_a_log_that_is_not_there_is_empty(tmp_path):
    log = Log(tmp_path / "a.log")
    assert (log.tail(5), log.last_line(), log.size(), log.cap()) == ("", "", 0, False)


def test_ports_are_free_and_handed_out_once():
    ports = Ports()
    taken = [ports.take() for _ in range(100)]
    assert len(set(taken)) == 100
    assert set(taken) <= set(PORTS)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken[0]))


def test_a_port_in_use_is_not_handed_out(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        used = listener.getsockname()[1]
        monkeypatch.setattr("helpers.stack.local.ports.PORTS", range(used, used + 1))
        monkeypatch.setattr("helpers.stack.local.ports.TRIES", 1)
        assert Ports().take() != used


def test_the_meter_keeps_what_the_dead_have_used():
    meter = Meter()
    here = psutil.Process()
    first = meter.read([here])
    assert first.cpu_seconds > 0
    assert first.memory_bytes > 1_000_000
    gone = meter.read([])
    assert (gone.cpu_seconds, gone.memory_bytes, gone.processes) == (first.cpu_seconds, 0, 0)
