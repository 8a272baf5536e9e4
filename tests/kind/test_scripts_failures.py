"""What kind/up says when a step fails or takes too long, and while it waits."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time

import pytest

PODS = """\
NAME                    READY   STATUS             RESTARTS   AGE
istiod-6c5f-x2x         0/1     ImagePullBackOff   0          2m
"""
EVENTS = """\
LAST SEEN   TYPE      REASON   OBJECT                MESSAGE
12s         Warning   Failed   pod/istiod-6c5f-x2x   Failed to pull image "istio/pilot:1.28.10": toomanyrequests
"""


def test_a_step_that_takes_too_long_is_ended_with_what_the_cluster_says(standing) -> None:
    (standing.fake / "ready/deployment/istiod").unlink()
    standing.say("pods", PODS)
    standing.say("events", EVENTS)
    (standing.fake / "hang").write_text("deployment/istiod --timeout\n")
    result = standing.run("up", PARTS="core", TIMEOUT_ISTIO="2")
    assert result.returncode == 1
    said = result.stdout
    assert (
        "istio, failed: it waited for deployment/istiod in istio-system to be ready, and 2 s had passed"
        in said
    )
    assert "Pods in istio-system:" in said
    assert "istiod-6c5f-x2x         0/1     ImagePullBackOff" in said
    assert "Last events in istio-system:" in said
    assert "toomanyrequests" in said
    assert "An image could not be pulled" in said
    assert "make kind-up again: it goes on from here" in said
    assert not standing.calls("rollout status", "istio-ingressgateway")


def test_what_is_never_made_is_not_waited_for_for_ever(standing) -> None:
    (standing.fake / "fail").write_text("get -n istio-system deployment/istiod\n")
    result = standing.run("up", PARTS="core", TIMEOUT_ISTIO="2")
    assert result.returncode == 1
    assert (
        "waited for deployment/istiod in istio-system to be made, and 2 s had passed"
        in result.stdout
    )


@pytest.mark.parametrize(
    ("call", "error", "step", "advice"),
    [
        (
            "kind create",
            "ERROR: failed to create cluster: no space left on device",
            "2 of 7, cluster",
            "The disk is full",
        ),
        (
            "docker build",
            "ERROR: failed to solve: python:3.12-slim: i/o timeout",
            "3 of 7, image",
            "could not be reached",
        ),
        ("install istiod", "Error: context deadline exceeded", "4 of 7, istio", "The whole log"),
        (
            "minio-fill",
            "error: x509: certificate has expired",
            "5 of 7, minio",
            "AGAIN=seldon make kind-up",
        ),
    ],
)
def test_a_command_that_fails_is_quoted_with_advice(
    sandbox, call: str, error: str, step: str, advice: str
) -> None:
    (sandbox.fake / "fail").write_text(call + "\n")
    (sandbox.fake / "error").write_text(error + "\n")
    result = sandbox.run("up", PARTS="core")
    assert result.returncode == 1
    assert f"Step {step}, failed" in result.stdout
    assert f"    {error}" in result.stdout
    assert advice in result.stdout


def test_a_command_that_nobody_thought_could_fail_does_not_end_it_in_silence(sandbox) -> None:
    (sandbox.bin / "awk").unlink()  # the worker's name is looked for with it
    sandbox.say("version-docker", "Docker version 28.2.2")
    (sandbox.fake / "cluster").touch()
    result = sandbox.run("up", PARTS="core")
    assert result.returncode != 0
    assert "Step 3 of 7, image, ended unexpectedly" in result.stdout


def test_a_log_keeps_everything(sandbox) -> None:
    (sandbox.fake / "fail").write_text("docker build\n")
    sandbox.run("up", PARTS="core")
    log = (sandbox.repository / "runs/kind/up.log").read_text()
    assert "== image" in log
    assert "+ env BUILDX_NO_DEFAULT_ATTESTATIONS=1 ENGINE=docker" in log
    assert "the fake was told to fail" in log


def test_a_terminal_shows_what_is_waited_for_and_since_when(sandbox) -> None:
    (sandbox.fake / "hang").write_text("install istiod\n")
    sandbox.say("pods", PODS.splitlines()[1])
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sandbox.repository / "kind/up"],
        stdout=theirs,
        stderr=theirs,
        env={
            "PATH": f"{sandbox.bin}",
            "HOME": str(sandbox.fake),
            "FAKE": str(sandbox.fake),
            "PROC": str(sandbox.proc),
            "POLL": "0.01",
            "PARTS": "core",
            "TIMEOUT_ISTIO": "3",
        },
    )
    os.close(theirs)
    shown, limit = b"", time.monotonic() + 15
    while time.monotonic() < limit:
        readable, _, _ = select.select([ours], [], [], 0.1)
        if not readable:
            continue
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
    os.close(ours)
    assert process.wait(timeout=5) == 1
    lines = re.split(r"\r\n|\r\x1b\[K", shown.decode())
    waits = [
        line
        for line in lines
        if re.search(r"istio       waits \(\d s of 3 s\) for chart istiod", line)
    ]
    assert any(re.search(r"waits \([1-3] s .* 1.28.10; istiod-6c5f", line) for line in waits), waits
    assert max(len(line) for line in lines[: lines.index(waits[-1])]) < 100
