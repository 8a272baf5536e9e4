"""Requests with several instances: each is explained as it would be alone, from the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from helpers.serving.common.errors import RequestError


def each[One](instances: Sequence[Any], seed: int, explain: Callable[[Any], One]) -> list[One]:
    """Return what `explain` makes of every instance, in order.

    The generators are seeded anew before each, so that an explanation does not depend on what else
    the request holds.
    """
    found = []
    for instance in instances:
        random.seed(seed)
        np.random.seed(seed)
        found.append(explain(instance))
    return found


def refuse_more_than(most: int, instances: Sequence[Any]) -> None:
    """Refuse a request that would keep the server busy for too long.

    Raises:
        RequestError: 400, it has more instances.
    """
    if len(instances) > most:
        raise RequestError(
            400, f"{len(instances)} instances are too many for one request; {most} are not."
        )


def with_seed(meta: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return an explanation's meta with the seed that made it."""
    return {**meta, "params": {**meta.get("params", {}), "seed": seed}}
