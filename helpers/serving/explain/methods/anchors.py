"""What the anchor methods share: options of the search, batches, and the reason of an empty anchor.

A request with one instance is answered as Seldon's server answers it, by alibi's explanation. Of several
instances Seldon's server explains the first. Here the answer to several is the same, the explanation of the
first, and `data.explanations` lists the `data` of every instance, the first included, in the order of the
request: who reads what Seldon's server sends finds it in its place, and nobody's instance is left out.

`data.reason` is there when an anchor needs one: it is empty, or none reaches the threshold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from helpers.serving.explain.methods.base import CONFIG_ONLY, Explained, Options
from helpers.serving.explain.methods.batches import each, refuse_more_than, with_seed

MOST_INSTANCES = 100  # of one request


class AnchorOptions(Options):
    """Options of the search for an anchor, with alibi's defaults; see `AnchorImage.explain`.

    Limits keep a request from asking for a search without end, or for more memory than there is.
    `max_samples_start` is a key of Seldon's that alibi ignores.
    """

    threshold: float = Field(0.95, gt=0, le=1)
    delta: float = Field(0.1, ge=0.001, lt=1)
    tau: float = Field(0.15, ge=0.02, lt=1)
    batch_size: int = Field(100, ge=10, le=1000)
    coverage_samples: int = Field(10_000, ge=1, le=100_000)
    beam_size: int = Field(1, ge=1, le=20)
    stop_on_first: bool = False
    max_anchor_size: int | None = Field(None, ge=1)
    min_samples_start: int = Field(100, ge=1, le=10_000)
    n_covered_ex: int = Field(10, ge=0, le=100)
    binary_cache_size: int = Field(10_000, ge=1, le=100_000, json_schema_extra=CONFIG_ONLY)
    cache_margin: int = Field(1_000, ge=1, le=100_000, json_schema_extra=CONFIG_ONLY)
    verbose: bool = Field(False, json_schema_extra=CONFIG_ONLY)
    verbose_every: int = Field(1, ge=1, json_schema_extra=CONFIG_ONLY)
    max_samples_start: int | None = Field(None, ge=1, json_schema_extra=CONFIG_ONLY)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of alibi's `explain`."""
        chosen = self.model_dump(include=set(AnchorOptions.model_fields))
        if self.max_samples_start is None:
            del chosen["max_samples_start"]
        return chosen


def silence_alibi() -> None:
    """alibi warns when no anchor reaches the threshold; the response says so as raw.success."""
    logging.getLogger("alibi.explainers.anchors").setLevel(logging.ERROR)


def answer(
    instances: Sequence[Any],
    threshold: float,
    seed: int,
    explain: Callable[[Any], Any],
) -> Explained:
    """Return the explanation of all instances.

    Args:
        instances: at least one.
        threshold: that the anchors had to reach.
        seed: of each search.
        explain: from one instance to alibi's explanation.

    Raises:
        RequestError: 400, there are too many, or an instance is refused.
    """
    refuse_more_than(MOST_INSTANCES, instances)
    found = each(instances, seed, explain)
    every = [_with_reason(one.data, threshold) for one in found]
    data = every[0] if len(every) == 1 else {**every[0], "explanations": every}
    figures = {
        "precision": float(np.mean([np.max(one["precision"]) for one in every])),
        "coverage": float(np.mean([one["coverage"] for one in every])),
        # Of the smallest: a batch with an empty anchor is counted as one.
        "size": float(min(len(one["raw"]["feature"]) for one in every)),
    }
    return Explained(with_seed(found[0].meta, seed), data, figures)


def _with_reason(data: dict[str, Any], threshold: float) -> dict[str, Any]:
    raw = data["raw"]
    if not len(raw["feature"]):
        # Not alibi's `num_preds`: that is the size of its buffer, not how many were drawn.
        kept = float(np.max(data["precision"]))
        return {
            **data,
            "reason": "The anchor is empty: nothing has to be held. Of the inputs drawn around this one "
            f"with nothing held, {kept:.1%} kept the prediction, and the threshold is {threshold:g}.",
        }
    if not raw.get("success", True):
        return {
            **data,
            "reason": f"No anchor reaches the threshold {threshold:g}; this is the best that was found, with "
            f"a precision of {float(np.max(data['precision'])):.3f}.",
        }
    return data
