"""What every server here shares; import from the module that holds it.

- `app`       create_app: JSON errors, body limit, `/ready`, `/live`, metrics
- `body`      read_body, read_json, parse_json: bounded and strict
- `errors`    RequestError, ServingError, and each protocol's shape of an error
- `events`    CloudEvent: CloudEvents 1.0 over HTTP, binary and structured
- `metrics`   a Prometheus registry per app
- `polling`   wait_for: poll with a limit that says what it waits for
- `server`    run: uvicorn, the port bound first, stopped within a limit
- `sqlite`    Database: one writer thread, one commit for all that wait
- `tokens`    the bearer token of a control API

Nothing here imports TensorFlow.
"""
