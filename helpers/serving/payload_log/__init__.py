"""The payload log: every request with its response, outlier result, drift result and feedback.

    python -m helpers.serving.payload_log --port 8082 --state FOLDER
    PAYLOAD_LOG_ELASTICSEARCH_URL=http://host:9200 python -m helpers.serving.payload_log --port 8082

With `--events-only NAMESPACE`, in Elasticsearch, it writes events as they come and nothing else.

Seldon dropped its own request logger in 1.14; this one keeps its index names and the shape of its
documents.

- `parts`      what an event means: index, request id, kind, how many items
- `documents`  Seldon's documents, put together from the parts of a request
- `store`      the interface of a store, and what both share
- `sqlite_store`  in one SQLite file
- `elastic`    in Elasticsearch; imported only where one is given
- `retention`  how much is kept
- `server`     POST / takes events; GET /<index>/_doc/<id> and /v1 read
"""
