"""The payload log: every request with its response, outlier result, drift result and feedback.

    python -m helpers.serving.payload_log --port 8082 --state FOLDER

Seldon dropped its own request logger in 1.14; this one keeps its index names and the shape of its
documents.

- `parts`      what an event means: index, request id, kind, how many items
- `documents`  Seldon's documents, put together from the parts of a request
- `store`      the interface of a store, and the one in SQLite
- `server`     POST / takes events; GET /<index>/_doc/<id> and /v1 read
"""
