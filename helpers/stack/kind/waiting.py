"""Waiting until what was applied is ready, and the sentence that says what is not, since when and why."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import httpx

from helpers.errors import StackError
from helpers.serving.common.polling import WaitError, wait_for
from helpers.stack.interface import NAMESPACE
from helpers.stack.kind import objects, pods
from helpers.stack.kind.connection import Api, Object
from helpers.stack.kind.events import EVENT_LOG
from helpers.stack.kind.kinds import (
    BROKER,
    DEPLOYMENT,
    EVENT,
    SELDON_DEPLOYMENT,
    SERVICE,
    TRIGGER,
    Kind,
)
from helpers.stack.kind.problems import AwayError
from helpers.stack.kind.readiness import Lack, explainers, lacks
from helpers.stack.kind.servers import Servers

EVENTS = 3  # the last ones, of each server
AWAY_SECONDS = 30.0  # a busy machine's API server may be silent for a while
NAMED = (SELDON_DEPLOYMENT, DEPLOYMENT, BROKER, TRIGGER, SERVICE)
PROBE = httpx.Timeout(5.0, connect=2.0)


def wait(
    api: Api,
    ingress: str,
    names: Sequence[str],
    applied: Collection[tuple[Kind, str]],
    timeout: float,
) -> None:
    """Return once objects are ready, and models and explainers are reached through the ingress.

    Args:
        api: of the cluster.
        ingress: its address.
        names: of objects and servers; without any, all that was made through a stack, and `applied`.
        applied: kind and name of what was there before, and applied nevertheless.
        timeout: seconds.

    Raises:
        StackError: not ready in time; or nothing has one of the names.
    """
    found: list[Lack] = []
    answered, away = time.monotonic(), None

    def is_ready() -> bool:
        nonlocal found, answered, away
        try:
            found = _lacks(api, ingress, names, applied)
        except AwayError as problem:
            away = problem
            if time.monotonic() - answered > AWAY_SECONDS:
                raise
            return False
        answered = time.monotonic()
        return not found

    try:
        wait_for(is_ready, "the cluster", seconds=timeout, first=0.1, every=2.0, errors=())
    except WaitError as problem:
        if away is not None and not found:  # it has not answered once
            raise away from problem
        raise StackError(not_ready(api, found, timeout)) from problem


def known(api: Api) -> str:
    """Return the names of what there is, for errors."""
    names = {one["metadata"]["name"] for _, one in objects.applied(api)}
    names |= {one["metadata"]["name"] for one in api.list(DEPLOYMENT)}
    return ", ".join(sorted(names)) or "nothing yet"


def _lacks(
    api: Api, ingress: str, names: Sequence[str], applied: Collection[tuple[Kind, str]]
) -> list[Lack]:
    there = _of_names(api, names) if names else _of_all(api, applied)
    deployments = api.list(DEPLOYMENT)
    looked_at = there + _event_log(api, there)
    found = [lack for kind, one in looked_at for lack in lacks(kind, one, deployments)]
    missing = set(names) - {one["metadata"]["name"] for _, one in there}
    if missing:
        raise StackError(f"Nothing here is called {min(missing)!r}; there is {known(api)}.")
    if found:
        return found
    # The way to them opens a moment after they are ready.
    models = [one for kind, one in there if kind == SELDON_DEPLOYMENT]
    return [lack for one in models for lack in _unrouted(ingress, one)]


def _of_all(api: Api, applied: Collection[tuple[Kind, str]]) -> list[tuple[Kind, Object]]:
    found = objects.applied(api)
    made = {(kind, one["metadata"]["name"]) for kind, one in found}
    others = [(kind, api.get(kind, name)) for kind, name in applied if (kind, name) not in made]
    return found + [(kind, one) for kind, one in others if one is not None]


def _of_names(api: Api, names: Sequence[str]) -> list[tuple[Kind, Object]]:
    """Objects of these names, whoever applied them."""
    asked = [(kind, name) for kind in NAMED if api.knows(kind) for name in names]
    found = [(kind, api.get(kind, name)) for kind, name in asked]
    return [(kind, one) for kind, one in found if one is not None]


def _event_log(api: Api, there: list[tuple[Kind, Object]]) -> list[tuple[Kind, Object]]:
    """The trigger that kind/up has put on a broker: before it is ready, `Stack.events()` gets nothing."""
    brokers = {one["metadata"]["name"] for kind, one in there if kind == BROKER}
    trigger = api.get(TRIGGER, EVENT_LOG) if brokers else None
    if trigger is None or trigger["spec"]["broker"] not in brokers:
        return []
    return [(TRIGGER, trigger)]


def _unrouted(ingress: str, deployment: Object) -> list[Lack]:
    name = deployment["metadata"]["name"]
    found = []
    with httpx.Client(timeout=PROBE, trust_env=False) as http:
        for place in (name, *(f"{name}-explainer/{one}" for one in explainers(deployment))):
            url = f"{ingress}/seldon/{NAMESPACE}/{place}/ready"
            try:
                answer = http.get(url)
            except httpx.HTTPError as problem:
                told = str(problem) or type(problem).__name__
                reason = f"the ingress does not answer at {url} ({told})"
            else:
                if _was_routed(answer):
                    continue
                reason = f"the ingress has no route yet: {url} answers {answer.status_code}"
            found.append(Lack(f"SeldonDeployment/{name}", reason))
    return found


def _was_routed(answer: httpx.Response) -> bool:
    """Whether a server answered, and not the gateway itself, which says 404 and nothing where it has no route."""
    if answer.status_code not in (404, 502, 503):
        return True
    if "x-envoy-upstream-service-time" in answer.headers:
        return True
    return answer.status_code == 404 and bool(answer.content)


def not_ready(api: Api, lacks: Sequence[Lack], timeout: float) -> str:
    """Return what is not ready: reason and time from the conditions, then pods, their last line, events.

    Args:
        api: of the cluster.
        lacks: what was found last.
        timeout: that has passed, in seconds.
    """
    servers = Servers(api)
    told = []
    for lack in lacks:
        since = f" for {pods.since(lack.since):.0f} s" if lack.since else ""
        told.append(f"{lack.what}: {lack.reason}{since}{_about(api, servers, lack)}")
    sentence = f"Not ready after {timeout:g} s: {'; '.join(told)}."
    named = [lack.deployment for lack in lacks if lack.deployment]
    if named:
        sentence += f" `python -m helpers.stack logs {named[0]} --backend kind` shows more."
    return sentence


def _about(api: Api, servers: Servers, lack: Lack) -> str:
    deployments = [one for one in servers.deployments if one["metadata"]["name"] == lack.deployment]
    if not deployments:
        kind, _, name = lack.what.partition("/")
        return _events(api, [name]) if name and kind else ""
    unready = [pod for pod in servers.pods(deployments[0]) if not pods.is_ready(pod)]
    if not unready:
        return _events(api, [lack.deployment])
    pod = unready[0]
    name = pod["metadata"]["name"]
    told = f" (pod {name}: {'; '.join(pods.troubles(pod))}"
    try:
        line = pods.last_line(api, pod)
    except StackError:  # the sentence is wanted all the same
        line = ""
    if line and line not in told:
        told += f"; last line: {line}"
    return f"{told}{_events(api, [name])})"


def _events(api: Api, names: Sequence[str]) -> str:
    found: list[Object] = []
    for name in names:
        try:
            found += api.list(EVENT, fields=f"involvedObject.name={name}")
        except StackError:
            return ""
    found = [one for one in found if one.get("type") == "Warning"]
    found.sort(key=lambda one: one.get("lastTimestamp") or one.get("eventTime") or "", reverse=True)
    told = [
        f"{one.get('reason')}: {one.get('message', '').strip()}"
        + (f" (×{one['count']})" if one.get("count", 1) > 1 else "")
        for one in found[:EVENTS]
    ]
    return f"; events: {' | '.join(told)}" if told else ""
