"""What production asks of explanations, each an option of the explain server and off unless set.

- `settings`          the options, and what stops the server at start
- `pipeline`          their order between the explainer and the client, and why it is that
- `redaction`         sensitive features: names and values that leave the server in no form
- `cache`             memory, Redis and disk, looked up in that order
- `top_k`             the largest attributions and the sum of the others
- `people`            an explanation in sentences, from a table of templates
- `signing`, `keys`   HMAC-SHA256 over canonical JSON; `helpers.verify` is the other side
- `deadline`          the best anchor so far, or a 504
- `jobs`              explanations that are asked for now and fetched later
- `audit`             an append-only trail whose rows are chained by hashes, in a file of SQLite;
                      `audit_elasticsearch`, the same in Elasticsearch
- `stability`         the same input asked again with other seeds, when the server is idle
- `attribution_drift` a test of each feature's attributions against those of a reference window
- `attributions`      what each feature has to do with the answer, read from any method's explanation
"""
