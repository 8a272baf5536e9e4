"""What runs behind the API server: pods for Deployments, Deployments for SeldonDeployments, readiness."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from tests.fakes.cluster.store import FOREGROUND, Object, Store, now

# How the pods of a Deployment do. `runs` is the default.
RUNS, LOADS, PULLS, CRASHES, UNSCHEDULED = "runs", "loads", "pulls", "crashes", "unscheduled"
ENGINE = {
    "name": "seldon-container-engine",
    "image": "seldonio/seldon-core-executor:1.19.0",
    "ports": [{"name": "http", "containerPort": 8000}, {"name": "metrics", "containerPort": 8000}],
}


class Controllers:
    """Each `step` brings the objects a little nearer to what they ask for.

    Args:
        store: the objects.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.paused: set[str] = set()  # of: deployments, seldon, knative, garbage, pods
        self.behaviours: dict[str, str] = {}  # by Deployment
        self._seen: object = None
        self.routes: set[str] = set()  # paths that the ingress knows

    def step(self) -> None:
        """Let every controller look once, if there is anything new to see."""
        seen = (self.store.version, frozenset(self.paused), tuple(self.behaviours.items()))
        if seen == self._seen:
            return
        self._seen = seen
        for name in ("seldon", "deployments", "knative", "garbage"):
            if name not in self.paused:
                getattr(self, f"_{name}")()

    def _seldon(self) -> None:
        for one in self.store.of("SeldonDeployment"):
            if one["metadata"].get("deletionTimestamp"):
                continue
            wanted = _deployments(one)
            for deployment in wanted:
                key = "Deployment", deployment["metadata"]["name"]
                live: Object = copy.deepcopy(self.store.objects.get(key, {}))
                if live.get("spec") != deployment["spec"]:
                    metadata = {**live.get("metadata", {}), **deployment["metadata"]}
                    self.store.put({**live, **deployment, "metadata": metadata})
            names = {deployment["metadata"]["name"] for deployment in wanted}
            available = all(map(self._is_available, names))
            if available:  # only then is the old graph taken away
                for old in _owned(self.store, one, "Deployment"):
                    if old["metadata"]["name"] not in names:
                        self.store.remove("Deployment", old["metadata"]["name"])
            status = {"state": "Available" if available else "Creating", "conditions": []}
            if not available:
                status["conditions"] = [
                    {"type": "DeploymentsReady", "status": "False", "reason": "MinimumReplicasUnavailable",
                     "lastTransitionTime": one["metadata"]["creationTimestamp"]}
                ]  # fmt: skip
            ready = (one.get("status") or {}).get("state") == "Available"
            self.store.put({**copy.deepcopy(one), "status": status})
            if ready:  # a moment later
                name = one["metadata"]["name"]
                self.routes.add(f"walkthrough/{name}")
                self.routes |= {
                    f"walkthrough/{name}-explainer/{predictor['name']}"
                    for predictor in one["spec"]["predictors"]
                    if predictor.get("explainer")
                }

    def _is_available(self, name: str) -> bool:
        found = self.store.objects.get(("Deployment", name), {})
        status = found.get("status", {})
        wanted = found.get("spec", {}).get("replicas", 1)
        seen = status.get("observedGeneration") == found.get("metadata", {}).get("generation")
        return seen and status.get("availableReplicas", 0) == wanted == status.get("replicas")

    def _deployments(self) -> None:
        for one in self.store.of("Deployment"):
            if one["metadata"].get("deletionTimestamp"):
                continue
            name, wanted = one["metadata"]["name"], one["spec"].get("replicas", 1)
            new = _hash(one["spec"]["template"])
            mine = [pod for pod in self.store.of("Pod") if _deployment_of(pod) == name]
            mine = [pod for pod in mine if not pod["metadata"].get("deletionTimestamp")]
            current = [pod for pod in mine if f"-{new}-" in pod["metadata"]["name"]]
            for number in range(len(current), wanted):
                self.store.put(self._pod(one, new, number))
            for pod in current:
                self.store.put({**copy.deepcopy(pod), "status": self._pod_status(one, pod)})
            ready = [pod for pod in current if _is_ready(pod)]
            old = [pod for pod in mine if pod not in current]
            if len(ready) >= wanted:
                for pod in [*old, *current[wanted:]]:
                    self.store.delete("Pod", pod["metadata"]["name"], {})
            status = {
                "observedGeneration": one["metadata"]["generation"],
                "replicas": len(current) + len(old),
                "updatedReplicas": len(current),
                "availableReplicas": len(ready) + len([pod for pod in old if _is_ready(pod)]),
                "conditions": [
                    {
                        "type": "Available",
                        "status": str(len(ready) >= wanted),
                        "lastTransitionTime": one["metadata"]["creationTimestamp"],
                    }
                ],
            }
            self.store.put({**copy.deepcopy(one), "status": status})

    def _pod(self, deployment: Object, hash: str, number: int) -> Object:
        name = deployment["metadata"]["name"]
        template = deployment["spec"]["template"]
        owner = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": f"{name}-{hash}",
            "uid": f"{deployment['metadata']['uid']}-rs",
            "controller": True,
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-{hash}-{number}",
                **copy.deepcopy(template.get("metadata", {})),
                "ownerReferences": [owner],
            },
            "spec": copy.deepcopy(template["spec"]),
            "status": {"phase": "Pending"},
        }

    def _pod_status(self, deployment: Object, pod: Object) -> Object:
        behaviour = self.behaviours.get(deployment["metadata"]["name"], RUNS)
        stamp = pod["metadata"].get("creationTimestamp") or now()
        ready = behaviour == RUNS
        conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": stamp}]
        if behaviour == UNSCHEDULED:
            message = "0/2 nodes are available: 2 Insufficient memory."
            conditions.append(
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": message,
                }
            )
            return {"phase": "Pending", "conditions": conditions}
        return {
            "phase": "Running" if behaviour in (RUNS, LOADS, CRASHES) else "Pending",
            "podIP": "10.244.1.7",
            "conditions": conditions,
            "containerStatuses": [
                _container_status(one["name"], behaviour) for one in pod["spec"]["containers"]
            ],
        }

    def _knative(self) -> None:
        for kind in ("Broker", "Trigger"):
            for one in self.store.of(kind):
                status = {
                    "observedGeneration": one["metadata"]["generation"],
                    "conditions": [{"type": "Ready", "status": "True"}],
                }
                if (
                    kind == "Trigger"
                    and ("Broker", one["spec"]["broker"]) not in self.store.objects
                ):
                    status["conditions"] = [
                        {
                            "type": "Ready",
                            "status": "False",
                            "reason": "BrokerDoesNotExist",
                            "message": f'Broker "{one["spec"]["broker"]}" does not exist',
                            "lastTransitionTime": one["metadata"]["creationTimestamp"],
                        }
                    ]
                self.store.put({**copy.deepcopy(one), "status": status})

    def _garbage(self) -> None:
        uids = {one["metadata"]["uid"] for one in self.store.objects.values()}
        for (kind, name), one in list(self.store.objects.items()):
            ending = one["metadata"].get("deletionTimestamp")
            if kind == "Pod":
                self._end_pod(one, uids)
                continue
            owners = one["metadata"].get("ownerReferences") or []
            gone = owners and not any(owner["uid"] in uids for owner in owners)
            owner_ends = any(
                owner["metadata"].get("deletionTimestamp")
                for owner in self.store.objects.values()
                if any(ref["uid"] == owner["metadata"]["uid"] for ref in owners)
            )
            if (gone or owner_ends) and not ending:
                self.store.delete(kind, name, {"propagationPolicy": "Foreground"})
            elif ending and FOREGROUND in one["metadata"].get("finalizers", []):
                pods = [pod for pod in self.store.of("Pod") if _deployment_of(pod) == name]
                if not _owned(self.store, one) and not (kind == "Deployment" and pods):
                    self.store.remove(kind, name)

    def _end_pod(self, pod: Object, uids: set[str]) -> None:
        if "pods" in self.paused:
            return
        name = pod["metadata"]["name"]
        if pod["metadata"].get("deletionTimestamp"):
            self.store.remove("Pod", name)
            return
        deployment = self.store.objects.get(("Deployment", _deployment_of(pod)))
        if deployment is None or deployment["metadata"].get("deletionTimestamp"):
            self.store.delete("Pod", name, {})


def _deployments(content: Object) -> list[Object]:
    """The Deployments of a SeldonDeployment, as Seldon's operator names them."""
    name, found = content["metadata"]["name"], []
    for predictor in content["spec"]["predictors"]:
        containers = predictor["componentSpecs"][0]["spec"]["containers"]
        node = predictor["graph"]["name"]
        engine = {
            **ENGINE,
            "env": [{"name": "ENGINE_PREDICTOR", "value": json.dumps(predictor["graph"])}],
        }
        notes = predictor.get("annotations", {})
        found.append(_deployment(content, f"{name}-{predictor['name']}-0-{node}",
                                 [*containers, engine], predictor.get("replicas", 1), notes))  # fmt: skip
        if explainer := predictor.get("explainer"):
            server = f"{name}-{predictor['name']}-explainer"
            options = sorted(explainer.get("config", {}).items())
            container = {
                "name": server,
                **explainer["containerSpec"],
                "ports": [{"name": "http", "containerPort": 9000}],
                "args": [explainer["type"], *(f"--{key}={value}" for key, value in options)],
            }
            found.append(_deployment(content, server, [container], 1, {}))
    return found


def _deployment(
    owner: Object, name: str, containers: list[Object], replicas: int, notes: dict[str, str]
) -> Object:
    labels = {"app": name, "seldon-deployment-id": owner["metadata"]["name"],
              "app.kubernetes.io/managed-by": "seldon-core"}  # fmt: skip
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "controller": True,
                 "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}  # fmt: skip
    # The operator copies labels of its object, ours among them.
    kept = {**owner["metadata"].get("labels", {}), **labels}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": kept, "ownerReferences": [reference]},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels, "annotations": notes},
                "spec": {"containers": copy.deepcopy(containers)},
            },
        },
    }


def _container_status(name: str, behaviour: str) -> Object:
    status: dict[str, Any] = {"name": name, "ready": behaviour == RUNS, "restartCount": 0}
    if behaviour == PULLS:
        waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
        return {**status, "state": {"waiting": waiting}}
    if behaviour == CRASHES:
        waiting = {
            "reason": "CrashLoopBackOff",
            "message": "back-off 40s restarting failed container",
        }
        ended = {"reason": "OOMKilled", "exitCode": 137}
        return {**status, "restartCount": 4, "state": {"waiting": waiting},
                "lastState": {"terminated": ended}}  # fmt: skip
    return {**status, "state": {"running": {}}}


def _owned(store: Store, owner: Object, kind: str | None = None) -> list[Object]:
    uid = owner["metadata"]["uid"]
    return [
        one
        for (of, _), one in store.objects.items()
        if kind in (None, of)
        and any(ref["uid"] == uid for ref in one["metadata"].get("ownerReferences") or [])
    ]


def _deployment_of(pod: Object) -> str:
    return pod["metadata"]["ownerReferences"][0]["name"].rpartition("-")[0]


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _hash(template: Object) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:8]
