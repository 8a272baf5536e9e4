"""The payload log in Elasticsearch 8, imported only where one is given.

Two kinds of index, written together and acknowledged together:

- `inference-log-seldon-<namespace>-<deployment>-<predictor>`: Seldon's documents, by request id, for
  Kibana and whoever reads Elasticsearch itself. Every part of a request is merged into its document
  (a partial update, or an upsert), in any order and any number of times. As with Seldon's
  logger, what belongs to a batch as a whole (feedback, drift) is in a document with the bare request
  id, and two different events of one kind are merged, the later over the earlier.
- `inference-events-<namespace>`: one document for each event, as it came. The payload log's own
  answers are put together from these, as they are from SQLite's rows, so that both answer the same.

An events-only payload log (`--events-only NAMESPACE`) writes one document for each event to
`broker-events-<NAMESPACE>`, of the same shape, and neither reads nor writes the indices above: what
it is given, the ordinary one need not have been.

- `client`      one connection pool, its limits, and errors without secrets
- `templates`   the index templates, installed at the start
- `operations`  what an event becomes: the lines of a bulk request
- `bulk`        many events in one request, each with its own outcome
- `queries`     what is asked for, and a Part from what is found
- `store`       the Store

The tests run it against tests/fakes/elasticsearch.py, which does as Elasticsearch's documentation
says; it has not met a real Elasticsearch yet.
"""
