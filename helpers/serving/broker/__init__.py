"""Knative's Broker and Trigger semantics over HTTP CloudEvents, durable on disk.

    python -m helpers.serving.broker --port 8081 --state FOLDER --token-file FILE

- `model`     what a trigger is: filter, subscriber, delivery, backoff
- `store`     its tables, and batches of writes as few statements
- `retention` which events the disk must keep, and when one goes
- `delivery`  one attempt to deliver one event, and what its outcome means
- `lane`      the deliveries of one trigger: order, retries, backoff, memory
- `broker`    accepts events and ties the above together
- `ingress`   POST /<namespace>/<broker>
- `control`   /control/v1: triggers, recent events, dead letters; needs the token
"""
