"""The bundled digits look like CIFAR-10: same shapes and types, always the same split."""

import numpy as np
import pytest

from helpers.data import load


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_shapes_types_and_range(digits):
    assert digits.name == "digits"
    assert digits.class_names[0] == "zero"
    assert len(digits.class_names) == 10
    for x, y in ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test)):
        assert x.shape == (len(y), 32, 32, 3)
        assert x.dtype == np.float32
        assert y.dtype == np.int64
        assert x.min() == 0
        assert 0.99 < x.max() <= 1
    assert len(digits.x_train) + len(digits.x_test) == 1797


def test_the_split_is_stratified(digits):
    train, test = np.bincount(digits.y_train), np.bincount(digits.y_test)
    share = test / (train + test)
    assert share.min() > 0.19
    assert share.max() <= 0.20


def test_no_image_is_in_both_parts(digits):
    train = {image.tobytes() for image in digits.x_train}
    assert not train & {image.tobytes() for image in digits.x_test}


def test_loading_again_gives_the_same(digits):
    again = load("digits")
    for field in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(again, field), getattr(digits, field))


def test_enlarging_keeps_each_picture_in_place(digits):
    from sklearn.datasets import load_digits

    original = load_digits().images[0] / 16  # a zero, and in training: the first of its class
    assert digits.y_train[0] == 0
    shrunk = digits.x_train[0, ..., 0].reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.abs(shrunk - original).mean() < 0.06
    assert np.corrcoef(shrunk.ravel(), original.ravel())[0, 1] > 0.98


def test_images_are_grey(digits):
    assert np.ptp(digits.x_test, axis=-1).max() == 0
