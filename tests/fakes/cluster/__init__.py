"""A cluster for tests, in this process: an API server that speaks HTTP, and what runs behind it.

- `schemas`      what the API server refuses: unknown fields, values of other types
- `store`        objects with versions, server-side apply with field managers, deletion
- `controllers`  Deployments get pods, SeldonDeployments get Deployments, Knative's objects get ready
- `server`       the API over HTTP and websockets; Istio's ingress and Prometheus beside it

It is strict where a cluster is: every object is checked as `kubectl --validate=strict` has it. It is no
cluster: what a test shows on it, tests/kind/test_on_cluster.py has to show on a real one.
"""

from tests.fakes.cluster.server import FakeCluster

__all__ = ["FakeCluster"]
