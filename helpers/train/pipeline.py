"""Train artefacts in the order in which they need each other, and make missing ones on the spot."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from helpers import artifacts
from helpers.data import Dataset
from helpers.errors import ArtifactError, TrainingError

# In this order: the explainer asks the classifier.
NAMES = ("resnet32", "outlier_vae", "drift_ks", "anchor_images")
_NEEDS = {"anchor_images": ("resnet32",)}


def workdir(dataset: str, name: str) -> Path:
    """Return where an unfinished training keeps its checkpoints."""
    return artifacts.REPOSITORY / "runs" / "train" / dataset / name


def _trainer(name: str) -> Callable[..., artifacts.Artifact]:
    if name not in NAMES:
        raise TrainingError(f"there is no artefact {name!r}; there are {', '.join(NAMES)}.")
    return import_module(f"helpers.train.{name}").train


def train(data: Dataset, name: str, progress: bool = True) -> artifacts.Artifact:
    """Train, measure and save one artefact, and first those it needs that are missing.

    Raises:
        TrainingError: there is no artefact of that name.
    """
    trainer = _trainer(name)
    for needed in _NEEDS.get(name, ()):
        if not artifacts.exists(data.name, needed) or not _usable(data.name, needed):
            train(data, needed, progress)
    folder = workdir(data.name, name)
    folder.mkdir(parents=True, exist_ok=True)
    artifact = trainer(data, folder, progress)
    shutil.rmtree(folder)  # done: the next training starts from scratch
    return artifact


def ensure(data: Dataset, name: str, progress: bool = True, **options: Any) -> Any:
    """Return the loaded artefact; if it was never made for this data set, train it now.

    The artefacts of cifar10 are part of the repository and take hours to make: a missing one is an
    error. Those of digits take seconds, are made at first use, and made again when they are no
    longer loadable here.

    Raises:
        ArtifactError: as `artifacts.load`, for cifar10 also if there is none.
    """
    if data.name == "cifar10":
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
