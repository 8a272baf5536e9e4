"""Many predictions at once, against a server on a real socket."""

from __future__ import annotations

import asyncio
import http.server
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from helpers.client import Client
from helpers.errors import ClientError
from helpers.traffic import feedback_for_accuracy, send

X = np.arange(40, dtype=np.float32).reshape(20, 2)


class Model:
    """Answers each instance with (its first number, 0), or as `answer(instances)` says."""

    def __init__(self) -> None:
        self.answer: Callable[[list], tuple[int, Any]] = lambda rows: (
            200,
            {"predictions": [[row[0], 0.0] for row in rows]},
        )
        self.headers: list[dict[str, str]] = []
        self.sizes: list[int] = []
        self.under_way = self.most = 0
        self.lock = threading.Lock()
        ids = itertools.count()
        model = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                with model.lock:
                    model.under_way += 1
                    model.most = max(model.most, model.under_way)
                rows = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
                rows = rows["instances"]
                model.headers.append({k.lower(): v for k, v in self.headers.items()})
                model.sizes.append(len(rows))
                try:
                    status, content = model.answer(rows)
                finally:
                    with model.lock:
                        model.under_way -= 1
                body = content if isinstance(content, bytes) else orjson.dumps(content)
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.send_header("seldon-puid", f"id-{rows[0][0]:g}-{next(ids)}")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:
                """Broken connections are what some tests make."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        self.client = Client(f"http://127.0.0.1:{self.server.server_port}", timeout=5)

    def close(self) -> None:
        self.client.close()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def model() -> Iterator[Model]:
    one = Model()
    yield one
    one.close()


def together(count: int) -> Callable[[], None]:
    """Return a function that blocks until `count` callers are in it at once."""
    barrier = threading.Barrier(count, timeout=20)
    return lambda: barrier.wait() and None


def test_answers_stand_in_the_order_of_the_instances(model: Model) -> None:
    plain = model.answer

    def slow_start(rows: list) -> tuple[int, Any]:
        if rows[0][0] == 0:  # the first answer is the last to come
            while len(model.sizes) < 20:
                time.sleep(0.001)
        return plain(rows)

    model.answer = slow_start
    traffic = send(model.client, X, concurrency=4)
    np.testing.assert_array_equal(traffic.probabilities[:, 0], X[:, 0])
    assert [float(id.split("-")[1]) for id in traffic.request_ids] == X[:, 0].tolist()
    assert len(set(traffic.request_ids)) == 20
    assert traffic.codes() == {200: 20}
    assert traffic.ok.all()
    assert traffic.seconds.argmax() == 0
    assert 0 < traffic.seconds.min() <= traffic.percentiles([50])[50]
    assert traffic.percentiles([50])[50] <= traffic.percentiles([100])[100] <= traffic.duration
    assert traffic.rate == pytest.approx(20 / traffic.duration)
    assert traffic.problems == {}


@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_at_once_as_asked(model: Model, concurrency: int) -> None:
    wait, plain = together(concurrency), model.answer

    def all_at_once(rows: list) -> tuple[int, Any]:
        wait()
        return plain(rows)

    model.answer = all_at_once
    send(model.client, X[:12], concurrency=concurrency)
    assert model.most == concurrency


def test_batches(model: Model) -> None:
    traffic = send(model.client, X, concurrency=1, batch=8)
    assert model.sizes == [8, 8, 4]
    assert traffic.rows.tolist() == [8, 8, 4]
    np.testing.assert_array_equal(traffic.probabilities[:, 0], X[:, 0])
    assert traffic.labels.shape == (20,)


def test_a_list_has_one_request_for_each_array(model: Model) -> None:
    traffic = send(model.client, [X[:1], X[1:4]], concurrency=1)
    assert model.sizes == [1, 3]
    np.testing.assert_array_equal(traffic.probabilities[:, 0], X[:4, 0])


def test_failures_are_noted_where_they_happened(model: Model) -> None:
    plain = model.answer

    def choosy(rows: list) -> tuple[int, Any]:
        value = rows[0][0]
        if value == 2:
            return 400, {"error": "two is wrong"}
        if value == 4:
            raise ConnectionResetError  # closes the connection without an answer
        if value == 6:
            return 200, {"something": "else"}
        if value == 8:
            return 200, {"predictions": [[1, 2], [3, 4]]}
        return plain(rows)

    model.answer = choosy
    traffic = send(model.client, X[:6], concurrency=2)
    assert traffic.status.tolist() == [200, 400, 0, 200, 200, 200]
    assert traffic.codes() == {200: 4, 400: 1, 0: 1}
    assert np.isnan(traffic.probabilities[:, 0]).tolist() == [False, True, True, True, True, False]
    assert traffic.labels.tolist() == [0, -1, -1, -1, -1, 0]
    assert traffic.problems[400] == "two is wrong"
    assert "something" in traffic.problems[200]
    assert traffic.request_ids[2] == ""
    assert len(model.sizes) == 6  # none was tried again


def test_all_failed_is_an_error(model: Model) -> None:
    model.answer = lambda rows: (503, {"error": "not ready"})
    with pytest.raises(ClientError, match=r"All 20 requests .* 503: not ready") as caught:
        send(model.client, X)
    assert caught.value.status == 503


def test_nobody_there_is_an_error(model: Model) -> None:
    model.server.server_close()
    with pytest.raises(ClientError, match="not answered") as caught:
        send(model.client, X)
    assert caught.value.status is None


def test_answers_of_different_widths_are_not_stacked(model: Model) -> None:
    model.answer = lambda rows: (200, {"predictions": [[1.0] * (1 + int(rows[0][0]))]})
    traffic = send(model.client, X[:3])
    assert traffic.probabilities is None
    with pytest.raises(ClientError, match="widths"):
        traffic.labels  # noqa: B018


def test_a_rate_is_kept(model: Model) -> None:
    traffic = send(model.client, X, concurrency=4, rate=100)
    assert traffic.duration >= 19 / 100
    assert traffic.codes() == {200: 20}


def test_waiting_for_its_turn_counts_when_there_is_a_rate(model: Model) -> None:
    plain, seconds = model.answer, 0.02

    def slow(rows: list) -> tuple[int, Any]:
        threading.Event().wait(seconds)
        return plain(rows)

    model.answer = slow
    traffic = send(model.client, X[:10], concurrency=1, rate=1e6)  # all are due at once
    assert traffic.seconds[-1] >= 10 * seconds
    assert (np.diff(traffic.seconds) > 0).all()


def test_the_header_that_skips_logging(model: Model) -> None:
    send(model.client, X[:2], skip_logging=True)
    send(model.client, X[:2])
    assert [headers.get("seldon-skip-logging") for headers in model.headers] == [
        "true",
        "true",
        None,
        None,
    ]


def test_it_works_where_an_event_loop_runs_already(model: Model) -> None:
    async def notebook() -> dict[int, int]:
        return send(model.client, X).codes()

    assert asyncio.run(notebook()) == {200: 20}


def test_no_bar_where_nobody_watches(model: Model, capfd: pytest.CaptureFixture) -> None:
    send(model.client, X)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "wrong", [{"concurrency": 0}, {"batch": 0}, {"rate": 0}, {"x": X[:0]}], ids=str
)
def test_nonsense_is_refused(model: Model, wrong: dict) -> None:
    with pytest.raises(ClientError, match=r"positive|nothing to send"):
        send(model.client, **{"x": X} | wrong)
    assert model.sizes == []


# Feedback ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("accuracy", [0.0, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("count", [10, 500, 503])
def test_feedback_amounts_to_the_accuracy(accuracy: float, count: int) -> None:
    truth, response = feedback_for_accuracy(accuracy, count)
    assert truth.shape == response.shape == (count,)
    assert (truth == response).sum() == round(accuracy * count)
    assert set(truth) == set(range(10))
    assert np.ptp(np.bincount(truth)) <= 1
    assert np.ptp(np.bincount(truth[truth == response], minlength=10)) <= 1
    assert set(response) <= set(range(10))


def test_wrong_responses_are_spread_over_the_classes_and_the_order_is_mixed() -> None:
    truth, response = feedback_for_accuracy(0.4, 1000)
    assert (np.bincount(response[truth != response], minlength=10) > 30).all()
    assert (truth[:-1] == truth[1:]).any()
    right = truth == response
    assert right[:500].sum() == pytest.approx(200, abs=50)


def test_the_seed_decides() -> None:
    first, again, other = (feedback_for_accuracy(0.5, 100, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("wrong", [(-0.1, 10, 10), (1.1, 10, 10), (0.5, 0, 10), (0.5, 10, 1)])
def test_no_such_feedback(wrong: tuple) -> None:
    accuracy, count, classes = wrong
    with pytest.raises(ClientError):
        feedback_for_accuracy(accuracy, count, classes=classes)
