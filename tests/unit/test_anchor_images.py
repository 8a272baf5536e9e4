"""The explainer: repeatable, and whole in one file."""

from __future__ import annotations

import dill
import numpy as np
import pytest

from helpers.train import anchor_images
from helpers.train.settings import ExplainerSettings

SETTINGS_USED = ExplainerSettings(segments=6)
# Three flat quarters and a striped one, which decides: a superpixel that is lost becomes its mean colour.
IMAGE = np.full((32, 32, 3), 0.2, np.float32)
IMAGE[:16, :16] = (0.9, 0.1, 0.1)
IMAGE[:16:2, :16] = (0.7, 0.1, 0.1)
IMAGE[16:, :16] = (0.1, 0.4, 0.1)
IMAGE[16:, 16:] = (0.1, 0.1, 0.5)


def predict(images: np.ndarray) -> np.ndarray:
    """Return class 1 where at least half of the stripes of the upper left quarter are to be seen."""
    steps = np.abs(np.diff(images[:, :16, 2:14, 0], axis=1))
    striped = (steps.mean(axis=(1, 2)) > 0.1).astype(np.float32)
    return np.stack([1 - striped, striped], axis=1)


@pytest.fixture(scope="module")
def explainer():
    return anchor_images.build(predict, SETTINGS_USED)


def assert_equal(ours, theirs) -> None:
    np.testing.assert_array_equal(ours.anchor, theirs.anchor)
    np.testing.assert_array_equal(ours.segments, theirs.segments)
    assert ours.raw["feature"] == theirs.raw["feature"]
    assert (ours.precision, ours.coverage) == (theirs.precision, theirs.coverage)


def test_the_anchor_is_the_superpixel_that_decides(explainer):
    explanation = anchor_images.explain(explainer, IMAGE, 0.95)
    assert explanation.precision >= 0.95
    decisive = set(np.unique(explanation.segments[:16, :16]))
    assert set(explanation.raw["feature"]) <= decisive
    assert len(explanation.raw["feature"]) >= 1
    assert 0 < explanation.coverage < 1


def test_the_seed_decides_and_numpys_generator_is_untouched(explainer):
    np.random.seed(7)
    expected = np.random.random(3)
    np.random.seed(7)
    first = anchor_images.explain(explainer, IMAGE, 0.95, seed=3)
    np.testing.assert_array_equal(np.random.random(3), expected)
    assert_equal(anchor_images.explain(explainer, IMAGE, 0.95, seed=3), first)


def test_numpys_generator_is_put_back_after_an_error(explainer):
    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    with pytest.raises(Exception, match=r".+"):
        anchor_images.explain(explainer, IMAGE[0], 0.95)
    assert np.random.random() == expected


def test_building_it_leaves_numpys_generator_too():
    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    anchor_images.build(predict, SETTINGS_USED)
    assert np.random.random() == expected


def test_one_file_holds_everything_but_the_predictor(explainer, tmp_path):
    file = tmp_path / "single" / "explainer.dill"
    predictor = explainer.predictor
    anchor_images.save_single(explainer, file)
    assert explainer.predictor is predictor
    loaded = dill.loads(file.read_bytes())
    assert loaded.predictor is None
    segmentation = loaded.segmentation_fn
    assert segmentation.func.__name__ == "slic"
    assert segmentation.keywords == {
        "n_segments": 6,
        "compactness": SETTINGS_USED.compactness,
        "sigma": SETTINGS_USED.sigma,
        "start_label": 0,
    }
    loaded.reset_predictor(predict)
    expected = anchor_images.explain(explainer, IMAGE, 0.95)
    assert_equal(anchor_images.explain(loaded, IMAGE, 0.95), expected)


def test_the_predictor_is_put_back_when_saving_fails(explainer, tmp_path):
    predictor = explainer.predictor
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        anchor_images.save_single(explainer, tmp_path / "file" / "explainer.dill")
    assert explainer.predictor is predictor


def test_what_is_measured(explainer):
    class Two:
        x_test = np.stack([IMAGE, np.full_like(IMAGE, 0.5)])  # the second has nothing to lose
        x_train = np.stack([IMAGE, IMAGE])

    settings = ExplainerSettings(segments=6, images_measured=2)
    figures = anchor_images.measure(explainer, Two, settings, progress=False)
    expected = anchor_images.explain(explainer, IMAGE, settings.threshold)
    assert figures["train_1"] == {
        "precision": round(expected.precision, 4),
        "coverage": round(expected.coverage, 4),
        "superpixels": len(expected.raw["feature"]),
        "segments": len(np.unique(expected.segments)),
    }
    assert figures["images"] == 2
    assert figures["empty_anchors"] == 1
    assert 0 < figures["precision_mean"] <= 1
    assert 0 < figures["coverage_mean"] <= 1
