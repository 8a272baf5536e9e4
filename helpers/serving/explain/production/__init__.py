"""What production asks of explanations, each an option of the explain server and off unless set.

- `cache`             memory, Redis and disk, looked up in that order
- `audit`             an append-only trail whose rows are chained by hashes
- `jobs`              explanations that are asked for now and fetched later
- `stability`         the same input asked again with other seeds, when the server is idle
- `attribution_drift` a test of each feature's attributions against those of a reference window
"""
