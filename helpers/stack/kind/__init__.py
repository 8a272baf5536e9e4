"""The stack on a kind cluster: the same manifests, by the API server instead of local processes.

- `client`      the interface that notebooks use
- `connection`  one context of the kubeconfig; every call has a limit
- `problems`    what the API server refuses, as sentences
- `kinds`       what may be applied, and which part of the cluster brings it
- `objects`     server-side apply, with a dry run of everything first, and deletion
- `readiness`   what an object still lacks
- `waiting`     until nothing lacks anything, or the sentence that says what does
- `servers`     one for each Deployment, as `status` has them
- `pods`        what a server's pods do, and their logs
- `scraping`    metrics of pods, and CPU and memory from the cluster's Prometheus
- `events`      what the broker took, from Elasticsearch
- `relay`       Services of the cluster on this machine
- `copying`     folders out of a container

Nothing of it was run on a cluster here: it is tested against a fake of the API server that speaks HTTP,
and tests/kind/test_on_cluster.py runs where there is one (`-m kind`).
"""
