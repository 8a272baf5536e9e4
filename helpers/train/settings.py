"""What the artefacts of each data set are trained with: the one place to change it."""

from __future__ import annotations

from dataclasses import dataclass, field

from helpers.models.training import Recipe


@dataclass(frozen=True)
class OutlierSettings:
    """The VAE outlier detector.

    calibration_images: training images held out of the fit, from which the threshold comes.
    threshold_percentile: share of those, in percent, that the threshold leaves below it.
    mask_size: height and width, in pixels, of a patch of noise in the series of growing masks.
    """

    latent_dim: int = 256
    samples: int = 2
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    calibration_images: int = 5000
    threshold_percentile: float = 99.0
    images_per_corruption: int = 2000
    mask_size: tuple[int, int] = (3, 3)


@dataclass(frozen=True)
class DriftSettings:
    """The KS drift detector.

    reference, window: images. calibration: undrifted images that set p_val. The undrifted windows of
    the measurement are what is left. false_alarms: the share of undrifted windows to be alarmed by.
    """

    reference: int = 5000
    window: int = 1000
    calibration: int = 15_000
    dimensions: int = 32
    nominal_p_val: float = 0.05
    false_alarms: float = 0.01
    windows_per_corruption: int = 5


@dataclass(frozen=True)
class ExplainerSettings:
    """The AnchorImage explainer: SLIC with 5 segments, as in the walkthrough."""

    segments: int = 5
    compactness: float = 20.0
    sigma: float = 0.5
    threshold: float = 0.95
    images_measured: int = 50


@dataclass(frozen=True)
class Settings:
    """All of a data set's settings."""

    classifier: Recipe = field(default_factory=Recipe)
    outlier: OutlierSettings = field(default_factory=OutlierSettings)
    drift: DriftSettings = field(default_factory=DriftSettings)
    explainer: ExplainerSettings = field(default_factory=ExplainerSettings)


SETTINGS: dict[str, Settings] = {
    "cifar10": Settings(),
    # 1,437 images: everything is made on the spot, in about a minute.
    "digits": Settings(
        classifier=Recipe(
            epochs=10, batch_size=64, peak_learning_rate=0.1, warmup_epochs=2, flips=False
        ),
        outlier=OutlierSettings(
            epochs=10,
            batch_size=64,
            calibration_images=300,
            images_per_corruption=200,
            mask_size=(6, 6),
        ),
        drift=DriftSettings(reference=500, window=100, calibration=300, windows_per_corruption=2),
        explainer=ExplainerSettings(segments=15, images_measured=10),
    ),
}


@dataclass(frozen=True)
class CreditSettings:
    """Everything about credit_risk; seconds in all.

    trees, depth, leaf: of the forest. hidden, epochs, batch_size, learning_rate: of the network.
    sampled_rows: training rows that AnchorTabular draws from. percentiles: where it cuts numbers.
    background: training rows that KernelShap compares with. n_steps: of integrated gradients.
    rows_measured: test rows that the explainers' figures are of.
    """

    trees: int = 30
    depth: int = 8
    leaf: int = 5
    hidden: tuple[int, ...] = (32, 16)
    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 3e-3
    sampled_rows: int = 1000
    percentiles: tuple[int, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90)
    threshold: float = 0.95
    background: int = 20
    n_steps: int = 50
    rows_measured: int = 60


@dataclass(frozen=True)
class CancerSettings:
    """Everything about breast_cancer. strength: C of the logistic regression."""

    strength: float = 0.1


@dataclass(frozen=True)
class TicketSettings:
    """Everything about tickets. strength: C of the logistic regression, by cross-validation."""

    strength: float = 1.0
    threshold: float = 0.95


CREDIT = CreditSettings()
CANCER = CancerSettings()
TICKETS = TicketSettings()
