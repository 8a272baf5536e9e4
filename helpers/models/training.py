"""Train an image classifier: SGD, one learning rate cycle, crops and flips; resumable.

What happens in epoch k depends on the seed and on k alone, so a run that was interrupted and resumed
sees the very batches that an uninterrupted one sees.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from helpers.errors import TrainingError
from helpers.models.augment import crop_and_flip
from helpers.seeds import seed_everything
from helpers.tf import tf


@dataclass(frozen=True)
class Recipe:
    """How to train.

    weight_decay: the L2 factor on convolution and dense kernels.
    crop_padding: pixels by which an image may be shifted; flips: whether half are mirrored.
    precision: auto (mixed_bfloat16 where this CPU has it), float32 or mixed_bfloat16.
    """

    epochs: int = 70
    batch_size: int = 128
    peak_learning_rate: float = 0.15
    warmup_epochs: float = 4.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    crop_padding: int = 4
    flips: bool = True
    precision: str = "auto"
    seed: int = 0


class OneCycle(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak`, then half a cosine down to zero, by step."""

    def __init__(self, peak: float, warmup_steps: int, steps: int):
        self.peak, self.warmup_steps, self.steps = peak, warmup_steps, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        warm = step / max(self.warmup_steps, 1)
        rest = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        falling = 0.5 * (1 + tf.cos(math.pi * tf.clip_by_value(rest, 0.0, 1.0)))
        return self.peak * tf.where(step < self.warmup_steps, warm, falling)

    def get_config(self) -> dict:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "steps": self.steps}


def choose_precision(wanted: str = "auto") -> str:
    """Return the Keras policy to train with: mixed_bfloat16 where this CPU computes in it.

    Raises:
        TrainingError: `wanted` is none of auto, float32, mixed_bfloat16.
    """
    if wanted not in ("auto", "float32", "mixed_bfloat16"):
        raise TrainingError(
            f"precision {wanted!r} is unknown; choose auto, float32 or mixed_bfloat16."
        )
    if wanted != "auto":
        return wanted
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux: float32 is right everywhere, only slower
        return "float32"
    return "mixed_bfloat16" if "avx512_bf16" in flags else "float32"


def build_under(precision: str, build):
    """Return `build()` with its layers computing in `precision`; the global policy is restored."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(precision)
    try:
        return build()
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


class Trainer:
    """Trains one model by one recipe, an epoch a call, and can be resumed from `folder`.

    `losses` holds the loss of every step. `folder` receives a checkpoint after every epoch and
    `history.json`. Without a folder nothing is written.
    """

    def __init__(self, build, recipe: Recipe, images: int, folder: Path | None = None):
        self.recipe = recipe
        self.precision = choose_precision(recipe.precision)
        seed_everything(recipe.seed)
        self._build = build
        self.model = build_under(self.precision, build)
        self.steps_per_epoch = images // recipe.batch_size
        if not self.steps_per_epoch:
            raise TrainingError(
                f"{images} images do not fill one batch of {recipe.batch_size}; "
                "take more images or a smaller batch_size."
            )
        self.schedule = OneCycle(
            recipe.peak_learning_rate,
            round(recipe.warmup_epochs * self.steps_per_epoch),
            recipe.epochs * self.steps_per_epoch,
        )
        self.optimizer = tf.keras.optimizers.SGD(
            self.schedule, momentum=recipe.momentum, nesterov=True
        )
        self._kernels = [v for v in self.model.trainable_variables if "kernel" in v.name]
        self._loss = tf.keras.losses.SparseCategoricalCrossentropy()
        self._step = tf.function(self._train_step, reduce_retracing=True)
        self.history: list[dict] = []
        self.losses: list[float] = []  # of every step this object has made
        self._folder = folder
        self._manager = None
        if folder:
            checkpoint = tf.train.Checkpoint(model=self.model, optimizer=self.optimizer)
            self._manager = tf.train.CheckpointManager(checkpoint, folder / "checkpoints", 2)
            self._resume()

    def _resume(self) -> None:
        record = self._folder / "history.json"
        if not (self._manager.latest_checkpoint and record.exists()):
            return
        try:
            saved = json.loads(record.read_text())
            recipe, epochs = saved["recipe"], saved["epochs"]
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{record} is damaged ({error}). Delete {self._folder} to start anew."
            ) from error
        if recipe != asdict(self.recipe):
            raise TrainingError(
                f"{self._folder} holds a run with another recipe. Delete the folder to start anew, "
                f"or go on with that recipe: {recipe}"
            )
        self.optimizer.build(self.model.trainable_variables)
        try:
            self._manager.checkpoint.restore(self._manager.latest_checkpoint).assert_consumed()
        except (AssertionError, IndexError, ValueError, tf.errors.OpError) as error:
            raise TrainingError(
                f"{self._manager.latest_checkpoint} is damaged, or of another network than "
                f"{self.model.name}. Delete {self._folder} to start anew."
            ) from error
        # The record is written before the checkpoint: it may be one epoch ahead, never behind.
        self.history = epochs[: self.epochs_done]

    def _train_step(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            predicted = self.model(images, training=True)
            loss = self._loss(labels, predicted)
            decay = tf.add_n([tf.nn.l2_loss(kernel) for kernel in self._kernels])
            total = loss + self.recipe.weight_decay * decay
        variables = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))
        hits = tf.equal(tf.argmax(predicted, 1, tf.int64), tf.cast(labels, tf.int64))
        return loss, tf.reduce_mean(tf.cast(hits, tf.float32))

    @property
    def epochs_done(self) -> int:
        return int(self.optimizer.iterations) // self.steps_per_epoch

    def run_epoch(self, images: np.ndarray, labels: np.ndarray, progress: bool = True) -> dict:
        """Train one epoch on uint8 images (n, 32, 32, 3) and return its figures."""
        epoch, recipe = self.epochs_done, self.recipe
        started = time.perf_counter()
        rng = np.random.default_rng([recipe.seed, epoch])
        order = rng.permutation(len(images))[: self.steps_per_epoch * recipe.batch_size]
        x, y = images[order], labels[order]
        x = crop_and_flip(x, rng, recipe.crop_padding, recipe.flips)
        losses, accuracies = [], []
        bar = tqdm(
            range(self.steps_per_epoch),
            desc=f"epoch {epoch + 1}/{recipe.epochs}",
            disable=not progress,
            leave=False,
            mininterval=2,
        )
        for step in bar:
            rows = slice(step * recipe.batch_size, (step + 1) * recipe.batch_size)
            batch = tf.cast(x[rows], tf.float32) / 255
            loss, accuracy = self._step(batch, tf.constant(y[rows]))
            losses.append(float(loss))
            accuracies.append(float(accuracy))
            if not math.isfinite(losses[-1]):
                raise TrainingError(
                    f"the loss became {losses[-1]} in epoch {epoch + 1}, step {step}; "
                    "lower peak_learning_rate."
                )
        self.losses += losses
        figures = {
            "epoch": epoch + 1,
            "loss": float(np.mean(losses)),
            "accuracy": float(np.mean(accuracies)),
            "learning_rate": float(self.schedule(self.optimizer.iterations)),
            "seconds": time.perf_counter() - started,
        }
        return figures

    def record(self, figures: dict) -> None:
        """Append one epoch's figures to the history, and save the state that belongs to it."""
        self.history.append(figures)
        if self._manager:
            path = self._folder / "history.json"
            part = path.with_suffix(".part")
            part.write_text(
                json.dumps({"recipe": asdict(self.recipe), "epochs": self.history}, indent=1)
            )
            part.replace(path)
            self._manager.save()

    def finished_model(self) -> tf.keras.Model:
        """Return the trained weights in a model that computes in float32."""
        model = build_under("float32", self._build)
        model.set_weights(self.model.get_weights())
        return model


def accuracy(model: tf.keras.Model, x: np.ndarray, y: np.ndarray, batch_size: int = 500) -> float:
    """Return the share of images (n, 32, 32, 3) that `model` classifies as `y`."""
    return float(np.mean(model.predict(x, batch_size, verbose=0).argmax(1) == y))


def train_classifier(
    build,
    x: np.ndarray,
    y: np.ndarray,
    recipe: Recipe,
    *,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    evaluate_every: int = 4,
    folder: Path | None = None,
    progress: bool = True,
) -> tuple[tf.keras.Model, list[dict]]:
    """Train the model that `build()` returns; resume from `folder` if it holds a run.

    x: float32 (n, 32, 32, 3) in [0, 1]; y: integers (n,). `validation` is measured every
    `evaluate_every` epochs and after the last; nothing is selected by it.
    Returns the model in float32, and one dictionary per epoch: epoch, loss, accuracy,
    learning_rate, seconds, and where measured val_accuracy.
    """
    trainer = Trainer(build, recipe, len(x), folder)
    pixels = np.rint(x * 255).astype(np.uint8)
    while trainer.epochs_done < recipe.epochs:
        figures = trainer.run_epoch(pixels, y, progress)
        epoch = figures["epoch"]
        if validation and (epoch % evaluate_every == 0 or epoch == recipe.epochs):
            figures["val_accuracy"] = accuracy(trainer.model, *validation)
        trainer.record(figures)
        if progress:
            tqdm.write(
                ", ".join(
                    f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                    for k, v in figures.items()
                )
            )
    return trainer.finished_model(), trainer.history
