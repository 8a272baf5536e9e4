"""The drift detector: its encoder, its test, its calibration, and what is measured of it."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import data
from helpers.data.corruptions import KINDS
from helpers.models.encoder import build_untrained_encoder
from helpers.models.predictor import as_function
from helpers.quiet import quiet_libraries
from helpers.tf import tf
from helpers.train import drift_ks
from helpers.train.settings import SETTINGS, DriftSettings

with quiet_libraries():
    from alibi_detect.saving import load_detector, save_detector

IMAGES = np.random.default_rng(0).random((260, 32, 32, 3), np.float32)


@pytest.fixture(scope="module")
def encoder():
    return build_untrained_encoder(8, seed=0)


# The encoder


def test_the_encoder_follows_its_seed_and_nothing_else(encoder):
    tf.random.set_seed(99)
    np.random.seed(99)
    again = build_untrained_encoder(8, seed=0)
    for ours, theirs in zip(again.get_weights(), encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    other = build_untrained_encoder(8, seed=1)
    kernels = [w for w in other.get_weights() if w.ndim > 1]
    for ours, theirs in zip(kernels, [w for w in encoder.get_weights() if w.ndim > 1], strict=True):
        assert (ours != theirs).all()


def test_the_encoder_draws_each_layer_from_a_seed_of_its_own(encoder):
    first, second = (encoder.layers[k].get_weights()[0] for k in (1, 2))
    shared = min(first.size, second.size)
    correlation = np.corrcoef(first.ravel()[:shared], second.ravel()[:shared])[0, 1]
    assert abs(correlation) < 0.05


def test_the_first_filters_sum_to_zero_so_that_flat_colour_says_nothing(encoder):
    kernel, bias = encoder.layers[0].get_weights()
    np.testing.assert_allclose(kernel.sum(axis=(0, 1)), 0, atol=1e-6)
    assert not bias.any()
    flat = np.ones((2, 32, 32, 3), np.float32) * np.array([0.2, 0.9], np.float32).reshape(
        -1, 1, 1, 1
    )
    inside = encoder.layers[0](flat).numpy()[:, 1:-1, 1:-1]  # at the border it sees the padding
    np.testing.assert_allclose(inside, 0, atol=1e-5)


def test_the_encoder_gives_as_many_features_as_asked(encoder):
    assert encoder(IMAGES[:3]).shape == (3, 8)
    assert all(type(layer).__module__.startswith("tf_keras.") for layer in encoder.layers)


# The test, against alibi-detect's own


@pytest.fixture(scope="module")
def detector(encoder):
    return drift_ks.build(IMAGES[:100], encoder, p_val=0.05)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.05, 0.2])
def test_the_test_is_that_of_ksdrift(encoder, detector, shift):
    window = (IMAGES[100:160] * (1 - shift)).astype(np.float32)
    with quiet_libraries():
        theirs = detector.predict(window)["data"]
    encode = as_function(encoder)
    p_value, distance = drift_ks.test_features(encode(IMAGES[:100]), encode(window))
    assert p_value == pytest.approx(min(1, 8 * theirs["p_val"].min()), rel=1e-3)
    assert distance == pytest.approx(theirs["distance"].max(), abs=1e-6)
    assert (p_value < 0.05) == bool(theirs["is_drift"])
    assert theirs["threshold"] == pytest.approx(0.05 / 8)  # Bonferroni


def test_the_decision_turns_at_p_val(encoder):
    encode = as_function(encoder)
    window = (IMAGES[100:160] * 0.97).astype(np.float32)
    p_value, _ = drift_ks.test_features(encode(IMAGES[:100]), encode(window))
    assert 0 < p_value < 1
    for p_val, drift in ((p_value * 1.01, 1), (p_value * 0.99, 0)):
        with quiet_libraries():
            found = drift_ks.build(IMAGES[:100], encoder, p_val).predict(window)["data"]
        assert found["is_drift"] == drift


def test_features_are_tested_one_by_one():
    rng = np.random.default_rng(0)
    same, other = rng.normal(size=(400, 3)), rng.normal(size=(200, 3))
    p_value, _ = drift_ks.test_features(same, other)
    assert p_value > 0.05
    other[:, 1] += 10
    assert drift_ks.test_features(same, other)[1] == 1.0
    assert drift_ks.test_features(same, other)[0] < 1e-10 < p_value
    assert drift_ks.test_features(same, same) == (1.0, 0.0)


# Calibration


def test_the_calibrated_p_val_gives_the_wanted_share_of_alarms(monkeypatch):
    monkeypatch.setattr(drift_ks, "RESAMPLED_WINDOWS", 300)
    settings = DriftSettings(window=100, nominal_p_val=1.0, false_alarms=0.1)
    # Features that are one feature twice: Bonferroni is then too strict by half.
    rng = np.random.default_rng(1)
    reference, calibration, later = (
        np.repeat(rng.normal(size=(n, 1)), 2, axis=1) for n in (2000, 8000, 40_000)
    )
    p_val = drift_ks.calibrate(reference, calibration, settings)
    windows = later.reshape(400, 100, 2)
    alarms = sum(drift_ks.test_features(reference, window)[0] < p_val for window in windows)
    low, high = drift_ks.confidence_interval(alarms, 400)
    assert low - 0.05 < 0.1 < high + 0.05
    assert p_val > 0.1  # the nominal one would have alarmed half as often


def test_the_calibrated_p_val_is_never_above_the_nominal_one(monkeypatch):
    monkeypatch.setattr(drift_ks, "RESAMPLED_WINDOWS", 20)
    features = np.random.default_rng(0).normal(size=(300, 2))
    settings = DriftSettings(window=50, nominal_p_val=0.05, false_alarms=0.9)
    assert drift_ks.calibrate(features[:100], features[100:], settings) == 0.05


def test_the_calibration_is_repeatable_and_leaves_numpys_generator(monkeypatch):
    monkeypatch.setattr(drift_ks, "RESAMPLED_WINDOWS", 20)
    features = np.random.default_rng(0).normal(size=(300, 2))
    settings = DriftSettings(window=50, nominal_p_val=1.0, false_alarms=0.1)
    np.random.seed(1)
    first = drift_ks.calibrate(features[:100], features[100:], settings)
    drawn = np.random.random()
    np.random.seed(1)
    assert np.random.random() == drawn
    assert drift_ks.calibrate(features[:100], features[100:], settings) == first


@pytest.mark.parametrize(
    ("hits", "trials", "interval"),
    [
        # The rule of three, and the tables of Clopper and Pearson.
        (0, 45, (0.0, 1 - 0.025 ** (1 / 45))),
        (45, 45, (0.025 ** (1 / 45), 1.0)),
        (5, 10, (0.1871, 0.8129)),
        (1, 20, (0.0013, 0.2487)),
        (4, 40, (0.0279, 0.2366)),
    ],
)
def test_the_interval_is_that_of_clopper_and_pearson(hits, trials, interval):
    assert drift_ks.confidence_interval(hits, trials) == pytest.approx(interval, abs=1e-4)


def test_a_surer_interval_is_wider():
    low, high = drift_ks.confidence_interval(4, 40)
    lower, higher = drift_ks.confidence_interval(4, 40, level=0.99)
    assert lower < low < high < higher


# The images


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_reference_calibration_and_evaluation_share_no_image(name):
    settings = SETTINGS[name].drift
    train, test = {"digits": (1437, 360), "cifar10": (50_000, 10_000)}[name]

    # Images of one pixel, which say where they come from: split looks at nothing but their number.
    class Numbered:
        x_train = np.arange(train).reshape(-1, 1)
        x_test = np.arange(train, train + test).reshape(-1, 1)

    Numbered.name = name
    reference, calibration, evaluation = drift_ks.split(Numbered)
    together = np.concatenate([reference, calibration, evaluation]).ravel()
    assert sorted(together) == list(range(train + test))
    assert len(reference) == settings.reference
    assert len(calibration) == settings.calibration
    assert set(calibration.ravel()) <= set(range(train))
    if name == "cifar10":
        assert (reference >= train).all()
        assert len(evaluation) // settings.window >= 40
    assert len(evaluation) // settings.window >= settings.windows_per_corruption
    again = drift_ks.split(Numbered)
    for ours, theirs in zip(again, (reference, calibration, evaluation), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_measured(monkeypatch):
    """By an encoder of our own, whose features tell exactly which corruption is found."""
    digits = data.load("digits")
    settings = DriftSettings(reference=500, window=100, calibration=300, windows_per_corruption=2)
    monkeypatch.setitem(SETTINGS, "digits", type(SETTINGS["digits"])(drift=settings))

    def encode(images):  # brightness moves the mean; nothing else moves it much
        return np.stack([images.mean(axis=(1, 2, 3)), np.arange(len(images)) % 7], axis=1)

    figures = drift_ks.measure(encode, 1e-6, digits, settings, progress=False)
    assert figures["p_val"] == 1e-6
    assert figures["undrifted_windows"] == (1797 - 800) // 100 == 9
    assert figures["false_alarms"] == figures["false_alarm_rate"] == 0
    assert figures["false_alarm_interval_95"] == [0.0, 0.3363]
    assert set(figures["detected"]) == set(figures["effect"]) == set(KINDS)
    for kind in KINDS:
        assert list(figures["detected"][kind]) == ["1", "2", "3", "4", "5"]
    assert figures["detected"]["brightness"]["5"] == 1.0
    assert figures["smallest_severity_found"]["brightness"] in range(1, 6)
    assert figures["smallest_severity_found"]["pixelate"] is None
    assert figures["effect"]["brightness"]["5"] > figures["undrifted_effect_max"]
    assert figures["undrifted_effect_mean"] <= figures["undrifted_effect_max"]


# Saving


def test_a_saved_detector_predicts_the_same(detector, tmp_path):
    with quiet_libraries():
        save_detector(detector, tmp_path / "detector")
        loaded = load_detector(tmp_path / "detector")
        ours, theirs = (d.predict(IMAGES[160:])["data"] for d in (detector, loaded))
    np.testing.assert_allclose(theirs["p_val"], ours["p_val"], rtol=1e-4)
    np.testing.assert_allclose(theirs["distance"], ours["distance"], atol=1e-6)
    assert theirs["is_drift"] == ours["is_drift"]
    assert theirs["threshold"] == ours["threshold"]
