"""The picture on the README's first screen: one image through model, detectors and explainer.

    python -m helpers.overview

Drawn from the artefacts, so that it shows what they show.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from helpers import artifacts, data, plots
from helpers.data.masks import growing_masks
from helpers.models.predictor import as_function
from helpers.train import anchor_images, outlier_vae
from helpers.train.settings import SETTINGS

TARGET = artifacts.REPOSITORY / ".github" / "overview.png"


def draw(dataset: data.Dataset, target: Path = TARGET) -> Path:
    """Draw the four panels for train[1] of `dataset` and write them to `target`."""
    image = dataset.x_train[1]
    figure, axes = plt.subplots(1, 4, figsize=(12, 2.9), width_ratios=(1, 1.5, 1.6, 1))
    predict = as_function(artifacts.load(dataset.name, "resnet32"))
    _model(axes[0], image, predict(image[None])[0], dataset)
    _outliers(axes[1], image, dataset)
    _drift(axes[2], artifacts.describe(dataset.name, "drift_ks").figures)
    _anchor(axes[3], image, predict, dataset)
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=110)
    plt.close(figure)
    return target


def _picture(axis: plt.Axes, image: np.ndarray) -> None:
    axis.imshow(np.clip(image, 0, 1))
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _model(axis: plt.Axes, image: np.ndarray, answer: np.ndarray, dataset: data.Dataset) -> None:
    accuracy = artifacts.describe(dataset.name, "resnet32").figures["test_accuracy"]
    _picture(axis, image)
    axis.set_title("The model")
    axis.set_xlabel(
        f"{dataset.class_names[answer.argmax()]}, probability {answer.max():.3f}\n"
        f"right on {accuracy:.1%} of the tests"
    )


def _outliers(axis: plt.Axes, image: np.ndarray, dataset: data.Dataset) -> None:
    detector = artifacts.load(dataset.name, "outlier_vae")
    masked, _ = growing_masks(image, mask_size=SETTINGS[dataset.name].outlier.mask_size)
    scores = outlier_vae.scores(detector, masked)
    colors = np.where(scores > detector.threshold, plots.ORANGE, plots.BLUE)
    axis.plot(scores, color=plots.GREY, lw=0.8, zorder=1)
    axis.scatter(range(len(scores)), scores, c=colors, zorder=2)
    axis.axhline(detector.threshold, color="black", ls="--", lw=1)
    axis.text(9, detector.threshold * 0.98, "threshold", ha="right", va="top", fontsize=8)
    axis.set(
        title="One odd image: outlier (VAE)",
        xlabel="patches of noise on the truck",
        ylabel="reconstruction error",
        ylim=(0, None),
    )
    inset = axis.inset_axes((0.03, 0.62, 0.3, 0.36))
    _picture(inset, masked[-1])


def _drift(axis: plt.Axes, figures: dict) -> None:
    for kind, effects in figures["effect"].items():
        axis.plot(list(effects), list(effects.values()), marker="o", ms=3, label=kind)
    axis.axhspan(0, figures["undrifted_effect_max"], color=plots.LIGHT, zorder=0)
    axis.text(
        0.98, 0.01, "undrifted windows reach this far", ha="right", fontsize=8,
        transform=axis.get_yaxis_transform(),
    )  # fmt: skip
    axis.set(
        title=f"{figures['window']:,} images: drift (KS test)",
        xlabel="severity of the damage",
        ylabel="KS distance to the reference",
        ylim=(0, None),
    )
    axis.legend(fontsize=7)


def _anchor(axis: plt.Axes, image: np.ndarray, predict, dataset: data.Dataset) -> None:
    settings = SETTINGS[dataset.name].explainer
    explainer = artifacts.load(dataset.name, "anchor_images", predictor=predict)
    explanation = anchor_images.explain(explainer, image, settings.threshold)
    _picture(axis, plots.faded_outside(image, explanation.anchor))
    axis.set_title("What decides: anchor")
    figures = anchor_images.summary(explanation)  # plain numbers, for an empty anchor too
    axis.set_xlabel(f"precision {figures['precision']:.2f}, coverage {figures['coverage']:.2f}")


if __name__ == "__main__":
    print(draw(data.load("cifar10", fallback=False)))
