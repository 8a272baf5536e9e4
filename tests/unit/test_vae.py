"""The outlier detector: its networks, its fit, its scores, and the smaller file it is saved in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.models.vae import build_decoder, build_encoder
from helpers.quiet import quiet_libraries
from helpers.tf import tf
from helpers.train import outlier_vae
from helpers.train.settings import SETTINGS, OutlierSettings

with quiet_libraries():
    from alibi_detect.saving import load_detector, save_detector

SETTINGS_USED = OutlierSettings(latent_dim=16, samples=2, epochs=1, batch_size=32)
# Smooth images, as photographs are: a colour that changes from corner to corner.
RAMP = np.linspace(0, 1, 32, dtype=np.float32)
COLOURS = np.random.default_rng(0).random((96, 3), np.float32)
IMAGES = (COLOURS[:, None, None] * 0.5 + (RAMP[:, None] * RAMP)[..., None] * 0.5).astype(np.float32)


@pytest.fixture(scope="module")
def detector():
    detector = outlier_vae.fit(IMAGES, replace(SETTINGS_USED, epochs=3), progress=False)
    detector.threshold = 0.25
    return detector


def size(folder) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def load(folder):
    with quiet_libraries():
        return load_detector(folder)


def test_the_networks_fit_together():
    encoder, decoder = build_encoder(), build_decoder(16)
    assert encoder(IMAGES[:2]).shape == (2, 4, 4, 32)
    images = decoder(np.zeros((2, 16), np.float32))
    assert images.shape == (2, 32, 32, 3)
    assert images.dtype == tf.float32
    for network in (encoder, decoder):
        assert all(type(layer).__module__.startswith("tf_keras.") for layer in network.layers)


def test_the_latent_size_that_is_used_stays_under_12_mb():
    detector = outlier_vae.build(SETTINGS["cifar10"].outlier)
    detector.vae(IMAGES[:1])
    assert 4 * detector.vae.count_params() < 12e6


def test_a_fit_in_bfloat16_gives_a_detector_in_float32(monkeypatch):
    precisions = []
    build = outlier_vae.build

    def spy(settings, precision="float32"):
        precisions.append(precision)
        return build(settings, precision)

    monkeypatch.setattr(outlier_vae, "build", spy)
    monkeypatch.setattr(outlier_vae, "choose_precision", lambda: "mixed_bfloat16")
    detector = outlier_vae.fit(IMAGES[:32], SETTINGS_USED, progress=False)
    assert precisions == ["mixed_bfloat16", "float32"]
    for network in (detector.vae.encoder.encoder_net, detector.vae.decoder.decoder_net):
        assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    assert {weight.dtype for weight in detector.vae.weights} == {tf.float32}


def test_a_fit_teaches_it_to_reconstruct(detector):
    untrained = outlier_vae.build(SETTINGS_USED)
    before = outlier_vae.scores(untrained, IMAGES).mean()
    assert outlier_vae.scores(detector, IMAGES).mean() < 0.8 * before


def test_a_score_is_the_mean_squared_error_and_follows_the_seed(detector):
    first = outlier_vae.scores(detector, IMAGES[:5], seed=1)
    assert first.shape == (5,)
    np.testing.assert_array_equal(outlier_vae.scores(detector, IMAGES[:5], seed=1), first)
    assert (outlier_vae.scores(detector, IMAGES[:5], seed=2) != first).all()
    reconstruction = detector.vae(IMAGES[:5]).numpy()
    error = ((reconstruction - IMAGES[:5]) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(first, error, rtol=0.2)


def test_the_small_copy_predicts_what_the_full_one_predicts(detector, tmp_path):
    with quiet_libraries():
        save_detector(detector, tmp_path / "full")
    outlier_vae.save_small(detector, tmp_path / "small")
    names = [
        sorted(p.relative_to(tmp_path / kind).as_posix() for p in (tmp_path / kind).rglob("*"))
        for kind in ("full", "small")
    ]
    assert names[0] == names[1]
    # What goes is the second copy of the two networks' weights; a few kilobytes of zeros stay.
    networks = (detector.vae.encoder.encoder_net, detector.vae.decoder.decoder_net)
    twice = 4 * sum(network.count_params() for network in networks)
    assert size(tmp_path / "small") < size(tmp_path / "full") - 0.95 * twice

    full, small = load(tmp_path / "full"), load(tmp_path / "small")
    assert float(small.threshold) == float(full.threshold) == 0.25
    expected = outlier_vae.scores(detector, IMAGES)
    np.testing.assert_allclose(outlier_vae.scores(full, IMAGES), expected, rtol=1e-5)
    np.testing.assert_array_equal(
        outlier_vae.scores(small, IMAGES), outlier_vae.scores(full, IMAGES)
    )
    for ours, theirs in zip(small.vae.get_weights(), full.vae.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_images_that_are_held_out_are_not_fitted_on(digits):
    fit_images, held_out = outlier_vae.split(digits)
    wanted = SETTINGS["digits"].outlier.calibration_images
    assert len(held_out) == wanted
    assert len(fit_images) == len(digits.x_train) - wanted
    together = np.concatenate([fit_images, held_out]).reshape(len(digits.x_train), -1)
    everything = digits.x_train.reshape(len(digits.x_train), -1)
    np.testing.assert_array_equal(np.sort(together.sum(1)), np.sort(everything.sum(1)))
    np.testing.assert_array_equal(outlier_vae.split(digits)[1], held_out)


@pytest.fixture(scope="module")
def digits():
    from helpers import data

    return data.load("digits")
