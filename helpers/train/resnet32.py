"""The classifier: ResNet32, as a SavedModel for TensorFlow Serving and as a Keras file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from helpers import artifacts
from helpers.data import Dataset
from helpers.models.export import export_saved_model
from helpers.models.predictor import as_function
from helpers.models.resnet import build_resnet
from helpers.models.training import choose_precision, train_classifier
from helpers.quiet import quiet_libraries
from helpers.train.settings import SETTINGS

NAME = "resnet32"


def train(data: Dataset, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Train (or go on training) in `workdir`, measure on the test images, and save the artefact."""
    recipe = SETTINGS[data.name].classifier
    model, history = train_classifier(
        lambda: build_resnet(classes=len(data.class_names)),
        data.x_train,
        data.y_train,
        recipe,
        validation=(data.x_test, data.y_test),
        evaluate_every=5,
        folder=workdir,
        progress=progress,
    )

    def fill(folder: Path) -> None:
        export_saved_model(model, folder / "1")
        with quiet_libraries():
            model.save(folder / "model.h5", include_optimizer=False)
        (folder / "history.json").write_text(
            json.dumps({"recipe": asdict(recipe), "epochs": history}, indent=1) + "\n"
        )

    return artifacts.save(
        data.name,
        NAME,
        fill,
        format="keras",
        summary=f"ResNet32 (He et al. 2015) on {data.name}: the classifier that everything watches",
        figures=measure(model, data)
        | {
            "weights": int(model.count_params()),
            "epochs": recipe.epochs,
            "precision": choose_precision(recipe.precision),
            "training_minutes": round(sum(e["seconds"] for e in history) / 60, 1),
        },
    )


def measure(model, data: Dataset) -> dict:
    """Return accuracy, accuracy per class, and what train[1] is taken for."""
    predict = as_function(model)
    predicted = predict(data.x_test).argmax(1)
    hits = predicted == data.y_test
    second = predict(data.x_train[1:2])[0]
    return {
        "test_accuracy": round(float(hits.mean()), 4),
        "test_images": len(hits),
        "accuracy_per_class": {
            name: round(float(hits[data.y_test == label].mean()), 4)
            for label, name in enumerate(data.class_names)
        },
        "train_1": {
            "class": data.class_names[int(np.argmax(second))],
            "probability": round(float(second.max()), 6),
        },
    }
