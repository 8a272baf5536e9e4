"""The kinds of objects that may be applied here, and which part of the cluster knows each."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.errors import ManifestError

CORE, EVENTING, MONITORING, LOGGING = (
    "core",
    "eventing",
    "monitoring",
    "logging",
)  # PARTS of kind/up


@dataclass(frozen=True)
class Kind:
    """A kind of object.

    Args:
        api_version: as manifests have it.
        name: SeldonDeployment, Service …
        part: of PARTS, that installs its definition; empty where Kubernetes itself knows it.
        foreground: whether deleting one waits for the objects that it owns.
    """

    api_version: str
    name: str
    part: str = ""
    foreground: bool = False


CONFIG_MAP = Kind("v1", "ConfigMap")
SECRET = Kind("v1", "Secret")
SERVICE = Kind("v1", "Service")
DEPLOYMENT = Kind("apps/v1", "Deployment", foreground=True)
SELDON_DEPLOYMENT = Kind(
    "machinelearning.seldon.io/v1", "SeldonDeployment", part=CORE, foreground=True
)
BROKER = Kind("eventing.knative.dev/v1", "Broker", part=EVENTING)
TRIGGER = Kind("eventing.knative.dev/v1", "Trigger", part=EVENTING)

# In the order in which `down` deletes them: first what sends, last what others refer to.
KINDS = (
    TRIGGER,
    Kind("networking.istio.io/v1", "VirtualService", part=CORE),
    Kind("networking.istio.io/v1", "DestinationRule", part=CORE),
    Kind("monitoring.coreos.com/v1", "PrometheusRule", part=MONITORING),
    Kind("monitoring.coreos.com/v1", "PodMonitor", part=MONITORING),
    Kind("monitoring.coreos.com/v1", "ServiceMonitor", part=MONITORING),
    SELDON_DEPLOYMENT,
    DEPLOYMENT,
    SERVICE,
    BROKER,
    CONFIG_MAP,
    SECRET,
)
# Not installed by kind/up. A refusal of these says so.
ELSEWHERE = {"serving.kserve.io": "KServe", "kustomize.config.k8s.io": "kubectl apply -k"}

# Pods, and what is asked of them, are never applied.
POD = Kind("v1", "Pod")
EVENT = Kind("v1", "Event")


def kind_of(content: dict, origin: str) -> Kind:
    """Return the kind of a document.

    Args:
        content: with apiVersion and kind.
        origin: of the document, for the error.

    Raises:
        ManifestError: it is none of KINDS; says which there are.
    """
    api_version, name = content["apiVersion"], content["kind"]
    for kind in KINDS:
        if (kind.api_version, kind.name) == (api_version, name):
            return kind
    versions = [kind.api_version for kind in KINDS if kind.name == name]
    if versions:
        raise ManifestError(
            f"{origin}: apiVersion: {name} is applied as {versions[0]}, not {api_version}."
        )
    group = api_version.partition("/")[0]
    if group in ELSEWHERE:
        raise ManifestError(
            f"{origin}: kind: {name} is for {ELSEWHERE[group]}, which this cluster's stack does not use."
        )
    raise ManifestError(
        f"{origin}: kind: {name} is not among those that this stack applies, which are "
        f"{', '.join(sorted(kind.name for kind in KINDS))}. Whatever is there for the whole cluster, "
        "kind/up installs, or you with kubectl."
    )
