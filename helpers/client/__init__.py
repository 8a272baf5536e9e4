"""Predictions, explanations and feedback over the seldon, tensorflow and v2 protocols.

    from helpers.client import Client

    with Client(cluster.url("cifar10")) as client:
        prediction = client.predict(x)  # (n, 32, 32, 3)
        prediction.probabilities  # (n, 10)

- `client`     Client: one connection pool, retries, errors
- `protocols`  what each protocol writes into a body, at which path, and reads from an answer
- `answers`    Prediction and Explanation
- `refusals`   errors: what happened, where, what to do next
"""

from helpers.client.answers import Explanation, Prediction
from helpers.client.client import Client
from helpers.client.protocols import one_hot

__all__ = ["Client", "Explanation", "Prediction", "one_hot"]
