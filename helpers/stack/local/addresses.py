"""Addresses of a cluster, as they stand in manifests, turned into local ones.

    http://broker-ingress.knative-eventing.svc.cluster.local/…   the broker
    http://<service>, <service>.<namespace>[.svc[.cluster.local]][:port]   an applied Service

User, path and query stay. Any other address is left as it is: it leads out of the cluster there, and
out of this machine here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from helpers.errors import ManifestError

BROKER_SERVICE = ("knative-eventing", "broker-ingress")
CLUSTER_SUFFIXES = (".svc.cluster.local", ".svc")

# Also inside other text, such as JSON; the last part keeps it from ending within a host name.
_ADDRESS = re.compile(
    r"(?<![a-z0-9+.-])(?P<scheme>https?)://(?P<user>[^\s/?#@\"'\\]*@)?"
    r"(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)\.?(?::(?P<port>\d{1,9}))?(?![a-z0-9_.:@%-])",
    re.IGNORECASE,
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
            port = int(match["port"] or 80) if match["scheme"].lower() == "http" else None
            found = self._find(match["host"].lower(), port, namespace, place)
            return match[0] if found is None else f"http://{match['user'] or ''}{found}"

        return _ADDRESS.sub(local, text)

    def _find(self, host: str, port: int | None, namespace: str, place: str | None) -> str | None:
        """`host:port` here, None for an address that leads elsewhere; the port of https is None."""
        suffix = next((one for one in CLUSTER_SUFFIXES if host.endswith(one)), "")
        parts = host.removesuffix(suffix).split(".")
        if len(parts) > 2 or (len(parts) == 1 and suffix) or host == "localhost":
            return None  # somewhere else
        name, space = parts[0], parts[1] if len(parts) == 2 else namespace
        broker = {BROKER_SERVICE: ServiceAddress(80, self.broker)}
        known = {**self.services, **broker}.get((space, name))
        if place is None:
            return None if known is None or port is None else known.local
        if known is None or not known.applied:
            # `name.space` may be a host of the internet as well: `example.com`.
            if known is None and not suffix and space != namespace:
                return None
            raise ManifestError(
                f"{place}: there is no Service {name} in the namespace {space}; apply its manifest "
                f"before, or with this one. Applied: {self._applied()}."
            )
        if port is None:
            raise ManifestError(
                f"{place}: the Service {name} is reached over http:// here, not https://."
            )
        if known.port != port:
            raise ManifestError(
                f"{place}: the Service {name} has the port {known.port}, not {port}."
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
