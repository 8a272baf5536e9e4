"""The sentence that says what is not ready, since when and why."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.errors import StackError
from helpers.stack.kind import pods
from helpers.stack.kind.connection import Api, Object
from helpers.stack.kind.kinds import EVENT
from helpers.stack.kind.readiness import Lack
from helpers.stack.kind.servers import Servers

EVENTS = 3  # the last ones, of each server


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
