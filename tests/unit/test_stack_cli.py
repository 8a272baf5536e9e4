"""The command line of the stack where nothing runs, and what it prints of what does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import StackError
from helpers.stack import cli
from helpers.stack.interface import Applied, ServerStatus
from helpers.stack.local.client import LocalStack, _unready

pytestmark = pytest.mark.timeout(60)

CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: walkthrough}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$STACK_DIR; nothing of what is asked here may start a daemon in it."""
    path = tmp_path / "state"
    monkeypatch.setenv("STACK_DIR", str(path))

    def start(self: LocalStack) -> None:
        raise AssertionError("a daemon was started")

    monkeypatch.setattr(LocalStack, "_start", start)
    return path


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Return run(*words): exit code, stdout, stderr of the command."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stack", *words])
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code
        if isinstance(code, str):  # what the interpreter does with it
            print(code, file=sys.stderr)
            code = 1
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return code or 0, out, err

    return run


def is_one_sentence(text: str) -> bool:
    return text.startswith("stack: ") and text.count("\n") == 1 and text.rstrip().endswith(".")


# Nothing runs


def test_the_program_itself_ends_with_one_sentence(tmp_path: Path, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "helpers.stack", "logs", "cifar10"],
        cwd=root,
        env={**os.environ, "STACK_DIR": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_sentence(done.stderr)
    assert "The local stack is not running: apply a manifest first" in done.stderr
    assert not (tmp_path / "state").exists()


def test_status_of_nothing(run, folder: Path) -> None:
    assert run("status") == (0, "Nothing runs.\n", "")
    assert not folder.exists()


@pytest.mark.parametrize("words", [["logs", "x"], ["wait"], ["wait", "x", "--timeout", "1"]])
def test_questions_to_nothing(run, words: list[str], folder: Path) -> None:
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert is_one_sentence(err)
    assert "not running" in err
    assert not folder.exists()


def test_down_of_nothing_is_no_failure(run, folder: Path) -> None:
    assert run("down") == (0, "", "")
    folder.mkdir()
    (folder / "daemon.log").write_text("of a daemon that was killed")
    assert run("down") == (0, "", "")
    assert not folder.exists()


def test_delete_starts_nothing(run, tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(CONFIG)
    assert run("delete", str(path)) == (0, "", "")
    assert not folder.exists()
    code, _, err = run("delete", str(tmp_path / "b.yaml"))
    assert code == 1
    assert "no such file; in" in err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file"),
        ("", "there is no Kubernetes object in it"),
        ("kind: [", "is not YAML: line 1"),
        ("a: 1", "apiVersion is missing"),
        (CONFIG.replace("ConfigMap", "List"), "the kind List is not supported"),
    ],
)
def test_a_wrong_file_is_told_before_anything_starts(
    run, tmp_path: Path, folder: Path, content: str | None, told: str
) -> None:
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_text(content)
    code, out, err = run("apply", str(path))
    assert (code, out) == (1, "")
    assert is_one_sentence(err.replace("...", ""))
    assert str(path) in err
    assert told in err
    assert not folder.exists()


@pytest.mark.parametrize("command", [["up"], ["status"], ["apply", "x"], ["down"], ["logs", "x"]])
def test_an_unknown_backend(run, command: list[str]) -> None:
    code, out, err = run(*command, "--backend", "swarm")
    assert (code, out) == (1, "")
    assert err == "stack: BACKEND='swarm' is not known; local and kind are.\n"


@pytest.mark.parametrize(
    "words",
    [["apply"], ["nonsense"], ["logs"], ["wait", "--timeout", "0"], ["logs", "x", "-n", "0"]],
)
def test_wrong_words_are_exit_code_2(run, words: list[str]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err


def test_help_names_every_command(run) -> None:
    _, out, _ = run("--help")
    assert all(name in out for name in ("up", "apply", "delete", "wait", "status", "logs", "down"))


# What runs, told by a stack that is not there


class StubStack:
    """Answers what the test wants."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, *args, options))
            answer = self.answers.get(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch):
    """Return stub(**answers): what `connect` returns from now on."""

    def stub(**answers: Any) -> StubStack:
        one = StubStack(answers)
        monkeypatch.setattr(cli.stack, "connect", lambda *_, **__: one)
        return one

    return stub


def test_apply_prints_each_object_and_waits(run, stub) -> None:
    one = stub(apply=[Applied("ConfigMap", "a", "created"), Applied("Trigger", "b", "unchanged")])
    assert run("apply", "x.yaml", "--timeout", "7") == (
        0,
        "configmap/a created\ntrigger/b unchanged\n",
        "",
    )
    assert one.calls[-1] == ("wait", {"timeout": 7.0})
    run("apply", "x.yaml", "--no-wait")
    assert one.calls[-1][0] == "apply"


def test_a_failure_is_told_after_what_was_done(run, stub) -> None:
    stub(apply=[Applied("ConfigMap", "a", "created")], wait=StackError("Not ready after 1 s."))
    assert run("apply", "x.yaml") == (1, "configmap/a created\n", "stack: Not ready after 1 s.\n")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("[red]not markup[/red] [x", "[red]not markup[/red] [x"),
        ("C:\\[/] \\[bold] [/nothing]", "C:\\[/] \\[bold] [/nothing]"),
        ("a\x1b[31mb\x07\rc", "a[31mbc"),
        (":smile: ünï", None),
        ("x" * 1000, "x" * 50),
    ],
)
def test_status_is_a_line_for_each_server(run, stub, line: str, shown: str | None) -> None:
    stub(
        status=[
            ServerStatus("drift-ks", "Deployment/drift-ks", "ready", 2, 77, "127.0.0.1:5", 61.4),
            ServerStatus("cifar10-default-0-resnet32", "x", "starting", last_line=line),
        ]
    )
    code, out, _ = run("status")
    heading, first, second = out.splitlines()
    assert code == 0
    assert heading.split()[:4] == ["server", "state", "for", "restarts"]
    assert first.split() == ["drift-ks", "ready", "61", "s", "2", "127.0.0.1:5", "77"]
    assert second.startswith("cifar10-default-0-resnet32")
    assert "\x1b" not in out
    if shown is not None:
        assert shown in second


def test_logs_are_printed_as_they_are(run, stub) -> None:
    one = stub(logs="[red]one\ntwo\n")
    assert run("logs", "drift-ks", "-n", "2") == (0, "[red]one\ntwo\n", "")
    assert one.calls == [("logs", "drift-ks", 2, {})]


def test_following_a_log_ends_with_ctrl_c(run, stub, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = iter(["a\nb\n", "a\nb\n", "a\nb\nc\nd\n", "d\ne\n", "new file\n"])
    one = stub()
    one.logs = lambda *_: next(logs, None) or stop()  # type: ignore[attr-defined]
    monkeypatch.setattr(cli, "FOLLOW_SECONDS", 0)

    def stop() -> str:
        raise KeyboardInterrupt

    code, out, _ = run("logs", "x", "--follow")
    assert code in (1, 130)
    assert out.splitlines()[:6] == ["a", "b", "c", "d", "e", "new file"]


# What waiting is for


def test_a_server_that_is_gone_is_not_ready() -> None:
    status = {
        "servers": [],
        "objects": [{"name": "cifar10", "waits_for": ["cifar10-default-0-resnet32"]}],
    }
    (one,) = _unready(status, ["cifar10"])
    assert (one["name"], one["state"]) == ("cifar10-default-0-resnet32", "not there")


def test_waiting_for_some_names_only() -> None:
    servers = [{"name": "a-0"}, {"name": "b-0"}, {"name": "b-1"}]
    objects = [
        {"name": "a", "waits_for": ["a-0"]},
        {"name": "b", "waits_for": ["b-0", "b-1"]},
        {"name": "c", "waits_for": []},
    ]
    status = {"servers": servers, "objects": objects}

    def waited(*names: str) -> list[str]:
        return [one["name"] for one in _unready(status, names)]

    assert waited() == ["a-0", "b-0", "b-1"]
    assert waited("a") == ["a-0"]
    assert waited("b-1", "a") == ["a-0", "b-1"]
    assert waited("c") == []
    with pytest.raises(StackError, match=r"Nothing here is called 'd'; there is a, a-0, b"):
        waited("d")
