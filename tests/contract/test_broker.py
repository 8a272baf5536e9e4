"""The broker: Knative's Broker and Trigger semantics, and nothing lost whatever is killed."""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.serving.broker.delivery import Outcome
from helpers.serving.broker.lane import Item, Lane, Stored
from helpers.serving.broker.model import Delivery, Trigger
from helpers.serving.common.events import CloudEvent, new_event
from helpers.serving.common.tokens import make_token

pytestmark = pytest.mark.timeout(90)

SOON = 20.0  # seconds; an idle machine needs a fraction
QUICK = {"retry": 2, "backoffDelay": "PT0.05S"}


class Client:
    """What senders and the stack ask of a broker."""

    def __init__(self, server: Any, token: str) -> None:
        self.server = server
        self.http = httpx.Client(timeout=30, limits=httpx.Limits(max_connections=None))
        self.headers = {"authorization": f"Bearer {token}"}

    def control(self, method: str, path: str, **arguments: Any) -> Any:
        url = f"{self.server.url}/control/v1{path}"
        answer = self.http.request(method, url, headers=self.headers, **arguments)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def trigger(self, name: str, subscriber: str, **spec: Any) -> None:
        body = {"broker": "default", "subscriber": subscriber, **spec}
        self.control("PUT", f"/triggers/ns/{name}", json=body)

    def send(self, event: CloudEvent, broker: str = "default") -> httpx.Response:
        headers, body = event.to_binary()
        return self.http.post(f"{self.server.url}/ns/{broker}", headers=headers, content=body)

    def backlog(self) -> dict[str, int]:
        triggers = self.control("GET", "/triggers")["triggers"]
        return {trigger["name"]: trigger["backlog"] for trigger in triggers}

    def dead(self, **query: Any) -> list[dict[str, Any]]:
        return self.control("GET", "/dead-letters", params=query)["dead_letters"]

    def metric(self, line: str) -> float:
        for found in self.http.get(f"{self.server.url}/metrics").text.splitlines():
            if found.startswith(line + " "):
                return float(found.rpartition(" ")[2])
        return 0.0


@pytest.fixture
def start(start_server: Callable[..., Any], tmp_path: Path) -> Callable[..., Client]:
    """Return start(*options): a client of a new broker process."""
    token = make_token(tmp_path / "token")

    def start(*options: str) -> Client:
        server = start_server(
            "helpers.serving.broker",
            "--state",
            str(tmp_path / "state"),
            "--token-file",
            str(tmp_path / "token"),
            *options,
        )
        return Client(server, token)

    return start


@pytest.fixture
def broker(start: Callable[..., Client]) -> Client:
    return start()


@pytest.fixture
def another(subscriber: Any) -> Iterator[Any]:
    """A second subscriber."""
    one = type(subscriber)()
    yield one
    one.close()


def an_event(number: int = 0, type: str = "a.b", **extensions: str) -> CloudEvent:
    return new_event(type, "/tests", {"number": number}, **extensions)


def send_all(broker: Client, events: list[CloudEvent]) -> list[str]:
    """Send from 16 threads; return the ids of the events that were acknowledged."""

    def send(event: CloudEvent) -> str | None:
        try:
            return event.id if broker.send(event).status_code == 202 else None
        except httpx.HTTPError:
            return None

    with ThreadPoolExecutor(16) as pool:
        return [id for id in pool.map(send, events) if id is not None]


# What a trigger takes.


def test_delivers_what_was_sent(broker: Client, subscriber: Any, wait_until: Any) -> None:
    broker.trigger("all", subscriber.url)
    data = b'{"x":  1.50, "y": "\\u00fc"}\n'  # must arrive byte for byte
    event = CloudEvent(
        type="a.b",
        source='/s "ü%',
        data=data,
        subject="picture 1",
        datacontenttype="application/json",
        extensions={"requestid": "r-1"},
    )
    assert broker.send(event).status_code == 202
    headers, body = event.to_structured()
    url = f"{broker.server.url}/ns/default"
    assert broker.http.post(url, headers=headers, content=body).status_code == 202
    wait_until(lambda: len(subscriber.received) == 2, SOON, "both modes to arrive")
    first = subscriber.received[0]
    assert first.body == data
    assert first.headers["ce-source"] == "/s%20%22%C3%BC%25"
    assert first.headers["ce-subject"] == "picture%201"
    assert first.headers["ce-requestid"] == "r-1"
    assert first.headers["content-type"] == "application/json"
    assert first.headers["prefer"] == "reply"
    assert "ce-knativearrivaltime" in first.headers
    assert json.loads(subscriber.received[1].body) == json.loads(data)
    assert subscriber.received[1].id == event.id


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ({}, True),
        ({"type": "a.b"}, True),
        ({"type": "a"}, False),
        ({"type": "A.B"}, False),
        ({"type": ""}, True),
        ({"requestid": ""}, True),
        ({"requestid": "r"}, True),
        ({"requestid": "q"}, False),
        ({"absent": ""}, False),
        ({"subject": ""}, False),
        ({"type": "a.b", "source": "/other"}, False),
        ({"type": "a.b", "source": "/tests", "specversion": "1.0"}, True),
    ],
)
def test_filters_as_knative_does(wanted: dict[str, str], matches: bool) -> None:
    trigger = Trigger(
        namespace="ns", name="t", broker="b", filter=wanted, subscriber="http://host/"
    )
    assert trigger.matches(an_event(requestid="r")) is matches


def test_backoff_grows_as_knative_says() -> None:
    exponential = Delivery()
    assert [exponential.wait(n) for n in (1, 2, 3, 10)] == [0.2, 0.4, 0.8, 102.4]
    linear = Delivery(backoffPolicy="linear", backoffDelay="PT0.5S")
    assert [linear.wait(n) for n in (1, 2, 3)] == [0.5, 1.0, 1.5]


def test_only_the_own_broker_and_namespace(
    broker: Client, subscriber: Any, another: Any, wait_until: Any
) -> None:
    broker.trigger("here", subscriber.url, filter={"type": "a.b"})
    body = {"broker": "default", "subscriber": another.url}
    broker.control("PUT", "/triggers/elsewhere/there", json=body)
    body = {"broker": "second", "subscriber": another.url}
    broker.control("PUT", "/triggers/ns/second", json=body)
    assert broker.send(an_event(type="other")).status_code == 202
    event = an_event()
    assert broker.send(event).status_code == 202
    wait_until(lambda: subscriber.received, SOON, "the event")
    assert subscriber.ids() == [event.id]
    assert another.received == []


def test_delivers_in_order_of_arrival_where_asked(
    broker: Client, subscriber: Any, wait_until: Any
) -> None:
    failed = []

    def fail_once(received: Any) -> Any:
        if received.id == events[10].id and not failed:
            failed.append(received.id)
            return 503, {}, b""
        return 200, {}, b""

    subscriber.answer = fail_once
    broker.trigger("o", subscriber.url, delivery={"order": "ordered", "backoffDelay": "PT0.05S"})
    events = [an_event(number) for number in range(40)]
    for event in events:
        broker.send(event)
    wait_until(lambda: len(subscriber.received) == 41, SOON, "all events")
    ids = [event.id for event in events]
    assert subscriber.ids() == [*ids[:11], *ids[10:]]


# What happens to an event that is not taken.


def test_retries_with_growing_pauses(broker: Client, subscriber: Any, wait_until: Any) -> None:
    answers = iter([500, 429, 408, 404, 409])
    subscriber.answer = lambda received: (next(answers, 200), {}, b"")
    broker.trigger("t", subscriber.url, delivery={"backoffDelay": "PT0.05S"})
    broker.send(an_event())
    wait_until(lambda: len(subscriber.received) == 6, SOON, "five retries")
    times = [received.at for received in subscriber.received]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4, 0.8), strict=True):
        assert pause > least * 0.95
    wait_until(lambda: broker.backlog() == {"t": 0}, SOON, "the backlog to empty")
    assert broker.dead() == []
    assert broker.metric('broker_retries_total{namespace="ns",trigger="t"}') == 5


def test_a_fault_of_the_broker_costs_one_attempt_and_not_the_event() -> None:
    delivery = {"retry": 2, "backoffDelay": "PT0.01S"}
    trigger = Trigger(
        namespace="n", name="t", broker="b", subscriber="http://localhost", delivery=delivery
    )
    stored = Stored(1, "n", "b", CloudEvent("t", "s"), 1, 0.0)

    class Host:
        """A broker with one event, whose first two attempts break."""

        def __init__(self) -> None:
            self.attempts = 0
            self.settled = asyncio.Event()

        async def attempt(self, lane: Lane, item: Item) -> Outcome:
            self.attempts += 1
            if self.attempts < 3:
                raise RuntimeError("unforeseen")
            return Outcome(True, status=200)

        async def load(self, lane: Lane, after: int) -> tuple[list[Item], bool]:
            return [Item(0.0, 1, stored)] if after < 1 else [], False

        def settle(self, lane: Lane, item: Item) -> None:
            self.settled.set()

        def retried(self, lane: Lane) -> None:
            """Counted elsewhere."""

    async def scenario() -> int:
        host = Host()
        lane = Lane(1, trigger, host)
        lane.pump()
        await asyncio.wait_for(host.settled.wait(), 5)
        await lane.stop()
        return host.attempts

    assert asyncio.run(scenario()) == 3


def test_honours_retry_after(broker: Client, subscriber: Any, wait_until: Any) -> None:
    answers = iter([(503, {"retry-after": "1"}, b"")])
    subscriber.answer = lambda received: next(answers, (200, {}, b""))
    broker.trigger("t", subscriber.url, delivery=QUICK)
    broker.send(an_event())
    wait_until(lambda: len(subscriber.received) == 2, SOON, "the retry")
    assert subscriber.received[1].at - subscriber.received[0].at > 0.95


def test_dead_letters_are_listed_redriven_and_deleted(
    broker: Client, subscriber: Any, wait_until: Any
) -> None:
    subscriber.answer = lambda received: (500, {}, b"no room")
    broker.trigger("t", subscriber.url, delivery=QUICK)
    event = an_event()
    broker.send(event)
    wait_until(lambda: broker.dead(), SOON, "the dead letter")
    (letter,) = broker.dead(namespace="ns", trigger="t")
    assert letter["attributes"]["id"] == event.id
    assert letter["error"] == {
        "destination": subscriber.url,
        "status": 500,
        "reason": "no room",
        "attempts": 3,
    }
    assert len(subscriber.received) == 3

    subscriber.answer = lambda received: (400, {}, b"")  # at once: no retry makes it right
    assert broker.control("POST", "/dead-letters/redrive") == {"redriven": 1}
    wait_until(lambda: broker.dead(), SOON, "the dead letter again")
    assert len(subscriber.received) == 4

    broker.server.kill()  # the dead letter survives
    broker.server.restart()
    subscriber.answer = lambda received: (200, {}, b"")
    (letter,) = broker.dead()
    answer = broker.control("POST", "/dead-letters/redrive", params={"id": letter["id"]})
    assert answer == {"redriven": 1}
    wait_until(lambda: broker.backlog() == {"t": 0}, SOON, "the delivery")
    assert subscriber.ids() == [event.id] * 5
    assert broker.dead() == []

    subscriber.answer = lambda received: (400, {}, b"")
    broker.send(an_event())
    wait_until(lambda: broker.dead(), SOON, "another dead letter")
    assert broker.control("DELETE", "/dead-letters", params={"trigger": "t"}) == {"deleted": 1}
    assert broker.dead() == []


def test_dead_letter_sink(broker: Client, subscriber: Any, another: Any, wait_until: Any) -> None:
    subscriber.answer = lambda received: (422, {}, b"not this one")
    answers = iter([(503, {}, b"")])
    another.answer = lambda received: next(answers, (200, {}, b""))
    broker.trigger("t", subscriber.url, delivery={**QUICK, "deadLetterSink": another.url})
    event = an_event()
    broker.send(event)
    wait_until(lambda: len(another.received) == 2, SOON, "the sink to get it")
    last = another.received[-1]
    assert last.id == event.id
    assert last.headers["ce-knativeerrorcode"] == "422"
    assert last.headers["ce-knativeerrordest"] == subscriber.url
    assert last.headers["ce-knativeerrordata"] == "not%20this%20one"
    wait_until(lambda: broker.backlog() == {"t": 0}, SOON, "the backlog to empty")
    assert broker.dead() == []


# Replies.


def test_a_reply_is_a_new_event(
    broker: Client, subscriber: Any, another: Any, wait_until: Any
) -> None:
    def judge(received: Any) -> Any:
        reply = CloudEvent(
            type="verdict",
            source="detector",
            id=received.id,
            data=b'{"data": {"is_outlier": [1]}}',
            datacontenttype="application/json",
            extensions={"requestid": received.headers["ce-requestid"]},
        )
        return 200, *reply.to_binary()

    subscriber.answer = judge
    broker.trigger("judge", subscriber.url, filter={"type": "a.b"})
    broker.trigger("log", another.url, filter={"type": "verdict"})
    event = an_event(requestid="r9")
    broker.send(event)
    wait_until(lambda: another.received, SOON, "the reply")
    assert another.received[0].id == event.id
    assert another.received[0].headers["ce-requestid"] == "r9"
    assert another.received[0].body == b'{"data": {"is_outlier": [1]}}'
    found = broker.control("GET", "/events", params={"requestid": "r9", "data": "1"})["events"]
    assert [one["attributes"]["type"] for one in found] == ["verdict", "a.b"]
    assert found[0]["matched"] == ["log"]
    assert found[0]["data"] == {"data": {"is_outlier": [1]}}


def test_an_answer_that_is_no_event_is_a_failure(
    broker: Client, subscriber: Any, wait_until: Any
) -> None:
    subscriber.answer = lambda received: (200, {"content-type": "text/plain"}, b"thanks")
    broker.trigger("t", subscriber.url, delivery=QUICK)
    broker.send(an_event())
    wait_until(lambda: broker.dead(), SOON, "the dead letter")
    assert len(subscriber.received) == 3
    assert broker.dead()[0]["error"]["status"] == 502


def test_a_loop_of_replies_ends(broker: Client, subscriber: Any, wait_until: Any) -> None:
    subscriber.answer = lambda received: (200, *an_event().to_binary())
    broker.trigger("t", subscriber.url)
    broker.send(an_event())
    loops = 'broker_reply_loops_total{namespace="ns",trigger="t"}'
    wait_until(lambda: broker.metric(loops) == 1, SOON, "the loop to end")
    assert len(subscriber.received) == 32


# One subscriber does not harm another.


def test_a_slow_or_dead_subscriber_delays_nobody(
    broker: Client, subscriber: Any, another: Any, wait_until: Any
) -> None:
    def sleep(received: Any) -> Any:
        time.sleep(1.0)
        return 200, {}, b""

    another.answer = sleep
    broker.trigger("slow", another.url)
    broker.trigger("gone", "http://127.0.0.1:9/")
    broker.trigger("quick", subscriber.url)
    events = [an_event(number) for number in range(100)]
    assert len(send_all(broker, events)) == 100
    wait_until(lambda: len(subscriber.received) == 100, SOON, "the quick one to have all")
    assert sorted(subscriber.ids()) == sorted(event.id for event in events)
    backlog = broker.backlog()
    assert backlog["gone"] == 100
    assert backlog["slow"] > 0 or len(another.received) < 100


# Nothing is lost.


def test_a_killed_broker_loses_nothing_it_acknowledged(
    broker: Client, subscriber: Any, another: Any, wait_until: Any
) -> None:
    def dawdle(received: Any) -> Any:
        time.sleep(0.01)
        return 200, {}, b""

    another.answer = dawdle
    broker.trigger("one", subscriber.url)
    broker.trigger("two", another.url)
    accepted: list[str] = []
    with ThreadPoolExecutor(1) as killer:
        for number in range(3):
            events = [an_event(number) for _ in range(200)]
            before = len(subscriber.received)

            def kill(before: int = before) -> None:
                wait_until(lambda: len(subscriber.received) > before + 20, SOON, "some events")
                broker.server.kill()

            killed = killer.submit(kill)
            now = send_all(broker, events)
            killed.result()
            broker.server.restart()
            # A sender that got no answer sends again, as the gateway does.
            now += send_all(broker, [event for event in events if event.id not in now])
            assert len(now) == 200
            accepted += now
    for one in (subscriber, another):
        wait_until(lambda one=one: set(accepted) <= set(one.ids()), 40, "all that was accepted")
    wait_until(lambda: broker.backlog() == {"one": 0, "two": 0}, SOON, "the backlog to empty")
    repeated = len(subscriber.received) - len(set(subscriber.ids()))
    print(f"accepted {len(accepted)}, delivered twice {repeated}")


def test_a_killed_consumer_loses_nothing(
    broker: Client, start_server: Callable[..., Any], tmp_path: Path, wait_until: Any
) -> None:
    log = start_server("helpers.serving.payload_log", "--state", str(tmp_path / "log"))
    broker.trigger("log", log.url)
    number_of_events = 500
    kind = "io.seldon.serving.inference.request"
    events = [
        new_event(kind, "/gateway", {"instances": [[number]]}, requestid=f"r{number}")
        for number in range(number_of_events)
    ]
    assert len(send_all(broker, events[:200])) == 200
    log.kill()
    assert len(send_all(broker, events[200:])) == 300
    time.sleep(1.0)  # it stays away longer than the first pauses
    log.restart()
    wait_until(lambda: broker.backlog() == {"log": 0}, 40, "the backlog to empty")
    counts = httpx.get(log.url + "/v1/counts").json()["counts"]
    assert [count["requests"] for count in counts.values()] == [number_of_events]
    assert broker.dead() == []


def test_triggers_and_backlog_survive_a_restart(
    broker: Client, subscriber: Any, wait_until: Any
) -> None:
    gone = subscriber.url
    subscriber.close()
    broker.trigger("t", gone, filter={"type": "a.b"})
    event = an_event()
    broker.send(event)
    before = broker.control("GET", "/triggers")["triggers"][0]
    assert broker.server.stop() == 0
    broker.server.restart()
    after = broker.control("GET", "/triggers")["triggers"][0]
    assert after["backlog"] == 1
    assert {**after, "reachable": 0, "waiting_for_retry": 0} == {
        **before,
        "reachable": 0,
        "waiting_for_retry": 0,
    }
    back = type(subscriber)()
    broker.trigger("t", back.url, filter={"type": "a.b"})  # as after a roll-over
    wait_until(lambda: back.ids() == [event.id], SOON, "the event")
    back.close()


def test_a_deleted_trigger_gets_nothing_more(
    broker: Client, subscriber: Any, wait_until: Any
) -> None:
    subscriber.answer = lambda received: (503, {}, b"")
    broker.trigger("t", subscriber.url)
    broker.send(an_event())
    wait_until(lambda: subscriber.received, SOON, "the first attempt")
    broker.control("DELETE", "/triggers/ns/t")
    got = len(subscriber.received)
    assert broker.send(an_event()).status_code == 202  # its broker is still there
    time.sleep(0.5)
    assert len(subscriber.received) == got
    assert broker.backlog() == {}


# The disk is bounded.


def test_delivered_events_are_pruned(
    start: Callable[..., Client], subscriber: Any, tmp_path: Path, wait_until: Any
) -> None:
    broker = start("--keep-events", "20", "--max-events", "100")
    broker.trigger("t", subscriber.url)
    for _ in range(5):
        assert len(send_all(broker, [an_event() for _ in range(60)])) == 60
        wait_until(lambda: broker.backlog() == {"t": 0}, SOON, "the backlog to empty")

    def stored() -> int:
        with sqlite3.connect(f"file:{tmp_path}/state/broker.sqlite?mode=ro", uri=True) as db:
            return db.execute("SELECT count(*) FROM events").fetchone()[0]

    wait_until(lambda: stored() == 20, SOON, "what was delivered to be pruned")
    assert broker.metric("broker_stored_events") == 20


def test_a_full_backlog_is_refused_and_recovers(
    start: Callable[..., Client], subscriber: Any, wait_until: Any
) -> None:
    broker = start("--max-events", "50")
    subscriber.answer = lambda received: (503, {}, b"")
    broker.trigger(
        "t",
        subscriber.url,
        delivery={"retry": 100, "backoffPolicy": "linear", "backoffDelay": "PT0.1S"},
    )
    assert len(send_all(broker, [an_event() for _ in range(80)])) in range(50, 66)
    refused = broker.send(an_event())
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    subscriber.answer = lambda received: (200, {}, b"")
    wait_until(lambda: broker.backlog() == {"t": 0}, 40, "the backlog to empty")
    assert broker.send(an_event()).status_code == 202


def test_a_full_disk_is_said_and_recovers(broker: Client, subscriber: Any, wait_until: Any) -> None:
    broker.trigger("t", subscriber.url)
    process = broker.server.process.pid
    assert broker.send(an_event()).status_code == 202
    wait_until(lambda: broker.backlog() == {"t": 0}, SOON, "the first delivery")
    resource.prlimit(process, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    refused = broker.send(an_event())
    assert refused.status_code == 503, refused.text
    assert refused.headers["retry-after"] == "1"
    assert "cannot be stored" in refused.json()["error"]
    ready = broker.http.get(f"{broker.server.url}/ready")
    assert ready.status_code == 503
    assert "cannot write" in ready.json()["reason"]
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(process, resource.RLIMIT_FSIZE, unlimited)
    event = an_event()
    wait_until(lambda: broker.send(event).status_code == 202, SOON, "the disk to be used again")
    wait_until(lambda: event.id in subscriber.ids(), SOON, "the delivery")
    assert broker.http.get(f"{broker.server.url}/ready").status_code == 200
    assert len(subscriber.received) == 2  # what was refused is not delivered
    wait_until(lambda: broker.backlog() == {"t": 0}, SOON, "the backlog to empty")


# Who may do what, and what is refused.


@pytest.fixture(scope="module")
def shared(start_shared: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Client:
    folder = tmp_path_factory.mktemp("state")
    token = make_token(folder / "token")
    arguments = ("--state", str(folder / "state"), "--token-file", str(folder / "token"))
    client = Client(start_shared("helpers.serving.broker", *arguments), token)
    client.control("PUT", "/brokers/ns/default")
    return client


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/ns/default", {}, b"{}", 202),
        ("/ns/default", {}, b"", 202),
        ("/ns/default", {"ce-id": ""}, b"{}", 400),
        ("/ns/default", {"ce-type": ""}, b"{}", 400),
        ("/ns/default", {"ce-specversion": "0.3"}, b"{}", 400),
        ("/ns/default", {"ce-time": "soon"}, b"{}", 400),
        ("/ns/default", {"ce-some-name": "x"}, b"{}", 400),
        ("/ns/default", {"ce-evil": "a%0d%0ax: y"}, b"{}", 400),
        ("/ns/default", {"ce-knativebrokerttl": "many"}, b"{}", 400),
        ("/ns/default", {"content-encoding": "br"}, b"{}", 415),
        ("/ns/default", {"content-type": "application/cloudevents+json"}, b"{", 400),
        ("/ns/default", {"content-type": "application/cloudevents-batch+json"}, b"[]", 415),
        ("/ns/default", {}, b" " * (33 * 2**20), 413),
        ("/ns/nobody", {}, b"{}", 404),
        ("/other/default", {}, b"{}", 404),
        ("/nothing", {}, b"{}", 404),
    ],
)
def test_ingress_refuses_what_is_no_event(
    shared: Client, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    given = {"ce-specversion": "1.0", "ce-id": "1", "ce-type": "t", "ce-source": "/s"}
    answer = shared.http.post(shared.server.url + path, headers=given | headers, content=body)
    assert answer.status_code == status, answer.text
    if status == 202:
        assert answer.content == b""
    else:
        assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"subscriber": "ftp://host/"}, 400),
        ({"subscriber": None}, 400),
        ({"broker": "Not_A_Name"}, 400),
        ({"filter": {"Type": "x"}}, 400),
        ({"filter": {"type": 1}}, 400),
        ({"delivery": {"retry": -1}}, 400),
        ({"delivery": {"backoffDelay": "soon"}}, 400),
        ({"delivery": {"backoffPolicy": "cubic"}}, 400),
        ({"surprise": 1}, 400),
        ({"broker": "another"}, 409),
    ],
)
def test_triggers_are_checked(shared: Client, change: dict[str, Any], status: int) -> None:
    body = {"broker": "default", "subscriber": "http://127.0.0.1:9/", "filter": {"type": "no"}}
    shared.control("PUT", "/triggers/ns/checked", json=body)
    answer = shared.http.put(
        f"{shared.server.url}/control/v1/triggers/ns/checked",
        headers=shared.headers,
        json=body | change,
    )
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic abc", "Bearer", "Bearer é"])
def test_control_needs_the_token(shared: Client, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given.encode("latin-1")}
    for method, path in (
        ("GET", "/triggers"),
        ("GET", "/events"),
        ("PUT", "/triggers/ns/t"),
        ("DELETE", "/brokers/ns/default"),
        ("POST", "/dead-letters/redrive"),
    ):
        url = f"{shared.server.url}/control/v1{path}"
        assert shared.http.request(method, url, headers=headers).status_code == 401


@pytest.mark.parametrize(
    "path", ["/events?limit=-1", "/events?after=x", "/dead-letters?id=x", "/dead-letters?limit=1e3"]
)
def test_bad_questions_are_refused(shared: Client, path: str) -> None:
    url = f"{shared.server.url}/control/v1{path}"
    assert shared.http.get(url, headers=shared.headers).status_code == 400


def test_a_token_that_others_may_read_is_refused(
    start: Callable[..., Client], tmp_path: Path
) -> None:
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(AssertionError, match="chmod 600"):
        start()
