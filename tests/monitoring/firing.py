"""How much faster time passes for the rules of manifests/monitoring/rules, for their alerts to fire in a test."""

from __future__ import annotations

from datetime import datetime

import httpx

from helpers.stack.local.client import LocalStack

# With one scrape a second, a window of 5 s has enough of them.
FACTORS = {"predictions": 60, "detectors": 60, "feedback": 240, "explanations": 60}
GROUPS = set(FACTORS)
# Slow means 5 s there, however fast time passes: three of them must fit into the window.
FACTORS |= {"ExplanationsSlow": 30, "explainer:seconds:p90_rate15m": 30}
# They have no windows: nothing of them has to be seen more than once before they fire, but for so long.
FACTORS |= {"ExplanationCacheDown": 100, "ExplanationsUnstable": 300}


def evaluated(stack: LocalStack) -> dict[str, datetime]:
    """The groups that the stack's Prometheus has, and when it evaluated each the last time."""
    answer = httpx.get(f"{stack.prometheus_url}/api/v1/rules", timeout=10)
    return {
        group["name"]: datetime.fromisoformat(group["lastEvaluation"])
        for group in answer.json()["data"]["groups"]
    }
