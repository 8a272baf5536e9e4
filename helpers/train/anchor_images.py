"""The explainer: alibi's AnchorImage, as `explainer.save` writes it and as one file of dill."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import dill
import numpy as np
from tqdm.auto import tqdm

from helpers import artifacts
from helpers.data import Dataset
from helpers.models.predictor import as_function
from helpers.quiet import quiet_libraries
from helpers.seeds import numpy_state_kept
from helpers.train import resnet32
from helpers.train.settings import SETTINGS, ExplainerSettings

NAME = "anchor_images"
SEED = 0
SINGLE_FILE = "single/explainer.dill"


def build(predictor: Callable[[np.ndarray], np.ndarray], settings: ExplainerSettings):
    """Return an `AnchorImage` that asks `predictor`: images (n, 32, 32, 3) to (n, classes)."""
    # AnchorImage seeds NumPy's global generator, with None unless it is told otherwise.
    with quiet_libraries(), numpy_state_kept():
        from alibi.explainers import AnchorImage

        return AnchorImage(
            predictor,
            image_shape=(32, 32, 3),
            segmentation_fn="slic",
            segmentation_kwargs={
                "n_segments": settings.segments,
                "compactness": settings.compactness,
                "sigma": settings.sigma,
                "start_label": 0,
            },
        )


def save_single(explainer, file: Path) -> None:
    """Write the explainer, its segmentation function included, to one file, without a predictor.

    Who loads it with dill calls `explainer.reset_predictor(predict)`. KServe's explainers look for
    one file; `explainer.save` writes several.
    """
    predictor, explainer.predictor = explainer.predictor, None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "wb") as opened:
            dill.dump(explainer, opened, recurse=True)
    finally:
        explainer.predictor = predictor


def explain(explainer, image: np.ndarray, threshold: float, seed: int = SEED):
    """Return the anchor of one image (32, 32, 3).

    AnchorImage draws from NumPy's global generator, so the seed is set there for the call and the
    state put back afterwards.
    """
    with quiet_libraries(), numpy_state_kept(seed):
        return explainer.explain(image, threshold=threshold)


def train(data: Dataset, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Build, measure on the test images, and save the artefact. Needs the classifier's artefact."""
    settings = SETTINGS[data.name].explainer
    predictor = as_function(artifacts.load(data.name, resnet32.NAME))
    explainer = build(predictor, settings)

    def fill(folder: Path) -> None:
        explainer.save(folder)
        save_single(explainer, folder / SINGLE_FILE)

    return artifacts.save(
        data.name,
        NAME,
        fill,
        format="alibi",
        summary=f"AnchorImage on {data.name}: the superpixels that hold a prediction fast",
        figures=measure(explainer, data, settings, progress),
    )


def measure(explainer, data: Dataset, settings: ExplainerSettings, progress: bool = True) -> dict:
    """Return precision, coverage, anchor size and seconds, over the first test images."""
    images = data.x_test[: settings.images_measured]
    rows, seconds = [], []
    for image in tqdm(images, desc="AnchorImage, images", disable=not progress):
        started = time.perf_counter()
        explanation = explain(explainer, image, settings.threshold)
        seconds.append(time.perf_counter() - started)
        rows.append(summary(explanation))
    second = summary(explain(explainer, data.x_train[1], settings.threshold))
    return {
        "threshold": settings.threshold,
        "segments_asked": settings.segments,
        "images": len(images),
        "precision_mean": round(float(np.mean([row["precision"] for row in rows])), 4),
        "coverage_mean": round(float(np.mean([row["coverage"] for row in rows])), 4),
        "superpixels_in_anchor_mean": round(
            float(np.mean([row["superpixels"] for row in rows])), 2
        ),
        "empty_anchors": sum(row["superpixels"] == 0 for row in rows),
        "seconds_median": round(float(np.median(seconds)), 3),
        "train_1": second,
    }


def summary(explanation) -> dict:
    """Return precision, coverage, superpixels in the anchor and in the image, as plain numbers.

    alibi gives the precision of an empty anchor as an array of one.
    """
    return {
        "precision": round(np.asarray(explanation.precision).item(), 4),
        "coverage": round(float(explanation.coverage), 4),
        "superpixels": len(explanation.raw["feature"]),
        "segments": len(np.unique(explanation.segments)),
    }
