"""A network as TensorFlow Serving takes it, and as a plain function."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from helpers.models.export import export_saved_model
from helpers.models.predictor import as_function
from helpers.models.resnet import build_resnet
from helpers.tf import tf

IMAGES = np.random.default_rng(0).random((7, 32, 32, 3), np.float32)


@pytest.fixture(scope="module")
def model():
    tf.random.set_seed(0)
    model = build_resnet(1)
    # As after a training: means and variances that are not those of an untrained network.
    for _ in range(3):
        model(IMAGES, training=True)
    return model


@pytest.fixture(scope="module")
def expected(model):
    return model.predict(IMAGES, verbose=0)


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resnet8") / "1"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_saved_model(model, folder)
    return tf.saved_model.load(str(folder))


def test_the_signature_is_what_clients_send_and_read(served):
    assert list(served.signatures) == ["serving_default"]
    signature = served.signatures["serving_default"]
    arguments, inputs = signature.structured_input_signature
    assert arguments == ()
    assert inputs == {"image": tf.TensorSpec((None, 32, 32, 3), tf.float32, name="image")}
    assert {
        name: (out.dtype, out.shape.as_list()) for name, out in signature.structured_outputs.items()
    } == {"probabilities": (tf.float32, [None, 10])}


@pytest.mark.parametrize("n", [1, 7])
def test_the_export_answers_as_the_model(served, expected, n):
    answer = served.signatures["serving_default"](image=tf.constant(IMAGES[:n]))
    np.testing.assert_allclose(answer["probabilities"], expected[:n], atol=1e-5)


def test_the_export_is_the_weights_and_one_function(served, model, tmp_path):
    assert len(served.weights) == len(model.variables)
    assert not hasattr(served, "keras_api")
    folder = tmp_path / "named"
    export_saved_model(model, folder, input_name="x", output_name="y")
    assert sorted(p.name for p in folder.iterdir()) == [
        "assets",
        "fingerprint.pb",
        "saved_model.pb",
        "variables",
    ]
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    assert list(signature.structured_input_signature[1]) == ["x"]
    assert list(signature.structured_outputs) == ["y"]


def test_the_function_equals_predict_for_any_number_of_images(model, expected):
    predict = as_function(model, batch_size=3)
    for n in (1, 2, 3, 4, 6, 7):
        np.testing.assert_allclose(predict(IMAGES[:n]), expected[:n], atol=1e-5)
    assert isinstance(predict(IMAGES), np.ndarray)
    assert predict(IMAGES[:0]).shape == (0, 10)


def test_the_function_takes_what_an_explainer_sends(model, expected):
    predict = as_function(model)
    np.testing.assert_allclose(predict(IMAGES.astype(np.float64)), expected, atol=1e-5)
    np.testing.assert_allclose(predict(list(IMAGES)), expected, atol=1e-5)


def test_the_function_is_traced_once_and_computes_in_batches():
    sizes, traces = [], []

    class Spy(tf.keras.Model):
        input_shape = (None, 2)

        def call(self, x, training=None):
            traces.append(training)
            tf.py_function(lambda n: sizes.append(int(n)), [tf.shape(x)[0]], [])
            return 2 * x

    predict = as_function(Spy(), batch_size=4)
    for n in (1, 4, 9):
        x = np.random.default_rng(n).random((n, 2), np.float32)
        np.testing.assert_array_equal(predict(x), 2 * x)
    assert sizes == [1, 4, 4, 4, 1]
    assert traces == [False]
