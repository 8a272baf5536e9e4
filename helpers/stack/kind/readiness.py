"""What an applied object still lacks before it does what its manifest says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from helpers.stack.kind.connection import FIELD_MANAGER, Object
from helpers.stack.kind.kinds import BROKER, DEPLOYMENT, SELDON_DEPLOYMENT, TRIGGER, Kind

NAME_LIMIT = 63  # of a Deployment of Seldon's operator; a longer name becomes a hash
# Seldon's operator does not say which generation its status is of. It looks at a change within
# milliseconds; for so long after one, "Available" may still be about what was before.
SETTLING_SECONDS = 3.0


@dataclass(frozen=True)
class Lack:
    """Something that is not ready.

    Args:
        what: `SeldonDeployment/cifar10`, or a Deployment's name.
        reason: a phrase.
        since: when it became so, as Kubernetes writes times; None where that is not known.
        deployment: name of the Deployment whose pods say more; empty where there is none.
    """

    what: str
    reason: str
    since: str | None = None
    deployment: str = ""


def owned(owner: Object, deployments: Sequence[Object]) -> list[Object]:
    """Return the Deployments that an object owns, by name."""
    uid = owner["metadata"]["uid"]
    found = [
        one
        for one in deployments
        if any(ref["uid"] == uid for ref in one["metadata"].get("ownerReferences") or [])
    ]
    return sorted(found, key=lambda one: one["metadata"]["name"])


def lacks(kind: Kind, content: Object, deployments: Sequence[Object]) -> list[Lack]:
    """Return what an object lacks; nothing where it is ready, or there is nothing to wait for.

    Args:
        kind: of the object.
        content: the object as it is now.
        deployments: all Deployments of the namespace.
    """
    if kind == DEPLOYMENT:
        return _of_deployment(content)
    if kind == SELDON_DEPLOYMENT:
        return _of_seldon(content, deployments)
    if kind in (BROKER, TRIGGER):
        return _of_conditions(kind, content)
    return []


def explainers(content: Object) -> dict[str, str]:
    """Return the Deployment of each explainer of a SeldonDeployment, by predictor."""
    name = content["metadata"]["name"]
    return {
        one["name"]: f"{name}-{one['name']}-explainer"
        for one in content["spec"]["predictors"]
        if (one.get("explainer") or {}).get("type")
    }


def _of_deployment(content: Object) -> list[Lack]:
    """As `kubectl rollout status` has it: every replica is new, and available."""
    name, status = content["metadata"]["name"], content.get("status", {})
    wanted = content["spec"].get("replicas", 1)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    conditions = {one["type"]: one for one in status.get("conditions") or []}
    changed = (conditions.get("Available") or {}).get("lastTransitionTime")
    if status.get("observedGeneration", 0) < content["metadata"]["generation"]:
        return [Lack(name, "the change is not seen yet", None, name)]
    progressing = conditions.get("Progressing") or {}
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        return [Lack(name, progressing["message"], progressing.get("lastTransitionTime"), name)]
    failure = conditions.get("ReplicaFailure") or {}
    if failure.get("status") == "True":
        return [Lack(name, failure["message"], failure.get("lastTransitionTime"), name)]
    if updated < wanted:
        return [Lack(name, f"{updated} of {wanted} replicas are of the new version", changed, name)]
    if status.get("replicas", 0) > updated:
        old = status["replicas"] - updated
        return [Lack(name, f"{old} of the old replicas are still there", None, name)]
    if available < wanted:
        reason = f"{available} of {wanted} replicas are available"
        return [Lack(name, reason, changed or content["metadata"].get("creationTimestamp"), name)]
    return []


def _of_seldon(content: Object, deployments: Sequence[Object]) -> list[Lack]:
    name, status = content["metadata"]["name"], content.get("status") or {}
    what = f"SeldonDeployment/{name}"
    servers = owned(content, deployments)
    found = [lack for one in servers for lack in _of_deployment(one)]
    names = {one["metadata"]["name"] for one in servers}
    models = [one for one in names if not one.endswith("-explainer")]
    predictors = len(content["spec"]["predictors"])
    if len(models) < predictors:
        found.append(Lack(what, f"{len(models)} of {predictors} predictors have a Deployment"))
    for explainer in explainers(content).values():
        if len(explainer) < NAME_LIMIT and explainer not in names:
            found.append(Lack(what, f"the explainer {explainer} has no Deployment yet"))
    if status.get("state") != "Available":
        told = f"state {status.get('state') or 'unknown'}"
        if status.get("description"):
            told += f": {status['description']}"
        false = [one for one in status.get("conditions") or [] if one.get("status") == "False"]
        told += "".join(
            f"; {one['type']}: {one.get('reason', '')} {one.get('message', '')}".rstrip()
            for one in false
        )
        times = [one["lastTransitionTime"] for one in false if one.get("lastTransitionTime")]
        since = min(times, default=content["metadata"].get("creationTimestamp"))
        return [Lack(what, told, since), *found]
    return found or _settling(what, content, status)


def _settling(what: str, content: Object, status: Object) -> list[Lack]:
    if observed := status.get("observedGeneration"):
        behind = observed < content["metadata"]["generation"]
        return [Lack(what, "the operator has not seen the change yet")] if behind else []
    changes = [
        datetime.fromisoformat(one["time"])
        for one in content["metadata"].get("managedFields") or []
        if one.get("manager") == FIELD_MANAGER and one.get("time")
    ]
    if changes and (datetime.now(UTC) - max(changes)).total_seconds() < SETTLING_SECONDS:
        return [Lack(what, "changed a moment ago")]
    return []


def _of_conditions(kind: Kind, content: Object) -> list[Lack]:
    """Of Knative's objects: the condition Ready, of this generation."""
    what, status = f"{kind.name}/{content['metadata']['name']}", content.get("status") or {}
    conditions: Mapping[str, Object] = {one["type"]: one for one in status.get("conditions") or []}
    ready = conditions.get("Ready")
    if ready is None:
        return [Lack(what, "Knative has not looked at it yet; is Knative Eventing running?")]
    if status.get("observedGeneration", 0) < content["metadata"]["generation"]:
        return [Lack(what, "Knative has not seen the change yet")]
    if ready.get("status") == "True":
        return []
    told = " ".join(part for part in (ready.get("reason"), ready.get("message")) if part)
    return [Lack(what, f"not ready: {told or 'no reason given'}", ready.get("lastTransitionTime"))]
