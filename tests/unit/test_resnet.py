"""ResNet32: the network of the paper, from stock layers, with the normalisation inside."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.models import resnet
from helpers.models.training import build_under
from helpers.tf import tf

IMAGES = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)


@pytest.fixture(scope="module")
def resnet32():
    return resnet.build_resnet()


def test_size_and_depth_are_those_of_the_paper(resnet32):
    assert resnet32.name == "resnet32"
    assert 460_000 < resnet32.count_params() < 475_000
    with_weights = [
        layer
        for layer in resnet32.layers
        if isinstance(layer, tf.keras.layers.Conv2D | tf.keras.layers.Dense)
    ]
    assert len(with_weights) == 32
    filters = [layer.filters for layer in with_weights[:-1]]
    assert filters == [16] * 11 + [32] * 10 + [64] * 10
    sizes = [layer.output_shape[1] for layer in with_weights[:-1]]
    assert sizes == [32] * 11 + [16] * 10 + [8] * 10


def test_only_stock_layers_so_that_it_loads_without_this_package(resnet32):
    for layer in resnet32.layers:
        assert type(layer).__module__.startswith("tf_keras.")
        assert not isinstance(layer, tf.keras.layers.Lambda)
    copy = tf.keras.Model.from_config(resnet32.get_config())
    assert copy.count_params() == resnet32.count_params()


def test_plain_pixels_in_and_probabilities_out(resnet32):
    assert resnet32.input_shape == (None, 32, 32, 3)
    probabilities = resnet32(IMAGES, training=False).numpy()
    assert probabilities.shape == (4, 10)
    assert probabilities.dtype == np.float32
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)


def test_the_normalisation_is_inside_and_in_float32():
    model = build_under(
        "mixed_bfloat16", lambda: resnet.build_resnet(1, mean=(0.1, 0.2, 0.3), std=(0.5, 1, 2))
    )
    normalise = model.get_layer("normalise")
    expected = (IMAGES - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 1, 2])
    np.testing.assert_allclose(normalise(IMAGES), expected, atol=1e-6)
    assert normalise.compute_dtype == "float32"
    assert model.layers[2].compute_dtype == "bfloat16"
    assert model(IMAGES).dtype == tf.float32
    assert tf.keras.mixed_precision.global_policy().name == "float32"


def test_the_shortcut_takes_every_second_pixel_and_adds_empty_channels():
    x = IMAGES[:, :8, :8]
    shortened = resnet._shortcut(tf.constant(x)).numpy()
    np.testing.assert_array_equal(shortened[..., :3], x[:, ::2, ::2])
    assert shortened.shape == (4, 4, 4, 6)
    assert not shortened[..., 3:].any()


@pytest.mark.parametrize(("n", "classes"), [(1, 10), (2, 3)])
def test_depth_and_classes_can_be_chosen(n, classes):
    model = resnet.build_resnet(n, classes)
    assert model.name == f"resnet{6 * n + 2}"
    assert model.output_shape == (None, classes)
