"""Addresses of a cluster, as they stand in manifests, turned into local ones.

    http://broker-ingress.knative-eventing.svc.cluster.local/…   the broker
    http://<service>, <service>.<namespace>[.svc[.cluster.local]][:port]   an applied Service

Any other address is left as it is: it leads out of the cluster there, and out of this machine here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from helpers.errors import ManifestError

BROKER_SERVICE = ("knative-eventing", "broker-ingress")
CLUSTER_SUFFIXES = (".svc.cluster.local", ".svc")

_ADDRESS = re.compile(
    r"http://(?P<host>[a-z0-9][a-z0-9.-]*[a-z0-9])(?::(?P<port>\d+))?(?=[/?#,\s]|$)"
)


@dataclass(frozen=True)
class ServiceAddress:
    """A Service.

    Args:
        port: that its manifest gives it.
        local: `host:port` where it is reached here.
        applied: whether it is there; the address of a deleted one stays for those who have it.
    """

    port: int
    local: str
    applied: bool = True


@dataclass(frozen=True)
class Addresses:
    """What cluster addresses mean here.

    Args:
        gateway: `host:port` of the ingress.
        broker: `host:port` of the broker's ingress.
        services: (namespace, name) -> address.
    """

    gateway: str
    broker: str
    services: Mapping[tuple[str, str], ServiceAddress] = field(default_factory=dict)

    def resolve(self, text: str, namespace: str, place: str | None = None) -> str:
        """Return `text` with every cluster address in it turned into a local one.

        Args:
            text: an argument, the value of a variable, or a URL.
            namespace: of the object that the text stands in.
            place: where it stands, for errors; None leaves what cannot be resolved as it is.

        Raises:
            ManifestError: a Service that has not been applied, or a port that it does not have.
        """

        def local(match: re.Match[str]) -> str:
            found = self._find(match["host"], int(match["port"] or 80), namespace, place)
            return match[0] if found is None else f"http://{found}"

        return _ADDRESS.sub(local, text)

    def _find(self, host: str, port: int, namespace: str, place: str | None) -> str | None:
        bare = host
        for suffix in CLUSTER_SUFFIXES:
            bare = bare.removesuffix(suffix)
        parts = bare.split(".")
        if len(parts) > 2 or (len(parts) == 1 and bare != host):
            return None  # somewhere else
        service = (parts[1] if len(parts) == 2 else namespace, parts[0])
        if service == BROKER_SERVICE:
            return self.broker
        known = self.services.get(service)
        if known is None:
            if (
                place is not None
                and (bare != host or service[0] == namespace)
                and host != "localhost"
            ):
                raise ManifestError(
                    f"{place}: there is no Service {service[1]} in the namespace {service[0]}; apply its "
                    f"manifest before, or with this one. Applied: {self._applied()}."
                )
            return None if known is None else known.local
        if place is not None and known.port != port:
            raise ManifestError(
                f"{place}: the Service {service[1]} has the port {known.port}, not {port}."
            )
        return known.local

    def _applied(self) -> str:
        return (
            ", ".join(
                f"{name}.{namespace}"
                for (namespace, name), one in self.services.items()
                if one.applied
            )
            or "none"
        )
