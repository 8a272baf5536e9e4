"""Traffic between the predictors of a deployment."""

from __future__ import annotations

import random

from helpers.serving.gateway.routes import Deployment, Predictor


class Splitter:
    """Chooses a predictor by weight.

    Args:
        seed: makes the choices repeatable, for tests.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)

    def choose(self, deployment: Deployment) -> Predictor:
        """Return a predictor, each with the probability of its `traffic` percent."""
        serving = deployment.serving
        if len(serving) == 1:
            return serving[0]
        mark = self._random.random() * 100
        for predictor in serving:
            mark -= predictor.traffic
            if mark < 0:
                return predictor
        return serving[-1]
