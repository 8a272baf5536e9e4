"""OutlierDetector: which rows of a request are outliers, for any outlier detector of alibi-detect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from helpers import artifacts
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.common.events import OUTLIER_TYPE, CloudEvent
from helpers.serving.detect.verdict import GAUGE, Metric, Verdict
from helpers.serving.payloads import cast, check_shape, read_rows
from helpers.serving.storage import Location

RETURN_INSTANCE_SCORE = "alibi-detect-return-instance-score"
RETURN_FEATURE_SCORE = "alibi-detect-return-feature-score"
OUTLIER_TYPE_HEADER = "alibi-detect-outlier-type"
ENV_RETURN_INSTANCE_SCORE = "ALIBI_DETECT_RETURN_INSTANCE_SCORE"
ENV_RETURN_FEATURE_SCORE = "ALIBI_DETECT_RETURN_FEATURE_SCORE"
ENV_SEED = "ALIBI_DETECT_SEED"
DEFAULT_SEED = 0

LABELLED_ROWS = 1000  # rows of one request with an `index` of their own in the metrics
# alibi-detect's detectors without feature scores: their `predict` takes fewer arguments
_INSTANCE_ONLY = ("IForest", "OutlierAEGMM", "Mahalanobis", "SpectralResidual", "OutlierVAEGMM")


@dataclass(frozen=True, slots=True)
class OutlierOptions:
    """What a reply holds unless a request's headers ask for more.

    Args:
        instance_score: with the score of every row.
        feature_score: with the score of every feature of every row.
        seed: see `vae_scores.VAEScores`; None draws anew for each request.
    """

    instance_score: bool = False
    feature_score: bool = False
    seed: int | None = DEFAULT_SEED


def options_from_environment() -> OutlierOptions:
    """Return the options that the environment sets, by Seldon's names and `ALIBI_DETECT_SEED`.

    Raises:
        ServingError: the seed is neither a whole number nor `none`.
    """
    text = os.environ.get(ENV_SEED, str(DEFAULT_SEED)).strip().lower()
    if text != "none" and not (text.isdecimal() and int(text) < 2**32):
        raise ServingError(
            f"{ENV_SEED}={text!r}: a whole number below 2**32 or `none` is expected."
        )
    return OutlierOptions(
        instance_score=_true(os.environ.get(ENV_RETURN_INSTANCE_SCORE)),
        feature_score=_true(os.environ.get(ENV_RETURN_FEATURE_SCORE)),
        seed=None if text == "none" else int(text),
    )


class OutlierDetector:
    """Scores the rows of a request and says which are outliers.

    Args:
        location: the detector's artefact.
        protocol: of the payloads.
        options: what replies hold by default.
    """

    event_type = OUTLIER_TYPE

    def __init__(self, location: Location, protocol: str, options: OutlierOptions) -> None:
        self.location = location
        self.protocol = protocol
        self.options = options
        self.detector: Any = None
        self.row_shape: tuple[int, ...] | None = None
        self._fast: Any = None

    def load(self) -> None:
        """Load the artefact, checksums first, and compute one score so that the next is quick."""
        import helpers.tf  # noqa: F401  (first, so that TensorFlow says nothing)

        self.use(artifacts.load(self.location.dataset, self.location.name))

    def use(self, detector: Any) -> None:
        """Take a detector that is already in memory."""
        if getattr(detector, "threshold", None) is None:
            raise ServingError(
                f"{self.location} has no threshold; call `infer_threshold` before saving it."
            )
        self.detector = detector
        from helpers.serving.detect.vae_scores import VAEScores, fits

        if fits(detector):
            self._fast = VAEScores(detector, self.options.seed)
            self.row_shape = self._fast.row_shape
            self._fast(np.zeros((1, *self.row_shape), np.float32), False)

    def process(self, body: Any, headers: Mapping[str, str], event: CloudEvent | None) -> Verdict:
        """Return `is_outlier` for each row, and the scores that were asked for."""
        level = headers.get(OUTLIER_TYPE_HEADER) or "instance"
        if level not in ("instance", "feature"):
            raise RequestError(400, f"{OUTLIER_TYPE_HEADER} must be `instance` or `feature`.")
        want_instances = self.options.instance_score or _true(headers.get(RETURN_INSTANCE_SCORE))
        want_features = self.options.feature_score or _true(headers.get(RETURN_FEATURE_SCORE))
        rows = read_rows(body, self.protocol)
        check_shape(rows, self.row_shape)
        if self._fast is not None:
            data = self._score(rows, level, want_features)
        else:
            data = self._predict(rows, level, want_features)
        scores = data.get("instance_score")
        if scores is not None and not np.isfinite(scores).all():
            raise RequestError(400, "The instances hold numbers too large to be scored.")
        flagged = np.asarray(data["is_outlier"])
        by_row = flagged.reshape(len(flagged), -1).any(axis=1)
        reply = {"data": _asked_for(data, want_instances, want_features), "meta": self._meta()}
        return Verdict(reply, _metrics(by_row, scores), ~by_row)

    def _score(self, rows: np.ndarray, level: str, want_features: bool) -> dict[str, Any]:
        features, instances = self._fast(
            cast(rows, np.float32), want_features or level == "feature"
        )
        score = features if level == "feature" else instances
        return {
            "instance_score": instances,
            "feature_score": features,
            "is_outlier": (score > self.detector.threshold).astype(int),
        }

    def _predict(self, rows: np.ndarray, level: str, want_features: bool) -> dict[str, Any]:
        """Ask any other detector by its own `predict`; what it refuses, the request is refused for."""
        options: dict[str, Any] = {"return_instance_score": True}
        if self.detector.meta["name"] not in _INSTANCE_ONLY:
            options |= {"outlier_type": level, "return_feature_score": want_features}
        try:
            return self.detector.predict(rows, **options)["data"]
        except (ValueError, TypeError, IndexError) as problem:
            raise RequestError(
                400, f"The detector does not take instances of the shape {rows.shape}."
            ) from problem

    def _meta(self) -> dict[str, Any]:
        return dict(self.detector.meta)


def _asked_for(data: dict[str, Any], instances: bool, features: bool) -> dict[str, Any]:
    """Return the scores that were asked for, without the names of those that were not."""
    wanted = {"instance_score": instances, "feature_score": features, "is_outlier": True}
    return {
        name: value for name, value in data.items() if wanted.get(name, True) and value is not None
    }


def _metrics(by_row: np.ndarray, scores: np.ndarray | None) -> list[Metric]:
    # Ours: Seldon's count outliers only, which says nothing of their share.
    metrics = [Metric("detect_server_rows", len(by_row))]
    for row, flagged in enumerate(by_row):
        tags = {"index": str(row) if row < LABELLED_ROWS else f"{LABELLED_ROWS}+"}
        metrics.append(Metric("seldon_metric_outlier_is_outlier", int(flagged), tags=tags))
        if scores is not None:
            score = float(scores[row])
            metrics.append(Metric("seldon_metric_outlier_instance_score", score, GAUGE, tags))
    return metrics


def _true(text: str | None) -> bool:
    return text is not None and text.strip().lower() == "true"
