"""The supervisor of the local stack, with servers that start in a tenth of a second."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import psutil
import pytest
import uvloop

from helpers.errors import StackError
from helpers.stack.interface import ServerStatus
from helpers.stack.local import replica as replica_module
from helpers.stack.local.logs import Log
from helpers.stack.local.ports import Ports
from helpers.stack.local.process import STACK_VARIABLE, server_environment, sweep
from helpers.stack.local.spec import ServerSpec
from helpers.stack.local.supervisor import Supervisor

pytestmark = pytest.mark.timeout(60)

SERVER = r"""
import http.server, json, os, signal, socket, subprocess, sys, threading, time

SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
options = json.loads(sys.argv[2])
print("hello from", options.get("version", "one"), flush=True)
if "only_one" in options:
    # Fails where another one holds it: shows two at once.
    claim = os.open(options["only_one"], os.O_CREAT | os.O_EXCL)
for number in range(options.get("lines", 0)):
    print("line", number, flush=True)
if "child" in options:
    subprocess.Popen(SLEEPER)
    subprocess.Popen(SLEEPER, start_new_session=True)
if "fail" in options:
    sys.exit(options["fail"])
if options.get("spin"):
    end = time.process_time() + options["spin"]
    while time.process_time() < end:
        pass

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = 200, options.get("version", "one")
        if self.path == "/ready" and "reason" in options:
            status, body = 503, json.dumps({"ready": False, "reason": options["reason"]})
        if self.path == "/ready" and os.path.exists(options.get("unready_if", "")):
            status, body = 503, json.dumps({"error": "the model has been taken away"})
        if self.path == "/environment":
            body = json.dumps(dict(os.environ))
        if self.path == "/slow":
            time.sleep(0.1)
        body = body.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for the requests under way
    request_queue_size = 128

server = Server(("127.0.0.1", int(sys.argv[1])), Handler)

def stop(*_):
    threading.Thread(target=server.shutdown).start()

signal.signal(signal.SIGTERM, signal.SIG_IGN if options.get("stubborn") else stop)
time.sleep(options.get("delay", 0))
server.serve_forever(poll_interval=0.02)
server.server_close()
if "only_one" in options:
    time.sleep(0.3)  # whoever starts too early meets the claim
    os.unlink(options["only_one"])
"""


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., ServerSpec]:
    """Return make(name="a", **options): a spec of the server above."""
    import json

    script = tmp_path / "server.py"
    script.write_text(SERVER, encoding="utf-8")

    def make(name: str = "a", **options: object) -> ServerSpec:
        fields = {
            key: options.pop(key)
            for key in ("recreate", "stop_seconds", "environment", "files", "metrics_placeholder")
            if key in options
        }
        command = (sys.executable, "-S", str(script), "{port}", json.dumps(options))
        return ServerSpec(name, f"Deployment/{name}", command, **fields)

    return make


@pytest.fixture(params=["asyncio", "uvloop"])
def both_loops(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Return run(coroutine), once for each kind of loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(work: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(work)

    return run


@contextlib.asynccontextmanager
async def supervised(folder: Path, **options: object) -> AsyncIterator[Supervisor]:
    """A supervisor that leaves nothing behind, which is checked."""
    before = asyncio.all_tasks()
    supervisor = Supervisor(folder / "stack", **options)
    await supervisor.start()
    try:
        yield supervisor
        watchdog = supervisor.watchdog_pid
    finally:
        await supervisor.stop()
    assert processes_of(supervisor) == []
    assert asyncio.all_tasks() == before
    assert watchdog is not None
    assert not psutil.pid_exists(watchdog)


def processes_of(supervisor: Supervisor) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(STACK_VARIABLE) == supervisor.id:
                found.append(process)
    return found


async def until(condition: Callable[[], object], what: str, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


def of(supervisor: Supervisor, name: str = "a") -> ServerStatus:
    """The status of the process that takes requests, or will."""
    return [status for status in supervisor.status() if status.name == name][-1]


async def ready(supervisor: Supervisor, name: str = "a") -> tuple[str, int]:
    await until(lambda: supervisor.address(name), f"{name} is ready")
    address = supervisor.address(name)
    assert address is not None
    return address


async def get(address: tuple[str, int], path: str = "/") -> str:
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        return (await client.get(f"http://{address[0]}:{address[1]}{path}")).text


def port_is_free(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) != 0


def test_a_server_starts_is_ready_and_is_gone_after_stop(tmp_path, spec, both_loops):
    async def scenario():
        changes: list[object] = []
        supervisor: Supervisor
        async with supervised(
            tmp_path, on_change=lambda: changes.append(supervisor.address("a"))
        ) as supervisor:
            assert supervisor.address("a") is None
            assert supervisor.apply(spec()) == "created"
            assert supervisor.apply(spec()) == "unchanged"
            assert of(supervisor).state == "starting"
            address = await ready(supervisor)
            assert await get(address) == "one"
            status = of(supervisor)
            assert (status.state, status.restarts, status.owner) == ("ready", 0, "Deployment/a")
            assert status.address == f"127.0.0.1:{address[1]}"
            assert status.last_line == "hello from one"
            assert status.pid is not None
            assert os.getsid(status.pid) == os.getpgid(status.pid) == status.pid
            assert supervisor.metrics_addresses() == [(spec(), status.address)]
        assert changes[0] is None
        assert address in changes
        assert changes[-1] is None
        assert port_is_free(address)
        assert supervisor.status() == []

    both_loops(scenario())


def test_placeholders_files_and_environment(tmp_path, spec, monkeypatch):
    monkeypatch.setenv("DEMO_API_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("DEMO_KEPT", "kept")

    async def scenario():
        import json

        async with supervised(tmp_path, environment={"OF_ALL": "yes"}) as supervisor:
            supervisor.apply(
                spec(
                    environment={"PORTS": "{port} {grpc_port} {metrics_port}", "HERE": "{folder}"},
                    files={"conf/model.json": '{"port": {port}, "other": "{kept}"}'},
                    metrics_placeholder="metrics_port",
                )
            )
            address = await ready(supervisor)
            environment = json.loads(await get(address, "/environment"))
            ports = [int(port) for port in environment["PORTS"].split()]
            assert ports[0] == address[1]
            assert len(set(ports)) == 3
            assert [where for _, where in supervisor.metrics_addresses()] == [
                f"127.0.0.1:{ports[2]}"
            ]
            folder = Path(environment["HERE"])
            assert folder.parent == tmp_path / "stack" / "servers"
            content = (folder / "conf" / "model.json").read_text()
            assert content == f'{{"port": {address[1]}, "other": "{{kept}}"}}'
            expected = {
                "OF_ALL": "yes",
                "DEMO_KEPT": "kept",
                "TF_USE_LEGACY_KERAS": "1",
                "PYTHONUNBUFFERED": "1",
                "SERVING_HOST": "127.0.0.1",
            }
            assert expected.items() <= environment.items()
            assert "127.0.0.1" in environment["NO_PROXY"]
            assert not {"DEMO_API_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONWARNINGS"} & {
                *environment
            }
            assert supervisor.remove("a") is True
            await until(lambda: not supervisor.status(), "a is gone")
            assert not folder.exists()
            assert supervisor.remove("a") is False
            assert "hello from one" in supervisor.log("a", 10)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("GITHUB_TOKEN", True),
        ("DB_PASSWORD", True),
        ("OPENAI_API_KEY", True),
        ("SSH_AUTH_SOCK", True),
        ("JPY_PARENT_PID", True),
        ("PATH", False),
        ("TOKENIZERS_PARALLELISM", False),
        ("LD_LIBRARY_PATH", False),
    ],
)
def test_secrets_stay_with_the_daemon(name, dropped, monkeypatch):
    monkeypatch.setenv(name, "value")
    assert (name not in server_environment({})) is dropped


def test_a_killed_server_is_restarted_with_growing_pauses(tmp_path, spec, monkeypatch):
    monkeypatch.setattr(replica_module, "FIRST_PAUSE", 0.2)

    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec())
            pauses = []
            for restarts in (1, 2, 3):
                await ready(supervisor)
                os.kill(of(supervisor).pid, signal.SIGKILL)
                await until(lambda: of(supervisor).state == "restarting", "death is seen")
                died = time.monotonic()
                assert supervisor.address("a") is None
                assert of(supervisor).pid is None
                assert of(supervisor).last_line == "a was ended by SIGKILL"
                await until(lambda: of(supervisor).state != "restarting", "start")
                pauses.append(time.monotonic() - died)
                assert of(supervisor).restarts == restarts
            assert supervisor.log("a", 100).count("a was ended by SIGKILL") == 3
            for pause, base in zip(pauses, (0.2, 0.4, 0.8), strict=True):
                assert base * 0.8 <= pause < base * 1.2 + 0.25

    asyncio.run(scenario())


def test_pauses_begin_anew_after_a_steady_time(tmp_path, spec, monkeypatch):
    monkeypatch.setattr(replica_module, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(replica_module, "STEADY_SECONDS", 0.0)

    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec())
            for _ in range(5):
                await ready(supervisor)
                os.kill(of(supervisor).pid, signal.SIGKILL)
                await until(lambda: of(supervisor).state == "restarting", "death is seen")
                died = time.monotonic()
                await until(lambda: of(supervisor).state != "restarting", "start")
                assert time.monotonic() - died < 0.4  # the fifth would be 1.6 s

    asyncio.run(scenario())


def test_a_rollover_refuses_no_request(tmp_path, spec, both_loops):
    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec(version="one"))
            await ready(supervisor)
            answers: list[str] = []
            rolling = True

            async def load() -> None:
                async with httpx.AsyncClient(
                    timeout=10, limits=httpx.Limits(max_keepalive_connections=0)
                ) as client:
                    while rolling:
                        host, port = supervisor.address("a")
                        answers.append((await client.get(f"http://{host}:{port}/slow")).text)

            loads = [asyncio.create_task(load()) for _ in range(6)]
            for version in ("two", "three"):
                assert supervisor.apply(spec(version=version, delay=0.3)) == "configured"
                states = [status.state for status in supervisor.status()]
                assert states[-2:] == ["ready", "starting"]
                await until(lambda: version in answers, f"{version} answers")  # noqa: B023
                await until(lambda: len(supervisor.status()) == 1, "the old one is gone")
            rolling = False
            await asyncio.gather(*loads)  # raises what a request raised
            order = [answers.index(version) for version in ("one", "two", "three")]
            assert order == sorted(order)
            assert set(answers) == {"one", "two", "three"}
            assert len(list((tmp_path / "stack" / "servers").iterdir())) == 1

    both_loops(scenario())


def test_a_broken_spec_leaves_the_old_one_serving_and_says_why(tmp_path, spec):
    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec(version="one"))
            address = await ready(supervisor)
            supervisor.apply(spec(version="two", fail="the model file is damaged"))
            await until(lambda: of(supervisor).restarts == 1, "the new one crash-loops")
            old, new = supervisor.status()
            assert (old.state, new.state in ("restarting", "starting")) == ("ready", True)
            await until(lambda: of(supervisor).state == "restarting", "it dies again")
            assert of(supervisor).last_line == "the model file is damaged"
            assert supervisor.status()[0].last_line == "hello from one"
            assert supervisor.address("a") == address
            assert await get(address) == "one"
            # A newer one supersedes it.
            assert supervisor.apply(spec(version="three")) == "configured"
            await until(lambda: supervisor.address("a") != address, "the newest takes over")
            assert await get(supervisor.address("a")) == "three"
            await until(lambda: len(supervisor.status()) == 1, "the others are gone")

    asyncio.run(scenario())


def test_going_back_during_a_rollover_keeps_the_old_process(tmp_path, spec):
    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec(version="one"))
            await ready(supervisor)
            pid = of(supervisor).pid
            supervisor.apply(spec(version="two", fail="no"))
            assert supervisor.apply(spec(version="two", fail="no")) == "unchanged"
            assert supervisor.apply(spec(version="one")) == "configured"
            await until(lambda: len(supervisor.status()) == 1, "the new one is dropped")
            assert (of(supervisor).pid, of(supervisor).state) == (pid, "ready")

    asyncio.run(scenario())


def test_recreate_never_has_two_at_once(tmp_path, spec):
    claim = str(tmp_path / "claim")

    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec(version="one", only_one=claim, recreate=True))
            address = await ready(supervisor)
            supervisor.apply(spec(version="two", only_one=claim, recreate=True))
            supervisor.apply(spec(version="three", only_one=claim, recreate=True))
            assert supervisor.address("a") is None
            assert await get(await ready(supervisor)) == "three"
            assert (of(supervisor).restarts, port_is_free(address)) == (0, True)
            # Also when it is removed and comes back at once.
            supervisor.remove("a")
            assert supervisor.apply(spec(version="three", only_one=claim, recreate=True))
            await until(lambda: supervisor.address("a"), "it is back")
            assert of(supervisor).restarts == 0
            assert "File exists" not in supervisor.log("a", 100)

    asyncio.run(scenario())


def test_a_server_that_ignores_sigterm_is_killed(tmp_path, spec):
    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec(stubborn=True, stop_seconds=0.5))
            address = await ready(supervisor)
            started = time.monotonic()
            supervisor.remove("a")
            assert of(supervisor).state == "stopping"
            assert supervisor.address("a") is None
            await until(lambda: not supervisor.status(), "it is gone")
            assert 0.5 <= time.monotonic() - started < 2.5
            assert port_is_free(address)
            assert "killed" in supervisor.log("a", 5)

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["remove", "kill"])
def test_grandchildren_end_with_the_server(tmp_path, spec, how):
    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec(child=True))
            await ready(supervisor)
            grandchildren = [p for p in processes_of(supervisor) if p.pid != of(supervisor).pid]
            assert len(grandchildren) == 2  # one of them in a session of its own
            if how == "remove":
                supervisor.remove("a")
                await until(lambda: not supervisor.status(), "it is gone")
            else:
                os.kill(of(supervisor).pid, signal.SIGKILL)
                await until(lambda: of(supervisor).restarts == 1, "it is restarted")
            assert not any(p.is_running() and p.status() != "zombie" for p in grandchildren)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("no-such-program", "{port}"), "'no-such-program' was not found"),
        (("{path}", "{port}"), "may not be run"),
    ],
)
def test_a_program_that_cannot_be_started_is_a_state(tmp_path, both_loops, command, sentence):
    no_program = tmp_path / "no-program"
    no_program.write_text("no program")
    command = tuple(part.replace("{path}", str(no_program)) for part in command)

    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(ServerSpec("a", "Deployment/a", command))
            await until(lambda: of(supervisor).state == "restarting", "it fails")
            assert sentence in of(supervisor).last_line
            assert sentence in supervisor.log("a", 5)
            await until(lambda: of(supervisor).restarts == 1, "it is tried again")
            assert sentence in of(supervisor).last_line

    both_loops(scenario())


def test_why_a_server_is_not_ready_is_shown(tmp_path, spec):
    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec(reason="the model is being loaded"))
            await until(lambda: "loaded" in of(supervisor).last_line, "the reason")
            assert of(supervisor).state == "starting"
            assert supervisor.address("a") is None
            with supervisor._log_path("a").open("a") as log:
                log.write("MemoryError: 3 GB\n")
            assert of(supervisor).last_line == "MemoryError: 3 GB"  # newer

    asyncio.run(scenario())


def test_a_ready_server_that_says_otherwise_has_no_address(tmp_path, spec, monkeypatch):
    monkeypatch.setattr(replica_module, "POLL_SECONDS", (0.05, 0.05, 0.05))
    switch = tmp_path / "switch"

    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec(unready_if=str(switch)))
            address = await ready(supervisor)
            switch.touch()
            await until(lambda: supervisor.address("a") is None, "it is unready")
            assert of(supervisor).state == "starting"
            assert of(supervisor).last_line == "the model has been taken away"
            switch.unlink()
            assert await ready(supervisor) == address
            assert of(supervisor).restarts == 0

    asyncio.run(scenario())


def test_a_busy_server_keeps_its_address(tmp_path, spec, monkeypatch):
    monkeypatch.setattr(replica_module, "POLL_SECONDS", (0.05, 0.05, 0.05))
    monkeypatch.setattr("helpers.stack.local.ready.TIMEOUT_SECONDS", 0.2)

    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec())
            address = await ready(supervisor)
            pid = of(supervisor).pid
            os.kill(pid, signal.SIGSTOP)
            try:
                await until(lambda: of(supervisor).state == "starting", "it is shown as unready")
                assert "no answer" in of(supervisor).last_line
                assert supervisor.address("a") == address
            finally:
                os.kill(pid, signal.SIGCONT)
            await until(lambda: of(supervisor).state == "ready", "it is ready again")

    asyncio.run(scenario())


def test_stop_takes_down_everything_in_bounded_time(tmp_path, spec, both_loops):
    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec("fast"))
            supervisor.apply(spec("stubborn", stubborn=True, stop_seconds=0.5))
            supervisor.apply(spec("crashing", fail="no"))
            supervisor.apply(spec("parent", child=True))
            for name in ("fast", "stubborn", "parent"):
                await ready(supervisor, name)
            supervisor.apply(spec("fast", delay=600, stop_seconds=0.5))  # in the middle of it
            supervisor.apply(spec("new"))
            started = time.monotonic()
            await supervisor.stop()
            assert time.monotonic() - started < 4
            assert processes_of(supervisor) == []
            with pytest.raises(StackError, match="does not run"):
                supervisor.apply(spec())
            await supervisor.start()  # and it can be started again
            supervisor.apply(spec())
            await ready(supervisor)

    both_loops(scenario())


def test_what_an_earlier_daemon_left_is_swept_at_the_start(tmp_path, spec):
    async def scenario():
        async with supervised(tmp_path) as supervisor:
            left = [
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-S", "-c", "import time; time.sleep(600)"),
                    env={STACK_VARIABLE: identity},
                    start_new_session=True,
                )
                for identity in (supervisor.id, "another")
            ]
            try:
                await until(lambda: len(processes_of(supervisor)) == 1, "exec")
                assert await asyncio.to_thread(sweep, supervisor.id) == 1
                assert await asyncio.wait_for(left[0].wait(), 5) == -signal.SIGTERM
                assert left[1].returncode is None
            finally:
                left[1].kill()
                await left[1].wait()

    asyncio.run(scenario())


def test_the_log_of_a_running_server_is_capped(tmp_path, spec, monkeypatch):
    monkeypatch.setattr("helpers.stack.local.supervisor.HOUSEKEEPING_SECONDS", 0.05)
    monkeypatch.setattr(
        "helpers.stack.local.supervisor.Log", lambda path: Log(path, cap_bytes=10_000)
    )

    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec(lines=5000))  # 50 kB
            await ready(supervisor)
            logs = tmp_path / "stack" / "logs"
            await until(lambda: (logs / "a.log.1").exists(), "the log is cut")
            await until(
                lambda: all(log.stat().st_size <= 10_000 for log in logs.iterdir()), "it is small"
            )
            assert supervisor.log("a", 1) == "line 4999\n"

    asyncio.run(scenario())


def test_a_port_that_is_taken_in_the_meantime_is_exchanged(tmp_path, spec, monkeypatch):
    take = Ports.take
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        handed_out = [listener.getsockname()[1]]

        async def scenario():
            async with supervised(tmp_path) as supervisor:
                monkeypatch.setattr(
                    Ports, "take", lambda self: handed_out.pop() if handed_out else take(self)
                )
                supervisor.apply(spec())
                await until(lambda: of(supervisor).state == "restarting", "it cannot bind")
                assert "in use" in of(supervisor).last_line
                assert await get(await ready(supervisor)) == "one"
                assert of(supervisor).restarts == 1

        asyncio.run(scenario())


def test_usage_is_summed_and_never_falls(tmp_path, spec, monkeypatch):
    monkeypatch.setattr("helpers.stack.local.supervisor.HOUSEKEEPING_SECONDS", 0.05)
    monkeypatch.setattr(replica_module, "FIRST_PAUSE", 0.1)

    async def scenario():
        async with supervised(tmp_path) as supervisor:
            supervisor.apply(spec(spin=0.2, child=True))
            await ready(supervisor)
            await until(lambda: supervisor.usage()["a"].processes >= 2, "the child counts too")
            assert supervisor.usage()["a"].memory_bytes > 2_000_000
            await until(lambda: supervisor.usage()["a"].cpu_seconds >= 0.2, "CPU time")
            before = supervisor.usage()["a"].cpu_seconds
            os.kill(of(supervisor).pid, signal.SIGKILL)
            await until(lambda: of(supervisor).restarts == 1, "it is restarted")
            seen = [before]
            await until(
                lambda: seen.append(supervisor.usage()["a"].cpu_seconds) or seen[-1] > before + 0.2,
                "the new process's time is added",
            )
            assert seen == sorted(seen)

    asyncio.run(scenario())


def test_a_name_that_is_none_is_refused(tmp_path, spec):
    async def scenario():
        async with supervised(tmp_path) as supervisor:
            with pytest.raises(StackError, match="no server name"):
                supervisor.apply(spec("../../etc"))
            with pytest.raises(StackError, match=r"no log of '\.\./a'"):
                supervisor.log("../a", 5)
            supervisor.apply(spec(files={"../outside": "x"}))
            await until(
                lambda: "outside the server's folder" in of(supervisor).last_line, "refusal"
            )
            assert not (tmp_path / "stack" / "servers" / "outside").exists()

    asyncio.run(scenario())
