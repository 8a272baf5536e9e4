"""The drift detector: alibi-detect's KSDrift on an untrained encoder, with a calibrated p-value."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import beta, ks_2samp
from tqdm.auto import tqdm

from helpers import artifacts
from helpers.data import Dataset
from helpers.data.corruptions import KINDS, corrupt
from helpers.models.encoder import build_untrained_encoder
from helpers.models.predictor import as_function
from helpers.quiet import quiet_libraries
from helpers.train.settings import SETTINGS, DriftSettings

NAME = "drift_ks"
SEED = 0
SEVERITIES = range(1, 6)
RESAMPLED_WINDOWS = 1000


def split(data: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three disjoint sets of undrifted images: reference, calibration, evaluation.

    The reference is taken from the test images first, the calibration from the training images.
    The encoder is untrained, so training images are as unseen as any.
    """
    settings = SETTINGS[data.name].drift
    rng = np.random.default_rng(SEED)
    # Shuffled: the digits stand in the order of their writers, which is a drift of its own.
    images = np.concatenate([rng.permutation(data.x_test), rng.permutation(data.x_train)])
    return (
        images[: settings.reference],
        images[-settings.calibration :],
        images[settings.reference : -settings.calibration],
    )


def build(x_ref: np.ndarray, encoder, p_val: float):
    """Return a `KSDrift` that encodes what it is given with `encoder` before it tests."""
    with quiet_libraries():
        from alibi_detect.cd import KSDrift
        from alibi_detect.cd.tensorflow import preprocess_drift

        return KSDrift(
            x_ref,
            p_val=p_val,
            preprocess_fn=partial(preprocess_drift, model=encoder, batch_size=250),
        )


def test_features(x_ref: np.ndarray, window: np.ndarray) -> tuple[float, float]:
    """Return what KSDrift decides by, for features (n, dimensions): p-value and effect size.

    p-value: the smallest of the features' p-values times their number (Bonferroni), at most 1: drift
    where it falls below p_val. Effect size: the largest Kolmogorov-Smirnov distance, 0 to 1.
    """
    # asymp: what alibi-detect asks of scipy
    tests = [ks_2samp(x_ref[:, k], window[:, k], method="asymp") for k in range(x_ref.shape[1])]
    return (
        min(1.0, len(tests) * min(test.pvalue for test in tests)),
        max(test.statistic for test in tests),
    )


def calibrate(x_ref: np.ndarray, calibration: np.ndarray, settings: DriftSettings) -> float:
    """Return the p_val at which the wanted share of undrifted windows raises an alarm.

    x_ref, calibration: features (n, dimensions). At the nominal p_val the share is another one: the
    Bonferroni correction supposes independent features, and one reference of finite size meets every
    window.
    """
    rng = np.random.default_rng(SEED)
    p_vals = [
        test_features(
            x_ref, calibration[rng.choice(len(calibration), settings.window, replace=False)]
        )[0]
        for _ in range(RESAMPLED_WINDOWS)
    ]
    return min(settings.nominal_p_val, float(np.quantile(p_vals, settings.false_alarms)))


def confidence_interval(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share: hits of trials."""
    tail = (1 - level) / 2
    low = beta.ppf(tail, hits, trials - hits + 1) if hits else 0.0
    high = beta.ppf(1 - tail, hits + 1, trials - hits) if hits < trials else 1.0
    return float(low), float(high)


def train(data: Dataset, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Encode, calibrate, measure, and save the artefact. `workdir` is not needed."""
    settings = SETTINGS[data.name].drift
    reference, calibration, _ = split(data)
    encoder = build_untrained_encoder(settings.dimensions, SEED)
    encode = as_function(encoder)
    p_val = calibrate(encode(reference), encode(calibration), settings)
    detector = build(reference, encoder, p_val)
    figures = measure(encode, p_val, data, settings, progress)

    def fill(folder: Path) -> None:
        with quiet_libraries():
            from alibi_detect.saving import save_detector

            save_detector(detector, folder)

    return artifacts.save(
        data.name,
        NAME,
        fill,
        format="alibi-detect",
        summary=f"KSDrift on {data.name}: tells when a window of images is no longer the reference",
        figures=figures,
    )


def _windows(features: np.ndarray, size: int) -> list[np.ndarray]:
    return [features[start : start + size] for start in range(0, len(features) - size + 1, size)]


def measure(
    encode, p_val: float, data: Dataset, settings: DriftSettings, progress: bool = True
) -> dict:
    """Return false alarms on undrifted windows, and what of each corruption is found."""
    reference, _, evaluation = split(data)
    x_ref = encode(reference)
    undrifted = [test_features(x_ref, w) for w in _windows(encode(evaluation), settings.window)]
    p_vals, effects = (np.array(column) for column in zip(*undrifted, strict=True))
    alarms, nominal_alarms = (
        int((p_vals < p_val).sum()),
        int((p_vals < settings.nominal_p_val).sum()),
    )
    some = evaluation[: settings.window * settings.windows_per_corruption]
    detected: dict[str, dict[str, float]] = {}
    effect: dict[str, dict[str, float]] = {}
    for kind in tqdm(KINDS, desc="KSDrift, corruptions", disable=not progress):
        detected[kind], effect[kind] = {}, {}
        for severity in SEVERITIES:
            features = encode(corrupt(some, kind, severity))
            tests = [test_features(x_ref, w) for w in _windows(features, settings.window)]
            detected[kind][str(severity)] = round(float(np.mean([p < p_val for p, _ in tests])), 3)
            effect[kind][str(severity)] = round(float(np.mean([d for _, d in tests])), 3)
    return {
        "p_val": p_val,
        "p_val_nominal": settings.nominal_p_val,
        "dimensions": settings.dimensions,
        "reference_images": len(reference),
        "window": settings.window,
        "undrifted_windows": len(p_vals),
        "false_alarms": alarms,
        "false_alarm_rate": round(alarms / len(p_vals), 4),
        "false_alarm_interval_95": [
            round(bound, 4) for bound in confidence_interval(alarms, len(p_vals))
        ],
        "false_alarms_at_nominal_p_val": nominal_alarms,
        "undrifted_effect_mean": round(float(effects.mean()), 4),
        "undrifted_effect_max": round(float(effects.max()), 4),
        "windows_per_corruption": settings.windows_per_corruption,
        "detected": detected,
        "effect": effect,
        "smallest_severity_found": {
            kind: min((int(s) for s, share in by.items() if share == 1.0), default=None)
            for kind, by in detected.items()
        },
    }
