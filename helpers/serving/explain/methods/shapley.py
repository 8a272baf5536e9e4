"""What KernelShap and TreeShap share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np


def silence_shap() -> None:
    """shap logs every attribution that it computes: whoever reads a log would know the instances."""
    logging.getLogger("shap").setLevel(logging.ERROR)


def together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the `data` that alibi gives for all rows, from those of each row in order."""
    from alibi.explainers.shap_wrappers import rank_by_importance

    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    values = [
        np.concatenate(rows) for rows in zip(*(part["shap_values"] for part in parts), strict=True)
    ]
    raw = {
        **first["raw"],
        **{
            name: np.concatenate([np.atleast_1d(part["raw"][name]) for part in parts])
            for name in ("raw_prediction", "prediction", "instances")
        },
        "importances": rank_by_importance(values, feature_names=first["feature_names"]),
    }
    return {**first, "shap_values": values, "raw": raw}
