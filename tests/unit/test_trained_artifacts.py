"""All four artefacts made as `make train` makes them, tiny, and loaded where this package is not."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import artifacts, data
from helpers.data import Dataset
from helpers.models.predictor import as_function
from helpers.models.resnet import build_resnet
from helpers.models.training import Recipe
from helpers.quiet import quiet_libraries
from helpers.train import anchor_images, drift_ks, outlier_vae, pipeline, resnet32
from helpers.train.settings import (
    SETTINGS,
    DriftSettings,
    ExplainerSettings,
    OutlierSettings,
    Settings,
)

TINY = Settings(
    classifier=Recipe(epochs=1, batch_size=32, warmup_epochs=0.5, precision="float32"),
    outlier=OutlierSettings(
        latent_dim=8, epochs=1, batch_size=32, calibration_images=32, images_per_corruption=4
    ),
    drift=DriftSettings(reference=60, window=20, calibration=40, windows_per_corruption=1),
    explainer=ExplainerSettings(segments=6, images_measured=2),
)
# Runs in this process and in one without helpers: the same classifier on both sides.
PREDICTOR = """
import numpy as np

def predict(images):
    bright = 1 / (1 + np.exp(-20 * (images[:, 8:24, 8:24].mean(axis=(1, 2, 3)) - 0.3)))
    return np.stack([1 - bright, bright], axis=1)
"""
FRESH = (
    """
import sys
sys.modules["helpers"] = None  # whoever imports it fails
from pathlib import Path
root, images, answers = map(Path, sys.argv[1:])
"""
    + PREDICTOR
    + """
import dill
import tensorflow as tf
from alibi.saving import load_explainer
from alibi_detect.saving import load_detector

x = np.load(images)
out = {}
out["keras"] = tf.keras.models.load_model(root / "resnet32/model.h5", compile=False).predict(x)
served = tf.saved_model.load(str(root / "resnet32/1")).signatures["serving_default"]
out["served"] = served(image=tf.constant(x))["probabilities"].numpy()

vae = load_detector(root / "outlier_vae")
np.random.seed(0)
tf.random.set_seed(0)
out["scores"] = vae.score(x, batch_size=250)[1]
out["threshold"] = float(vae.threshold)

drift = load_detector(root / "drift_ks").predict(x)["data"]
out.update({name: drift[name] for name in ("p_val", "distance", "is_drift")})

explainer = load_explainer(root / "anchor_images", predictor=predict)
single = dill.loads((root / "anchor_images/single/explainer.dill").read_bytes())
single.reset_predictor(predict)
for form, loaded in (("folder", explainer), ("single", single)):
    np.random.seed(0)
    explanation = loaded.explain(x[0], threshold=0.95)
    out[form + "_anchor"] = explanation.anchor
    out[form + "_segments"] = explanation.segments
    out[form + "_measures"] = np.hstack([explanation.precision, explanation.coverage])
assert not [name for name in sys.modules if name.startswith("helpers.")]
np.savez(answers, **out)
"""
)


@pytest.fixture(scope="module")
def tiny() -> Dataset:
    digits = data.load("digits")
    return Dataset(
        name="digits",
        class_names=digits.class_names,
        x_train=digits.x_train[:128],
        y_train=digits.y_train[:128],
        x_test=digits.x_test[:64],
        y_test=digits.y_test[:64],
    )


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """The four artefacts; ARTIFACTS_DIR points to them while the tests of this file run."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS_DIR", str(root / "artifacts"))
        patch.setitem(SETTINGS, "digits", TINY)
        patch.setattr(pipeline, "workdir", lambda dataset, name: root / "runs" / name)
        patch.setattr(drift_ks, "RESAMPLED_WINDOWS", 20)
        patch.setattr(resnet32, "build_resnet", partial(build_resnet, 1))
        made = {name: pipeline.train(tiny, name, progress=False) for name in pipeline.NAMES}
        yield SimpleNamespace(root=root / "artifacts" / "digits", runs=root / "runs", records=made)


@pytest.fixture(scope="module")
def fresh(made, tiny, tmp_path_factory):
    """What a process without helpers gets from the artefacts' files."""
    folder = tmp_path_factory.mktemp("fresh")
    images, answers = folder / "images.npy", folder / "answers.npz"
    np.save(images, tiny.x_test[:20])
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    process = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", FRESH, made.root, images, answers],
        cwd=folder,
        env=kept | {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return np.load(answers)


def test_each_is_whole_and_says_how_it_was_made(made):
    for name in pipeline.NAMES:
        record = artifacts.verify("digits", name)
        assert record == made.records[name]
        assert record.versions["python"].startswith("3.12.")
        assert "digits" in record.summary


def test_the_figures_are_those_of_the_issue(made):
    classifier, outlier, drift, explainer = (made.records[name].figures for name in pipeline.NAMES)
    assert {"test_accuracy", "accuracy_per_class", "train_1", "weights"} <= set(classifier)
    assert len(classifier["accuracy_per_class"]) == 10
    assert {"threshold_percentile", "normal_flagged", "corrupted_flagged"} <= set(outlier)
    assert len(outlier["mask_flags"]) == 10
    assert {"false_alarm_interval_95", "detected", "smallest_severity_found"} <= set(drift)
    assert {"precision_mean", "coverage_mean", "train_1"} <= set(explainer)


def test_the_classifier_loads_as_a_model_and_its_figures_are_repeatable(made, tiny):
    model = artifacts.load("digits", "resnet32")
    figures = made.records["resnet32"].figures
    again = resnet32.measure(model, tiny)
    assert again["test_accuracy"] == figures["test_accuracy"]
    assert again["train_1"]["probability"] == pytest.approx(
        figures["train_1"]["probability"], abs=1e-4
    )


def test_the_classifier_answers_the_same_without_this_package(made, fresh, tiny):
    expected = as_function(artifacts.load("digits", "resnet32"))(tiny.x_test[:20])
    np.testing.assert_allclose(fresh["keras"], expected, atol=1e-5)
    np.testing.assert_allclose(fresh["served"], expected, atol=1e-5)


def test_the_outlier_detector_answers_the_same_without_this_package(made, fresh, tiny):
    detector = artifacts.load("digits", "outlier_vae")
    expected = outlier_vae.scores(detector, tiny.x_test[:20])
    np.testing.assert_allclose(fresh["scores"], expected, rtol=1e-4)
    assert fresh["threshold"] == float(detector.threshold)
    assert round(float(detector.threshold), 6) == made.records["outlier_vae"].figures["threshold"]


def test_the_drift_detector_answers_the_same_without_this_package(made, fresh, tiny):
    with quiet_libraries():
        detector = artifacts.load("digits", "drift_ks")
        expected = detector.predict(tiny.x_test[:20])["data"]
    np.testing.assert_allclose(fresh["p_val"], expected["p_val"], rtol=1e-3)
    np.testing.assert_allclose(fresh["distance"], expected["distance"], atol=1e-6)
    assert fresh["is_drift"] == expected["is_drift"]
    assert detector.p_val == made.records["drift_ks"].figures["p_val"]
    assert detector.x_ref.shape == (60, 32)


@pytest.mark.parametrize("form", ["folder", "single"])
def test_the_explainer_answers_the_same_without_this_package(made, fresh, tiny, form):
    namespace = {}
    exec(PREDICTOR, namespace)
    explainer = artifacts.load("digits", "anchor_images", predictor=namespace["predict"])
    expected = anchor_images.explain(explainer, tiny.x_test[0], threshold=0.95, seed=0)
    np.testing.assert_array_equal(fresh[f"{form}_anchor"], expected.anchor)
    np.testing.assert_array_equal(fresh[f"{form}_segments"], expected.segments)
    np.testing.assert_array_equal(
        fresh[f"{form}_measures"], np.hstack([expected.precision, expected.coverage])
    )
    assert len(np.unique(expected.segments)) > 1


def test_nothing_is_left_of_a_finished_training(made):
    assert not list(made.runs.iterdir())


def test_an_interrupted_measurement_does_not_fit_the_vae_again(tiny, made, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(outlier_vae, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            outlier_vae.train(tiny, tmp_path, progress=False)
    monkeypatch.setattr(outlier_vae, "fit", lambda *_: pytest.fail("fitted again"))
    outlier_vae.train(tiny, tmp_path, progress=False)
    assert artifacts.verify("digits", "outlier_vae")
