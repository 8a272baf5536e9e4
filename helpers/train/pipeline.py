"""Train artefacts in the order in which they need each other, and make missing ones on the spot."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from helpers import artifacts
from helpers.data import Dataset, Table, Texts
from helpers.errors import ArtifactError, TrainingError

# In this order: the explainer asks the classifier.
NAMES = ("resnet32", "outlier_vae", "drift_ks", "anchor_images")
# Of tables and texts: seconds each, and committed too.
OTHER_NAMES = {
    "credit_risk": ("forest", "network", "anchor_tabular", "kernel_shap", "tree_shap"),
    "breast_cancer": ("logistic", "ale"),
    "tickets": ("bag_of_words", "anchor_text"),
}
_NEEDS = {
    "anchor_images": ("resnet32",),
    "anchor_tabular": ("forest",),
    "kernel_shap": ("forest",),
    "tree_shap": ("forest",),
    "ale": ("logistic",),
    "anchor_text": ("bag_of_words",),
}


def names(dataset: str) -> tuple[str, ...]:
    """Return the artefacts of a data set, in the order in which they need each other."""
    return OTHER_NAMES.get(dataset, NAMES)


def check(dataset: str, name: str) -> None:
    """Refuse an artefact that a data set does not have.

    Raises:
        TrainingError: names those that there are.
    """
    if name not in names(dataset):
        raise TrainingError(
            f"there is no artefact {name!r}; there are {', '.join(names(dataset))}."
        )


def workdir(dataset: str, name: str) -> Path:
    """Return where an unfinished training keeps its checkpoints."""
    return artifacts.REPOSITORY / "runs" / "train" / dataset / name


def _trainer(name: str) -> Callable[..., artifacts.Artifact]:
    return import_module(f"helpers.train.{name}").train


def train(data: Dataset | Table | Texts, name: str, progress: bool = True) -> artifacts.Artifact:
    """Train, measure and save one artefact, and first those it needs that are missing.

    Raises:
        TrainingError: there is no artefact of that name.
    """
    check(data.name, name)
    trainer = _trainer(name)
    for needed in _NEEDS.get(name, ()):
        if not artifacts.exists(data.name, needed) or not _usable(data.name, needed):
            train(data, needed, progress)
    folder = workdir(data.name, name)
    folder.mkdir(parents=True, exist_ok=True)
    artifact = trainer(data, folder, progress)
    shutil.rmtree(folder)  # done: the next training starts from scratch
    return artifact


def ensure(data: Dataset | Table | Texts, name: str, progress: bool = True, **options: Any) -> Any:
    """Return the loaded artefact; if it was never made for this data set, train it now.

    The artefacts of cifar10, of tables and of texts are part of the repository: a missing one is an
    error. Those of digits take seconds, are made at first use, and made again when they are no
    longer loadable here.

    Raises:
        ArtifactError: as `artifacts.load`, for those of the repository also if there is none.
    """
    if data.name in artifacts.COMMITTED:
        return artifacts.load(data.name, name, **options)
    if not artifacts.exists(data.name, name):
        print(f"No {name} for {data.name} yet: training it on the spot.")
        train(data, name, progress)
    elif not _usable(data.name, name):
        print(f"The {name} for {data.name} is damaged or of other versions: training it again.")
        train(data, name, progress)
    return artifacts.load(data.name, name, **options)


def _usable(dataset: str, name: str) -> bool:
    """Return whether the artefact can be loaded."""
    try:
        artifacts.verify(dataset, name)
    except ArtifactError:
        return False
    return True
