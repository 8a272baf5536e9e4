"""A network on credit applications, for integrated gradients, which look into the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers import artifacts
from helpers.data import Table
from helpers.data.credit_risk import clauses, rule
from helpers.models.export import export_saved_model
from helpers.models.predictor import as_function
from helpers.models.tabular import Encoding, build_network, encoding_of
from helpers.quiet import quiet_libraries
from helpers.seeds import seed_everything
from helpers.tf import tf
from helpers.train.finding import deciding_first, rows_of_interest
from helpers.train.settings import CREDIT

NAME = "network"
SEED = 0


def train(data: Table, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Train, measure on the test rows, and save the artefact. `workdir` is not needed."""
    encoding = encoding_of(data)
    seed_everything(SEED)
    model = build_network(len(encoding.owners), len(data.class_names), CREDIT.hidden)
    steps = CREDIT.epochs * (len(data.x_train) // CREDIT.batch_size)
    model.compile(
        tf.keras.optimizers.Adam(
            tf.keras.optimizers.schedules.CosineDecay(CREDIT.learning_rate, steps)
        ),
        "sparse_categorical_crossentropy",
    )
    with quiet_libraries():
        model.fit(
            encoding.encode(data.x_train),
            data.y_train,
            batch_size=CREDIT.batch_size,
            epochs=CREDIT.epochs,
            verbose=0,
        )

    def fill(folder: Path) -> None:
        export_saved_model(model, folder / "1", input_name="row")
        with quiet_libraries():
            model.save(folder / "model.h5", include_optimizer=False)

    return artifacts.save(
        data.name,
        NAME,
        fill,
        format="keras",
        summary=f"A small network on {data.name}, its rows encoded: risk of a loan application",
        figures=measure(model, data, encoding),
    )


def attributions(model: tf.keras.Model, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return integrated gradients (n, columns) of the predicted class from a baseline of zeros, and
    what they miss of the difference in output, (n,), in parts of it."""
    with quiet_libraries():
        from alibi.explainers import IntegratedGradients

        explainer = IntegratedGradients(model, n_steps=CREDIT.n_steps)
        target = model(rows).numpy().argmax(1)
        explanation = explainer.explain(rows, target=target)
    found = explanation.attributions[0]
    return found, np.abs(explanation.deltas) / np.maximum(np.abs(found.sum(1)), 1e-3)


def measure(model: tf.keras.Model, data: Table, encoding: Encoding) -> dict:
    """Return accuracies, and whether the attributions find what decides."""
    predicted = as_function(model)(encoding.encode(data.x_test)).argmax(1)
    rows = rows_of_interest(data.x_test, predicted, CREDIT.rows_measured)
    found, missed = attributions(model, encoding.encode(rows))
    return {
        "test_accuracy": round(float((predicted == data.y_test).mean()), 4),
        "rule_accuracy": round(float((predicted == rule(data.x_test)).mean()), 4),
        "test_rows": len(data.x_test),
        "weights": int(model.count_params()),
        "rows_explained": len(rows),
        "deciding_first": deciding_first(encoding.collect(found), clauses(rows)),
        "relative_delta_median": round(float(np.median(missed)), 5),
    }
