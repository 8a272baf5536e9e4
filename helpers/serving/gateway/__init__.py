"""The local ingress and service orchestrator: Istio's routes and Seldon's executor in one process.

    python -m helpers.serving.gateway --port 8003 --config routes.json

`/seldon/<namespace>/<deployment>/…` is the ingress; `/predictor/<namespace>/<deployment>/<predictor>/…`
stands for `<deployment>-<predictor>.<namespace>.svc.cluster.local:8000`, one predictor's orchestrator.

- `app`       Gateway, the ASGI app: takes a request through the steps below
- `routes`    which deployments there are; swapped whole, while requests are under way
- `paths`     the three protocols' paths, and what they are called on the model server
- `intake`    a request's headers and body, checked and bounded
- `orchestrator` one request to a deployment: predictor, model, shadow, events
- `split`     traffic between predictors
- `variant`   which predictor served: pinned by a header, told in headers, tags and events
- `client`    a pooled HTTP client for model servers and brokers
- `events`    payload events, sent in the background
- `spool`     the same on disk, until a broker has them
- `metrics`   the executor's histograms, and what the gateway does besides
- `watch`     reads the routes again when their file changes

Overload: so many requests of a predictor at a time, the rest is refused with 503 at once. A crash: the payload
events of every answered request are on disk; see `spool`.

What Seldon Core 1.19's executor does is taken from SeldonIO/seldon-core, executor/.
"""
