"""Training: it learns, it can be interrupted, and it says what stops it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from helpers.errors import TrainingError
from helpers.models import training
from helpers.models.resnet import build_resnet
from helpers.models.training import OneCycle, Recipe, Trainer, choose_precision, train_classifier
from helpers.tf import tf

RECIPE = Recipe(
    epochs=3,
    batch_size=32,
    peak_learning_rate=0.1,
    warmup_epochs=1,
    crop_padding=2,
    precision="float32",
    seed=5,
)


def images_of_four_classes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise in one of four colours, and which."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)
    colours = np.array([[0.7, 0.3, 0.3], [0.3, 0.7, 0.3], [0.3, 0.3, 0.7], [0.6, 0.6, 0.2]])
    x = colours[y][:, None, None] + rng.normal(0, 0.2, (n, 32, 32, 3))
    return np.clip(x, 0, 1).astype(np.float32), y


X, Y = images_of_four_classes(150, seed=0)
X_TEST, Y_TEST = images_of_four_classes(100, seed=1)
PIXELS = np.rint(X * 255).astype(np.uint8)


def small_network(name: str = "small", units: int = 8) -> tf.keras.Model:
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.InputLayer((32, 32, 3)),
            layers.Conv2D(units, 4, strides=4),
            layers.BatchNormalization(momentum=0.5),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, activation="softmax", dtype="float32"),
        ],
        name=name,
    )


def history_of(folder) -> dict:
    return json.loads((folder / "history.json").read_text())


# The schedule


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),
        (1, 0.05),
        (5, 0.25),
        (10, 0.5),
        (20, 0.5 * 0.5 * (1 + math.cos(math.pi / 4))),
        (30, 0.25),
        (50, 0.0),
        (60, 0.0),
    ],
)
def test_the_learning_rate_rises_in_a_line_and_falls_along_a_cosine(step, rate):
    schedule = OneCycle(peak=0.5, warmup_steps=10, steps=50)
    assert float(schedule(tf.constant(step, tf.int64))) == pytest.approx(rate, abs=1e-7)


def test_a_schedule_without_warm_up_starts_at_the_peak():
    schedule = OneCycle(0.5, 0, 10)
    assert float(schedule(tf.constant(0))) == 0.5
    assert float(schedule(tf.constant(5))) == pytest.approx(0.25)


def test_a_schedule_of_nothing_but_warm_up_never_divides_by_zero():
    assert float(OneCycle(0.5, 4, 4)(tf.constant(2))) == 0.25
    assert math.isfinite(float(OneCycle(0.5, 4, 4)(tf.constant(4))))


def test_a_schedule_can_be_saved():
    schedule = OneCycle(0.5, 10, 50)
    assert OneCycle.from_config(schedule.get_config()).get_config() == schedule.get_config()


# Precision


@pytest.mark.parametrize(
    ("flags", "precision"),
    [("avx512_bf16 amx", "mixed_bfloat16"), ("avx2", "float32"), (None, "float32")],
)
def test_auto_is_bfloat16_only_where_the_cpu_has_it(tmp_path, monkeypatch, flags, precision):
    cpuinfo = tmp_path / "cpuinfo"
    if flags:
        cpuinfo.write_text(f"flags : {flags}")
    monkeypatch.setattr(training, "Path", lambda path: cpuinfo)
    assert choose_precision() == precision
    assert choose_precision("float32") == "float32"
    assert choose_precision("mixed_bfloat16") == "mixed_bfloat16"


def test_an_unknown_precision_is_refused():
    message = "precision 'float16' is unknown; choose auto, float32 or mixed_bfloat16"
    with pytest.raises(TrainingError, match=message):
        choose_precision("float16")
    with pytest.raises(TrainingError, match=message):
        Trainer(small_network, replace(RECIPE, precision="float16"), 150)


# Learning


def test_a_small_resnet_learns_in_bfloat16_and_comes_back_in_float32():
    model, history = train_classifier(
        lambda: build_resnet(1, 4),
        X,
        Y,
        replace(RECIPE, epochs=5, batch_size=15, precision="mixed_bfloat16"),
        validation=(X_TEST, Y_TEST),
        evaluate_every=2,
        progress=False,
    )
    losses = [figures["loss"] for figures in history]
    assert losses[-1] < 0.5 * losses[0]
    assert history[-1]["val_accuracy"] > 0.6  # chance is 0.25
    assert training.accuracy(model, X_TEST, Y_TEST) == pytest.approx(
        history[-1]["val_accuracy"], abs=0.05
    )
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert {weight.dtype for weight in model.weights} == {tf.float32}

    assert [set(figures) - {"val_accuracy"} for figures in history] == [
        {"epoch", "loss", "accuracy", "learning_rate", "seconds"}
    ] * 5
    assert [figures["epoch"] for figures in history] == [1, 2, 3, 4, 5]
    assert ["val_accuracy" in figures for figures in history] == [False, True, False, True, True]
    assert history[0]["learning_rate"] == pytest.approx(0.1)
    assert history[-1]["learning_rate"] == pytest.approx(0, abs=1e-7)
    assert all(figures["seconds"] > 0 for figures in history)
    assert all(type(value) in (int, float) for figures in history for value in figures.values())


def test_the_training_is_shown_or_not(capsys):
    trained = replace(RECIPE, epochs=1, batch_size=75)
    train_classifier(small_network, X, Y, trained, progress=False)
    assert capsys.readouterr() == ("", "")
    train_classifier(small_network, X, Y, trained, progress=True)
    assert "epoch 1, loss " in capsys.readouterr().out


def test_every_step_has_a_loss():
    trainer = Trainer(small_network, RECIPE, 150)
    first = trainer.run_epoch(PIXELS, Y, progress=False)
    assert len(trainer.losses) == 150 // 32
    assert first["loss"] == pytest.approx(np.mean(trainer.losses))
    trainer.run_epoch(PIXELS, Y, progress=False)
    assert len(trainer.losses) == 2 * (150 // 32)
    assert trainer.history == []  # what is not recorded is no history


def test_weight_decay_is_on_kernels_only():
    trainer = Trainer(small_network, replace(RECIPE, peak_learning_rate=0.0), 150)
    assert [kernel.shape.as_list() for kernel in trainer._kernels] == [[4, 4, 3, 8], [8, 4]]


# Interruption


@pytest.fixture
def seen(monkeypatch):
    """The checksum of every augmented epoch, in the order in which they are trained on."""
    seen = []

    def spy(*arguments):
        result = augment(*arguments)
        seen.append(hash(result.tobytes()))
        return result

    augment = training.crop_and_flip
    monkeypatch.setattr(training, "crop_and_flip", spy)
    return seen


def interrupt(trainer: Trainer, after: int) -> None:
    """Let an epoch of the trainer end after some steps as Ctrl-C ends it."""
    step, done = trainer._step, []

    def stopping(*batch):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(1)
        return step(*batch)

    trainer._step = stopping
    with pytest.raises(KeyboardInterrupt):
        trainer.run_epoch(PIXELS, Y, progress=False)


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path, seen):
    model, history = train_classifier(small_network, X, Y, RECIPE, progress=False)
    whole_run, seen[:] = list(seen), []
    assert len(set(whole_run)) == 3

    trainer = Trainer(small_network, RECIPE, 150, tmp_path)
    trainer.record(trainer.run_epoch(PIXELS, Y, progress=False))
    interrupt(trainer, after=2)
    assert [figures["epoch"] for figures in history_of(tmp_path)["epochs"]] == [1]

    np.random.seed(99)  # whatever else went on in the meantime
    tf.random.set_seed(99)
    resumed, resumed_history = train_classifier(
        small_network, X, Y, RECIPE, folder=tmp_path, progress=False
    )
    assert seen == [whole_run[0], whole_run[1], whole_run[1], whole_run[2]]
    for ours, theirs in zip(resumed.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for ours, theirs in zip(resumed_history, history, strict=True):
        assert ours | {"seconds": 0} == pytest.approx(theirs | {"seconds": 0}, abs=1e-5)
    assert history_of(tmp_path)["epochs"] == resumed_history

    seen.clear()
    again, _ = train_classifier(small_network, X, Y, RECIPE, folder=tmp_path, progress=False)
    assert not seen  # a finished run is not trained again
    for ours, theirs in zip(again.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_epoch_that_was_recorded_but_not_saved_is_made_again(tmp_path, monkeypatch):
    trainer = Trainer(small_network, RECIPE, 150, tmp_path)
    trainer.record(trainer.run_epoch(PIXELS, Y, progress=False))

    def killed():
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer._manager, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.record(trainer.run_epoch(PIXELS, Y, progress=False))
    assert len(history_of(tmp_path)["epochs"]) == 2

    resumed = Trainer(small_network, RECIPE, 150, tmp_path)
    assert resumed.epochs_done == 1
    assert [figures["epoch"] for figures in resumed.history] == [1]


@pytest.fixture(scope="module")
def first_epoch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer = Trainer(small_network, RECIPE, 150, folder)
    trainer.record(trainer.run_epoch(PIXELS, Y, progress=False))
    return folder


@pytest.fixture
def one_epoch(first_epoch, tmp_path):
    """The folder of a run of which one epoch is done."""
    return shutil.copytree(first_epoch, tmp_path / "run")


@pytest.mark.parametrize("change", [{"epochs": 4}, {"seed": 6}, {"flips": False}])
def test_a_run_is_not_resumed_with_another_recipe(one_epoch, change):
    with pytest.raises(TrainingError, match=r"another recipe\. Delete the folder") as caught:
        train_classifier(small_network, X, Y, replace(RECIPE, **change), folder=one_epoch)
    assert str(one_epoch) in str(caught.value)
    assert "'peak_learning_rate': 0.1" in str(caught.value)


@pytest.mark.parametrize("network", [lambda: small_network(units=4), lambda: build_resnet(1, 4)])
def test_a_run_is_not_resumed_with_another_network(one_epoch, network):
    with pytest.raises(TrainingError, match=r"damaged, or of another network than .*Delete"):
        Trainer(network, RECIPE, 150, one_epoch)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"recipe": {}}'])
def test_a_damaged_record_is_named(one_epoch, content):
    (one_epoch / "history.json").write_text(content)
    with pytest.raises(TrainingError, match=r"history\.json is damaged.*Delete"):
        Trainer(small_network, RECIPE, 150, one_epoch)


def test_a_damaged_checkpoint_is_named(one_epoch):
    for file in (one_epoch / "checkpoints").glob("*.data*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(TrainingError, match="ckpt-1 is damaged"):
        Trainer(small_network, RECIPE, 150, one_epoch)


def test_a_record_without_a_checkpoint_starts_anew(tmp_path):
    (tmp_path / "history.json").write_text("{}")
    assert Trainer(small_network, RECIPE, 150, tmp_path).epochs_done == 0


# What stops it


def test_too_few_images_for_a_batch_are_refused():
    with pytest.raises(TrainingError, match="31 images do not fill one batch of 32"):
        train_classifier(small_network, X[:31], Y[:31], RECIPE)


def test_a_loss_that_is_no_number_stops_the_training_and_is_not_saved(tmp_path):
    recipe = replace(RECIPE, peak_learning_rate=1e38, warmup_epochs=0)
    message = r"the loss became (nan|inf) in epoch 1, step \d; lower peak_learning_rate"
    with pytest.raises(TrainingError, match=message):
        train_classifier(small_network, X, Y, recipe, folder=tmp_path, progress=False)
    assert not (tmp_path / "history.json").exists()
    assert not list(tmp_path.rglob("ckpt*"))
