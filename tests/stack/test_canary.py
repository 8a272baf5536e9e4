"""A canary from 5 to 100 percent and back on the local stack, with requests coming in all the time."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator

import httpx
import orjson
import pytest

from helpers import artifacts
from helpers.client import Client
from helpers.stack.local.client import LocalStack

pytestmark = pytest.mark.timeout(300)

REQUESTS = 600  # of one step
SERVED = "seldon_api_executor_server_requests_seconds_count"
BEFORE = ("storage/s3-credentials.yaml", "eventing/broker.yaml", "logging/cifar10-logged.yaml")


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory, manifest) -> Iterator[LocalStack]:
    """A stack of its own with the logged model."""
    if not artifacts.exists("cifar10", "resnet32"):
        pytest.skip("artifacts/cifar10/resnet32 is not here")
    stack = LocalStack(folder=tmp_path_factory.mktemp("canary") / "state")
    try:
        stack.apply(*map(manifest, BEFORE))
        stack.wait(timeout=120)
        yield stack
    finally:
        stack.down()


class Load:
    """Requests one after the other in two threads until the block ends: who served, and what failed."""

    def __init__(self, stack: LocalStack, image) -> None:
        self.url = f"{stack.url('cifar10')}/v1/models/resnet32:predict"
        self.body = orjson.dumps({"instances": image.tolist()})
        self.served: Counter[str] = Counter()
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def _run(self) -> None:
        with httpx.Client(timeout=30, trust_env=False) as http:
            while not self._stop.is_set():
                try:
                    answer = http.post(self.url, content=self.body)
                except httpx.HTTPError as problem:
                    self.failed.append(repr(problem))
                    continue
                if answer.status_code == 200:
                    self.served[answer.headers["seldon-variant"]] += 1
                else:
                    self.failed.append(f"{answer.status_code} {answer.text[:200]}")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def test_promotion_and_rollback_under_load(canary, manifest, images, eventually):
    """No request fails, and each step's share is as stated within four standard deviations."""
    before = canary.metrics("gateway")
    with Load(canary, images[:1]) as load:
        for share in (5, 25, 100):
            canary.apply(manifest(f"canary/{share}-percent/cifar10.yaml"))
            canary.wait("cifar10", timeout=120)
            start = Counter(load.served)
            eventually(
                lambda start=start: (load.served - start).total() >= REQUESTS,
                f"{REQUESTS} requests at {share} %",
                120,
            )
            step = load.served - start
            expected = step.total() * share / 100
            # Two requests may have begun before the step did.
            bound = 4 * math.sqrt(expected * (1 - share / 100)) + 2
            assert abs(step["canary"] - expected) <= bound, step
        canary.apply(manifest("logging/cifar10-logged.yaml"))
        canary.wait("cifar10", timeout=120)
        start = Counter(load.served)
        eventually(lambda: (load.served - start).total() >= 50, "requests after the rollback", 60)
        assert (load.served - start)["canary"] <= 2
        eventually(
            lambda: not [one for one in canary.status() if "canary" in one.name],
            "the canary to end",
        )
    totals = load.served
    assert load.failed == []

    counted = (canary.metrics("gateway") - before).by(SERVED, "predictor_name")
    assert counted == {"default": totals["default"], "canary": totals["canary"]}


def test_one_request_is_pinned_to_the_canary_and_its_event_says_so(
    canary, manifest, images, eventually
):
    canary.apply(manifest("canary/5-percent/cifar10.yaml"))
    canary.wait("cifar10", timeout=120)
    with Client(canary.url("cifar10")) as client:
        body = client.encode(images[:1])
    url = f"{canary.url('cifar10')}/v1/models/resnet32:predict"
    before = canary.metrics("gateway")
    answers = [
        httpx.post(url, content=body, headers={"seldon-variant": "canary"}, timeout=30)
        for _ in range(10)
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["seldon-variant"] for answer in answers} == {"canary"}
    assert {answer.headers["seldon-variant-pinned"] for answer in answers} == {"true"}
    after = canary.metrics("gateway") - before
    assert after.by("gateway_pinned_requests_total", "predictor_name") == {"canary": 10}

    puid = answers[0].headers["seldon-puid"]

    def events() -> list[dict]:
        found = [one["attributes"] for one in canary.events(limit=50)]
        return [one for one in found if one.get("requestid") == puid]

    eventually(lambda: len(events()) == 2, "both events of the request")
    for event in events():
        assert (event["variant"], event["variantpinned"]) == ("canary", "true")

    lost = httpx.post(url, content=body, headers={"seldon-variant": "lost"}, timeout=30)
    assert lost.status_code == 400
    assert "default, canary" in lost.json()["error"]
