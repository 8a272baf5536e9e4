"""What the pods of a server do, why they do not run, and what they have logged."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from kubernetes.client.exceptions import ApiException

from helpers.stack.kind.connection import Api, Object
from helpers.stack.kind.problems import explained, message_of

# Beside the server in its pod: Seldon's orchestrator, Istio's and Knative's proxies.
SIDECARS = ("seldon-container-engine", "istio-proxy", "queue-proxy")
# A container that waits for these is on its way.
USUAL = ("ContainerCreating", "PodInitializing")
LOG_BYTES = 4 * 2**20


def of(deployment: Object, pods: Iterable[Object]) -> list[Object]:
    """Return the pods of a Deployment, newest first."""
    wanted = deployment["spec"]["selector"].get("matchLabels", {}).items()
    found = [pod for pod in pods if wanted <= (pod["metadata"].get("labels") or {}).items()]
    return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"], reverse=True)


def deployment_name(pod: Object) -> str:
    """Return the name of the Deployment that a pod is, or was, of; the pod's own where there is none."""
    for owner in pod["metadata"].get("ownerReferences") or []:
        if owner["kind"] == "ReplicaSet":
            return owner["name"].rpartition("-")[0]
    return pod["metadata"]["name"]


def is_ending(pod: Object) -> bool:
    """Return whether it is being deleted."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_ready(pod: Object) -> bool:
    """Return whether it takes requests."""
    return not is_ending(pod) and _condition(pod, "Ready").get("status") == "True"


def main_container(pod: Object) -> Object:
    """Return the container that the pod is for, as its spec has it."""
    containers = pod["spec"]["containers"]
    return next((one for one in containers if one["name"] not in SIDECARS), containers[0])


def statuses(pod: Object) -> list[Object]:
    """Return the status of each container, init containers first."""
    status = pod.get("status", {})
    return (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or [])


def restarts(pod: Object) -> int:
    """Return how often its containers were started again."""
    return sum(one.get("restartCount", 0) for one in statuses(pod))


def is_down(pod: Object) -> bool:
    """Return whether a container has died and is not running now."""
    for one in statuses(pod):
        state = one.get("state", {})
        died = bool(one.get("restartCount")) or "terminated" in one.get("lastState", {})
        if state.get("waiting", {}).get("reason") == "CrashLoopBackOff":
            return True
        if died and "running" not in state and not _succeeded(state):
            return True
        if state.get("terminated", {}).get("exitCode", 0) != 0:
            return True
    return False


def troubles(pod: Object) -> list[str]:
    """Return what keeps a pod from being ready, a phrase for each container that has something to say."""
    told = []
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        told.append(f"not scheduled: {scheduled.get('message', scheduled.get('reason', ''))}")
    for one in statuses(pod):
        phrases = []
        waiting = one.get("state", {}).get("waiting", {})
        if waiting.get("reason") and waiting["reason"] not in USUAL:
            phrases.append(_with_message(waiting))
        ended = one.get("state", {}).get("terminated") or one.get("lastState", {}).get("terminated")
        if ended and ended.get("exitCode", 0) != 0:
            phrases.append(
                f"ended with {ended.get('reason', 'Error')}, exit code {ended['exitCode']}"
            )
        if one.get("restartCount"):
            phrases.append(f"{one['restartCount']} restarts")
        if phrases:
            told.append(f"container {one['name']}: {', '.join(phrases)}")
    if not told and not is_ready(pod):
        phase = pod.get("status", {}).get("phase", "Unknown")
        unready = [one["name"] for one in statuses(pod) if not _is_well(one)]
        told.append(
            f"{phase}, not ready: {', '.join(unready)}" if unready else f"{phase}, not ready"
        )
    return told


def log(api: Api, pod: Object, lines: int) -> str:
    """Return the last lines of a pod's log: of the container that counts, with its last life before it.

    The container is the one that the pod is for, or the init container that it hangs at. Where it was
    started again and has not said much since, what it said before it died stands first.
    """
    name, status = _container_to_read(pod)
    text = _log(api, pod, name, lines)
    died = status.get("lastState", {}).get("terminated")
    missing = lines - len(text.splitlines())
    if died and status.get("restartCount") and missing > 1:
        earlier = _log(api, pod, name, missing - 1, previous=True)
        if earlier and earlier != text:
            why = f"{died.get('reason', 'Error')}, exit code {died.get('exitCode', '?')}"
            text = f"{earlier.rstrip()}\n== {name} was started again: {why}\n{text}"
    return text.rstrip("\n")


def last_line(api: Api, pod: Object) -> str:
    """Return the last line of a pod's log, or why there is none."""
    name, status = _container_to_read(pod)
    if not statuses(pod):  # no node has it yet
        return "; ".join(troubles(pod))
    waiting = status.get("state", {}).get("waiting", {})
    if waiting.get("reason") and not status.get("restartCount"):
        return _with_message(waiting)
    lines = _log(api, pod, name, 1).splitlines()
    return lines[-1] if lines else ""


def since(text: str | None, now: datetime | None = None) -> float:
    """Return the seconds since a time as Kubernetes writes it; 0 where there is none."""
    if not text:
        return 0.0
    then = datetime.fromisoformat(text)
    return max(0.0, ((now or datetime.now(UTC)) - then).total_seconds())


def ready_since(pod: Object) -> str | None:
    """Return when it became ready, or ceased to be; when it was made where that is not known."""
    return _condition(pod, "Ready").get("lastTransitionTime") or pod["metadata"].get(
        "creationTimestamp"
    )


def _container_to_read(pod: Object) -> tuple[str, Object]:
    status = pod.get("status", {})
    for one in status.get("initContainerStatuses") or []:
        if not _succeeded(one.get("state", {})) and not one.get("started"):
            return one["name"], one
    name = main_container(pod)["name"]
    found = [one for one in status.get("containerStatuses") or [] if one["name"] == name]
    return name, found[0] if found else {}


def _log(api: Api, pod: Object, container: str, lines: int, *, previous: bool = False) -> str:
    query: dict[str, Any] = {
        "container": container,
        "tailLines": lines,
        "limitBytes": LOG_BYTES,
        "previous": str(previous).lower(),
    }
    name = pod["metadata"]["name"]
    with explained(f"reading the log of {name}", api.server):
        try:
            return api.text(f"pods/{name}/log", query)
        except ApiException as problem:
            if problem.status in (400, 404):  # it has not begun, has no previous one, or is gone
                return "" if previous else message_of(problem)
            raise


def _succeeded(state: Object) -> bool:
    return state.get("terminated", {}).get("exitCode") == 0


def _is_well(status: Object) -> bool:
    return bool(status.get("ready")) or _succeeded(status.get("state", {}))


def _with_message(waiting: Object) -> str:
    message = waiting.get("message", "")
    return f"{waiting['reason']} ({message})" if message else waiting["reason"]


def _condition(content: Object, type: str) -> Object:
    conditions = content.get("status", {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == type), {})
