"""Requests to the explainers in production: explanations of loan applications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np

from helpers.stack.local.client import LocalStack


def explain(
    stack: LocalStack,
    rows: np.ndarray,
    *,
    headers: Mapping[str, str] | None = None,
    **parameters: Any,
) -> httpx.Response:
    """Return the answer to a request for explanations.

    Args:
        stack: that manifests/explainers/production-*.yaml is applied to.
        rows: applications, (n, features).
        headers: of the request.
        parameters: of the method; the seed is 0 unless given.
    """
    url = f"{stack.url('credit-risk-explainer/default')}/api/v1.0/explain"
    body = {"data": {"ndarray": rows.tolist()}, "parameters": {"seed": 0, **parameters}}
    return httpx.post(url, json=body, headers=headers, timeout=120, trust_env=False)
