"""The outlier detector: alibi-detect's OutlierVAE, with a threshold from held-out images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
from tqdm.auto import tqdm

from helpers import artifacts
from helpers.data import Dataset
from helpers.data.corruptions import KINDS, corrupt
from helpers.data.masks import growing_masks
from helpers.models.training import choose_precision
from helpers.models.vae import build_decoder, build_encoder
from helpers.quiet import quiet_libraries
from helpers.seeds import seed_everything
from helpers.tf import tf
from helpers.train.settings import SETTINGS, OutlierSettings

NAME = "outlier_vae"
SEED = 0
SEVERITIES = range(1, 6)


def split(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the training images to fit on, and those held out for the threshold."""
    held_out = SETTINGS[data.name].outlier.calibration_images
    order = np.random.default_rng(SEED).permutation(len(data.x_train))
    return data.x_train[order[held_out:]], data.x_train[order[:held_out]]


def build(settings: OutlierSettings, precision: str = "float32"):
    """Return an untrained `OutlierVAE` without a threshold."""
    with quiet_libraries():
        from alibi_detect.od import OutlierVAE

        return OutlierVAE(
            threshold=None,
            score_type="mse",
            encoder_net=build_encoder(precision),
            decoder_net=build_decoder(settings.latent_dim, precision),
            latent_dim=settings.latent_dim,
            samples=settings.samples,
        )


def fit(images: np.ndarray, settings: OutlierSettings, progress: bool = True):
    """Return an `OutlierVAE` fitted to `images`, float32 (n, 32, 32, 3) in [0, 1].

    Where the CPU computes in bfloat16 the convolutions train in it; the detector that is returned
    computes in float32 with the same weights.
    """
    seed_everything(SEED)
    detector = build(settings, choose_precision())
    steps = -(-len(images) // settings.batch_size) * settings.epochs
    optimizer = tf.keras.optimizers.Adam(
        tf.keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps)
    )
    for _ in tqdm(range(settings.epochs), desc="OutlierVAE, epochs", disable=not progress):
        detector.fit(
            images,
            optimizer=optimizer,
            cov_elbo={"sim": 0.05},
            epochs=1,
            batch_size=settings.batch_size,
            verbose=False,
        )
    result = build(settings)
    result.vae(images[:1])  # gives the float32 network its weights, to be overwritten
    result.vae.set_weights(detector.vae.get_weights())
    return result


def scores(detector, images: np.ndarray, seed: int = SEED) -> np.ndarray:
    """Return the instance score of each image, (n,): mean squared error of its reconstruction.

    The VAE draws a random code per image; the seed makes the draw repeatable.
    """
    seed_everything(seed)
    return detector.score(images, batch_size=250)[1]


def save_small(detector, folder: Path) -> None:
    """`save_detector`, without the weights it writes twice.

    alibi-detect stores the two networks with their weights and the whole VAE's weights again, and
    loads the latter over the former. The first copy is zeroed and compressed: 11 MB instead of 19.
    """
    with quiet_libraries():
        from alibi_detect.saving import save_detector

        save_detector(detector, folder)
    for network in ("encoder_net.h5", "decoder_net.h5"):
        file = folder / "model" / network
        full = file.rename(file.with_suffix(".full"))
        with h5py.File(full) as source, h5py.File(file, "w") as target:
            target.attrs.update(source.attrs)
            source.visititems(lambda name, item, target=target: _copy_empty(name, item, target))
        full.unlink()


def _copy_empty(name: str, item: h5py.Group | h5py.Dataset, target: h5py.File) -> None:
    if isinstance(item, h5py.Dataset):
        copy = target.create_dataset(
            name, data=np.zeros_like(item[()]), compression="gzip" if item.ndim else None
        )
    else:
        copy = target.require_group(name)
    copy.attrs.update(item.attrs)


def train(data: Dataset, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Fit, set the threshold, measure, and save the artefact.

    The fitted weights are kept in `workdir` until the artefact is saved, so that an interrupted call
    does not fit again.
    """
    settings = SETTINGS[data.name].outlier
    fit_images, held_out = split(data)
    # Named by what they were fitted with: other settings fit anew.
    identity = hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
    weights = workdir / f"fitted-{identity}.h5"
    if weights.exists():
        detector = build(settings)
        detector.vae(fit_images[:1])  # a network has no weights to load into before its first call
        detector.vae.load_weights(weights)
    else:
        detector = fit(fit_images, settings, progress)
        part = workdir / "part.h5"
        detector.vae.save_weights(part)
        part.replace(weights)
    seed_everything(SEED)
    detector.infer_threshold(held_out, threshold_perc=settings.threshold_percentile, batch_size=250)
    return artifacts.save(
        data.name,
        NAME,
        lambda folder: save_small(detector, folder),
        format="alibi-detect",
        summary=f"OutlierVAE on {data.name}: flags images that a VAE cannot reconstruct",
        figures=measure(detector, data, settings, progress),
    )


def measure(detector, data: Dataset, settings: OutlierSettings, progress: bool = True) -> dict:
    """Return the share of images flagged: undisturbed, corrupted, and under growing masks."""
    threshold = float(detector.threshold)
    clean = scores(detector, data.x_test)
    some = data.x_test[: settings.images_per_corruption]
    flagged: dict[str, dict[str, float]] = {}
    for kind in tqdm(KINDS, desc="OutlierVAE, corruptions", disable=not progress):
        flagged[kind] = {
            str(severity): round(
                float(np.mean(scores(detector, corrupt(some, kind, severity)) > threshold)), 4
            )
            for severity in SEVERITIES
        }
    masked, _ = growing_masks(data.x_train[1], mask_size=settings.mask_size)
    return {
        "threshold": round(threshold, 6),
        "threshold_percentile": settings.threshold_percentile,
        "calibration_images": settings.calibration_images,
        "latent_dim": settings.latent_dim,
        "test_images": len(clean),
        "test_score_mean": round(float(clean.mean()), 6),
        "normal_flagged": round(float(np.mean(clean > threshold)), 4),
        "corrupted_images": len(some),
        "corrupted_flagged": flagged,
        "mask_flags": (scores(detector, masked) > threshold).astype(int).tolist(),
    }
