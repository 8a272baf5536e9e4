"""The address of a Service: bytes both ways, half-closed ends, slow readers, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from helpers.stack.local import relay as relay_module
from helpers.stack.local.relay import Relay

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error::ResourceWarning")]

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Test = Callable[[], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Callable[[Test], None]:
    """Return run(test): on either loop, and afterwards no task, no socket and no complaint is left."""

    async def watched(test: Test) -> None:
        faults: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        await asyncio.sleep(0)
        before = sockets()
        await test()
        await until(lambda: len(asyncio.all_tasks()) == 1, "tasks to end")
        await until(lambda: sockets() <= before, "sockets to be closed")
        gc.collect()
        assert faults == []

    def run(test: Test) -> None:
        with asyncio.Runner(
            loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None
        ) as runner:
            runner.run(watched(test))
        assert [one.message for one in caplog.records if one.levelno >= 30] == []

    return run


def sockets() -> int:
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
    return count


async def until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[tuple[str, int]]:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await handler(reader, writer)
        writer.close()

    listening = await asyncio.start_server(closing, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()
    finally:
        listening.close()


@contextlib.asynccontextmanager
async def relaying(target: Callable[[], tuple[str, int] | None]) -> AsyncIterator[Relay]:
    one = Relay(target)
    await one.start()
    try:
        yield one
    finally:
        async with asyncio.timeout(5):
            await one.stop()


async def connect(relay: Relay) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = relay.address.split(":")
    return await asyncio.open_connection(host, int(port))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()


async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    content = await reader.read()
    writer.write(b"%d bytes" % len(content))
    await writer.drain()


def test_it_listens_from_the_moment_it_is_made_and_not_longer_than_it_lives(run) -> None:
    async def test() -> None:
        relay = Relay(lambda: None)
        host, port = relay.address.split(":")
        assert host == "127.0.0.1"
        _, writer = await connect(relay)  # waits in the backlog
        writer.close()
        await relay.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))

    run(test)


def test_bytes_pass_unchanged_both_ways(run) -> None:
    async def test() -> None:
        async with server(echo) as address, relaying(lambda: address) as relay:
            reader, writer = await connect(relay)
            sent = os.urandom(3 * 2**20 + 17)

            async def send() -> None:
                writer.write(sent)
                await writer.drain()
                writer.write_eof()

            _, received = await asyncio.gather(send(), reader.read())
            assert received == sent
            writer.close()

    run(test)


def test_a_half_closed_connection_still_gets_its_answer(run) -> None:
    async def test() -> None:
        async with server(answer_at_the_end) as address, relaying(lambda: address) as relay:
            reader, writer = await connect(relay)
            writer.write(b"x" * 1000)
            writer.write_eof()
            assert await reader.read() == b"1000 bytes"
            writer.close()

    run(test)


def test_the_end_of_the_server_is_the_end_for_the_client(run) -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")

    async def test() -> None:
        async with server(hello) as address, relaying(lambda: address) as relay:
            reader, writer = await connect(relay)
            assert await reader.read() == b"hello"
            writer.close()

    run(test)


@pytest.mark.parametrize("kind", ["none", "refused"])
def test_without_a_process_the_connection_is_closed(run, kind: str) -> None:
    async def test() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # nobody listens
            address = unused.getsockname() if kind == "refused" else None
            async with relaying(lambda: address) as relay:
                reader, writer = await connect(relay)
                async with asyncio.timeout(5):
                    assert await reader.read() == b""
                writer.close()

    run(test)


def test_a_process_that_does_not_take_connections_has_a_limit(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "CONNECT_SECONDS", 0.2)

    async def test() -> None:
        with socket.socket() as full, contextlib.ExitStack() as waiting:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for _ in range(4):  # fill its backlog
                one = waiting.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex(full.getsockname())
            async with relaying(full.getsockname) as relay:
                reader, writer = await connect(relay)
                async with asyncio.timeout(5):
                    assert await reader.read() == b""
                writer.close()

    run(test)


def test_new_connections_go_to_the_new_process_and_old_ones_stay(run) -> None:
    def named(name: bytes) -> Handler:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.readline():
                writer.write(name + b"\n")
                await writer.drain()

        return handler

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"who\n")
        return await reader.readline()

    async def test() -> None:
        async with server(named(b"old")) as old, server(named(b"new")) as new:
            target = [old]
            async with relaying(lambda: target[0]) as relay:
                first = await connect(relay)
                assert await ask(*first) == b"old\n"
                target[0] = new
                second = await connect(relay)
                assert await ask(*second) == b"new\n"
                assert await ask(*first) == b"old\n"
                for _, writer in (first, second):
                    writer.close()

    run(test)


def test_a_slow_reader_holds_up_the_sender(run) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(64):
            writer.write(b"x" * 2**20)
            await writer.drain()
            sent += 2**20

    async def test() -> None:
        nonlocal sent
        sent = 0
        async with server(flood) as address, relaying(lambda: address) as relay:
            reader, writer = await connect(relay)
            seen = -1
            while seen != sent:  # until nothing moves any more
                seen = sent
                await asyncio.sleep(0.3)
            assert sent < 40 * 2**20
            count = 0
            while chunk := await reader.read(2**20):
                count += len(chunk)
            assert count == 64 * 2**20
            writer.close()

    run(test)


def test_many_connections_at_once(run) -> None:
    async def test() -> None:
        async with server(answer_at_the_end) as address, relaying(lambda: address) as relay:

            async def one(number: int) -> bytes:
                reader, writer = await connect(relay)
                writer.write(b"x" * number)
                writer.write_eof()
                try:
                    return await reader.read()
                finally:
                    writer.close()

            answers = await asyncio.gather(*map(one, range(200)))
            assert answers == [b"%d bytes" % number for number in range(200)]
            await until(lambda: not relay._connections, "the relay to forget its connections")

    run(test)


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_of_one_side_ends_the_other(run, side: str) -> None:
    def reset(writer: asyncio.StreamWriter) -> None:
        raw = writer.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(1)
            begun.set()
            if side == "server":
                reset(writer)
            with contextlib.suppress(OSError):
                await reader.read()
            ended.set()

        async with server(handler) as address, relaying(lambda: address) as relay:
            reader, writer = await connect(relay)
            writer.write(b"x")
            if side == "client":
                await begun.wait()
                reset(writer)
            else:
                with contextlib.suppress(OSError):
                    async with asyncio.timeout(5):
                        while True:  # keeps writing into what is gone
                            writer.write(b"x" * 65536)
                            await writer.drain()
                            if reader.at_eof():
                                break
                writer.transport.abort()
            async with asyncio.timeout(5):
                await ended.wait()

    run(test)


@pytest.mark.parametrize("busy", ["idle", "flooded"])
def test_stop_ends_connections_that_are_under_way(run, busy: str) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while busy == "flooded":
            writer.write(b"x" * 2**20)
            await writer.drain()
        await reader.read()

    async def test() -> None:
        async with server(flood) as address:
            relay = Relay(lambda: address)
            await relay.start()
            connections = [await connect(relay) for _ in range(5)]
            await until(lambda: len(relay._connections) == 5, "the connections")
            if busy == "flooded":
                await asyncio.sleep(0.2)  # until every buffer is full
            async with asyncio.timeout(2):
                await relay.stop()
            # Nobody reads: what the relay still held must not keep its sockets.
            await until(lambda: not relay._connections, "the relay to let go")
            for _, writer in connections:
                writer.transport.abort()

    run(test)


def test_a_connection_that_comes_with_the_end_is_closed(run) -> None:
    async def test() -> None:
        async with server(echo) as address:
            for _ in range(20):
                relay = Relay(lambda: address)
                await relay.start()
                host, port = relay.address.split(":")
                opening = asyncio.create_task(asyncio.open_connection(host, int(port)))
                await asyncio.sleep(0)
                await relay.stop()
                with contextlib.suppress(OSError):
                    reader, writer = await opening
                    async with asyncio.timeout(5):
                        with contextlib.suppress(OSError):
                            assert await reader.read() == b""
                    writer.close()

    run(test)
