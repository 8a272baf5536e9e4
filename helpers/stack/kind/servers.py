"""The servers of the namespace, one for each Deployment, as one look at the cluster finds them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from helpers.errors import StackError
from helpers.stack.interface import ServerStatus
from helpers.stack.kind import pods
from helpers.stack.kind.connection import Api, Object
from helpers.stack.kind.kinds import DEPLOYMENT, POD, SELDON_DEPLOYMENT
from helpers.stack.kind.readiness import lacks, owned


class Servers:
    """What is there now; it does not change afterwards.

    Args:
        api: of the cluster.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self.deployments = sorted(api.list(DEPLOYMENT), key=lambda one: one["metadata"]["name"])

    @cached_property
    def all_pods(self) -> list[Object]:
        """Every pod of the namespace."""
        return self._api.list(POD)

    @cached_property
    def _models(self) -> dict[str, Object]:
        if not self._api.knows(SELDON_DEPLOYMENT):
            return {}
        return {one["metadata"]["name"]: one for one in self._api.list(SELDON_DEPLOYMENT)}

    def is_model(self, name: str) -> bool:
        """Whether a SeldonDeployment has this name."""
        return name in self._models

    def named(self, name: str, known: Callable[[], str]) -> list[Object]:
        """Return the Deployment of this name, or those of the SeldonDeployment of this name.

        Args:
            name: of either.
            known: says what there is, for the error.

        Raises:
            StackError: there is neither, or the SeldonDeployment has none yet.
        """
        if name in self._models:
            found = owned(self._models[name], self.deployments)
            if not found:
                raise StackError(
                    f"SeldonDeployment/{name} has no Deployment yet; `python -m helpers.stack wait {name} "
                    "--backend kind` says why."
                )
            return found
        found = [one for one in self.deployments if one["metadata"]["name"] == name]
        if not found:
            raise StackError(f"There is no server {name[:80]!r}; there is {known()}.")
        return found

    def pods(self, deployment: Object) -> list[Object]:
        """Return a Deployment's pods, those that are not ending first, then the newest first."""
        return sorted(pods.of(deployment, self.all_pods), key=pods.is_ending)

    def status(self) -> list[ServerStatus]:
        """Return every server, and those of which only ending pods are left."""
        found = [self._status(one) for one in self.deployments]
        names = {one.name for one in found}
        left: dict[str, Object] = {}
        for pod in self.all_pods:
            if pods.is_ending(pod) and pods.deployment_name(pod) not in names:
                left.setdefault(pods.deployment_name(pod), pod)
        for name, pod in sorted(left.items()):
            seconds = pods.since(pod["metadata"]["deletionTimestamp"])
            found.append(ServerStatus(name, f"Deployment/{name}", "stopping", seconds=seconds))
        return found

    def _status(self, deployment: Object) -> ServerStatus:
        name = deployment["metadata"]["name"]
        mine = self.pods(deployment)
        alive = [pod for pod in mine if not pods.is_ending(pod)]
        if deployment["metadata"].get("deletionTimestamp"):
            state = "stopping"
        elif not lacks(DEPLOYMENT, deployment, self.deployments):
            state = "ready"
        else:
            state = "restarting" if any(map(pods.is_down, alive)) else "starting"
        newest = mine[0] if mine else None
        return ServerStatus(
            name=name,
            owner=self._owner(deployment),
            state=state,
            restarts=sum(map(pods.restarts, alive)),
            address=_address(alive),
            seconds=pods.since(pods.ready_since(newest)) if newest else 0.0,
            last_line=pods.last_line(self._api, newest) if newest else "",
        )

    def _owner(self, deployment: Object) -> str:
        for one in deployment["metadata"].get("ownerReferences") or []:
            if one.get("controller"):
                return f"{one['kind']}/{one['name']}"
        return f"Deployment/{deployment['metadata']['name']}"


def _address(alive: list[Object]) -> str | None:
    """Where the first pod listens that is ready; within the cluster."""
    for pod in alive:
        ip = pod.get("status", {}).get("podIP")
        ports = pods.main_container(pod).get("ports") or []
        if ip and ports and pods.is_ready(pod):
            return f"{ip}:{ports[0]['containerPort']}"
    return None
