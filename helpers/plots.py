"""The pictures of the notebooks. Every function draws one figure and returns nothing."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from helpers import alt_text

BLUE, ORANGE, GREY, LIGHT = "#2b6cb0", "#dd6b20", "#718096", "#edf2f7"

plt.rcParams.update(
    {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "axes.titlelocation": "left",
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "font.size": 9,
        "legend.frameon": False,
    }
)
alt_text.add_to_notebook()


def flow(steps: Sequence[str], highlight: Sequence[int] = ()) -> None:
    """Draw the data's way through the system: boxes from left to right, some of them highlighted."""
    figure, axis = plt.subplots(figsize=(1.75 * len(steps), 1.1))
    figure.set_label("Flow: " + " → ".join(steps))
    for number, step in enumerate(steps):
        chosen = number in highlight
        axis.add_patch(
            FancyBboxPatch(
                (number * 1.75, 0),
                1.3,
                0.8,
                boxstyle="round,pad=0.02,rounding_size=0.12",
                facecolor=BLUE if chosen else LIGHT,
                edgecolor=BLUE if chosen else GREY,
            )
        )
        axis.text(
            number * 1.75 + 0.65, 0.4, step, ha="center", va="center",
            color="white" if chosen else "black", fontsize=9,
        )  # fmt: skip
        if number:
            axis.annotate(
                "",
                (number * 1.75 - 0.05, 0.4),
                (number * 1.75 - 0.4, 0.4),
                arrowprops={"arrowstyle": "->", "color": GREY, "lw": 1.5},
            )
    axis.set(xlim=(-0.1, 1.75 * len(steps) - 0.35), ylim=(-0.1, 0.9))
    axis.axis("off")
    plt.show()


def image_grid(
    images: np.ndarray,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 10,
    row_labels: Sequence[str] | None = None,
    size: float = 0.95,
) -> None:
    """Draw images (n, height, width, 3) in [0, 1], row by row, each with its title."""
    rows = -(-len(images) // columns)
    title_space = 0.22 if titles is not None else 0
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * size, rows * (size + title_space)), squeeze=False
    )
    shown = alt_text.joined([*(row_labels or ()), *(titles or ())])
    figure.set_label(f"{len(images)} images" + (f": {shown}" if shown else ""))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for number, image in enumerate(images):
        axis = axes.flat[number]
        axis.imshow(np.clip(image, 0, 1))
        if titles is not None:
            axis.set_title(titles[number], fontsize=8, loc="center", pad=2)
    for row, label in enumerate(row_labels or ()):
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center")
    plt.show()


def loss_by_step(losses: Sequence[float], smooth: int = 10) -> None:
    """Draw the loss of every training step and its running mean."""
    _, axis = plt.subplots(figsize=(6, 2.6))
    axis.plot(range(1, len(losses) + 1), losses, color=GREY, lw=0.8, label="one batch")
    if len(losses) >= smooth:
        mean = np.convolve(losses, np.ones(smooth) / smooth, "valid")
        axis.plot(range(smooth, len(losses) + 1), mean, color=BLUE, lw=2, label=f"mean of {smooth}")
    axis.set(xlabel="training step", ylabel="cross-entropy loss", title="The loss falls")
    axis.legend()
    plt.show()


def training_history(epochs: Sequence[dict]) -> None:
    """Draw accuracy and learning rate by epoch, from the records of `train_classifier`."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), width_ratios=(2, 1))
    numbers = [e["epoch"] for e in epochs]
    left.plot(numbers, [e["accuracy"] for e in epochs], color=GREY, label="training, augmented")
    measured = [e for e in epochs if "val_accuracy" in e]
    left.plot(
        [e["epoch"] for e in measured],
        [e["val_accuracy"] for e in measured],
        color=BLUE,
        marker="o",
        ms=3,
        label="test images",
    )
    left.set(xlabel="epoch", ylabel="accuracy", title="Accuracy by epoch")
    left.legend(loc="lower right")
    right.plot(numbers, [e["learning_rate"] for e in epochs], color=ORANGE)
    right.set(xlabel="epoch", ylabel="learning rate", title="One cycle")
    plt.show()


def confusion(matrix: np.ndarray, names: Sequence[str]) -> None:
    """Draw a confusion matrix of shares: row = true class, column = predicted class."""
    shares = matrix / matrix.sum(1, keepdims=True)
    _, axis = plt.subplots(figsize=(5.6, 4.8))
    shown = shares.copy()
    np.fill_diagonal(shown, np.nan)  # else the diagonal drowns what is worth seeing
    picture = axis.imshow(shown, cmap="Oranges", vmin=0)
    for row, column in np.ndindex(shares.shape):
        if row == column or shares[row, column] >= 0.01:
            dark = shown[row, column] > 0.6 * np.nanmax(shown)
            axis.text(
                column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center",
                fontsize=8, color=BLUE if row == column else "white" if dark else "black",
            )  # fmt: skip
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="true", title="Percent of each true class")
    axis.spines[:].set_visible(False)
    plt.colorbar(picture, ax=axis, label="share of the true class, off the diagonal", shrink=0.8)
    plt.show()


def bars(
    names: Sequence[str],
    values: Sequence[float],
    xlabel: str,
    title: str,
    mark: float | None = None,
) -> None:
    """Draw one horizontal bar per name, with its value, and a line at `mark`."""
    _, axis = plt.subplots(figsize=(6, 0.25 * len(names) + 0.9))
    drawn = axis.barh(range(len(names)), values, color=BLUE)
    if mark is not None:
        axis.axvline(mark, color=ORANGE, lw=1.5, ls="--")
    over_the_line = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    axis.bar_label(
        drawn,
        [f"{value:.3f}" for value in values],
        padding=3,
        fontsize=8,
        bbox=over_the_line,
        zorder=3,
    )
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlabel=xlabel, title=title, xlim=(0, 1.12 * max(values)))
    plt.show()


def score_histogram(
    groups: dict[str, np.ndarray], threshold: float, xlabel: str = "instance score"
) -> None:
    """Draw the distribution of scores of each group, and the threshold."""
    _, axis = plt.subplots(figsize=(7, 2.8))
    top = max(float(np.percentile(scores, 99.5)) for scores in groups.values())
    edges = np.linspace(0, max(top, 1.3 * threshold), 60)
    for color, (name, scores) in zip((BLUE, ORANGE, GREY), groups.items(), strict=False):
        axis.hist(
            np.clip(scores, 0, edges[-1]), edges, alpha=0.55, color=color, label=name, density=True
        )
    axis.axvline(threshold, color="black", ls="--", lw=1, label="threshold")
    axis.set(xlabel=xlabel, ylabel="density", title="Scores against the threshold")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside: the bars fill the axes
    plt.show()


def instance_scores(scores: np.ndarray, threshold: float, xlabel: str) -> None:
    """Draw the score of each image in order; those above the threshold are orange."""
    _, axis = plt.subplots(figsize=(7, 2.6))
    above = scores > threshold
    for mask, color, name in ((~above, BLUE, "normal"), (above, ORANGE, "outlier")):
        axis.scatter(np.flatnonzero(mask), scores[mask], color=color, label=name, zorder=3)
    axis.plot(scores, color=GREY, lw=0.8)
    axis.axhline(threshold, color="black", ls="--", lw=1, label="threshold")
    axis.set(xlabel=xlabel, ylabel="instance score (mean squared error)", ylim=(0, None))
    axis.set_xticks(range(len(scores)))
    axis.legend()
    plt.show()


def reconstructions(originals: np.ndarray, rebuilt: np.ndarray, scores: np.ndarray) -> None:
    """Draw a row per image: it, its reconstruction, and the feature score of each channel.

    originals, rebuilt, scores: (n, height, width, 3); scores share one colour scale.
    """
    titles = ["image", "reconstruction", "red", "green", "blue"]
    figure, axes = plt.subplots(
        len(originals), 5, figsize=(5.6, 1.1 * len(originals)), squeeze=False
    )
    figure.set_label(
        f"{len(originals)} images, the reconstruction of each, and its feature scores in red, green and blue"
    )
    top = float(np.percentile(scores, 99.5))
    for row, (original, again, score) in enumerate(zip(originals, rebuilt, scores, strict=True)):
        axes[row, 0].imshow(np.clip(original, 0, 1))
        axes[row, 1].imshow(np.clip(again, 0, 1))
        for channel in range(3):
            picture = axes[row, 2 + channel].imshow(
                score[..., channel], cmap="magma", vmin=0, vmax=top
            )
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8, loc="center")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.colorbar(picture, ax=axes[:, 4], label="feature score (squared error)", aspect=30)
    plt.show()


def severity_table(
    shares: dict[str, dict[str, float]], label: str, title: str, form: str = "{:.0%}"
) -> None:
    """Draw a value for each corruption (row) and severity (column) as a coloured table."""
    kinds, severities = list(shares), list(next(iter(shares.values())))
    values = np.array([[shares[kind][s] for s in severities] for kind in kinds])
    _, axis = plt.subplots(figsize=(5.6, 0.42 * len(kinds) + 1.0))
    picture = axis.imshow(values, cmap="Blues", vmin=0, vmax=max(1e-9, values.max()), aspect="auto")
    for row, column in np.ndindex(values.shape):
        dark = values[row, column] > 0.6 * values.max()
        axis.text(
            column, row, form.format(values[row, column]), ha="center", va="center",
            color="white" if dark else "black", fontsize=8,
        )  # fmt: skip
    axis.set_xticks(range(len(severities)), severities)
    axis.set_yticks(range(len(kinds)), kinds)
    axis.set(xlabel="severity", title=title)
    axis.spines[:].set_visible(False)
    plt.colorbar(picture, ax=axis, label=label)
    plt.show()


def effect_by_severity(
    effects: dict[str, dict[str, float]], undrifted_max: float, window: int
) -> None:
    """Draw the effect size of each corruption by severity, over what undrifted windows reach."""
    _, axis = plt.subplots(figsize=(6.4, 3))
    for kind, by_severity in effects.items():
        axis.plot(list(by_severity), list(by_severity.values()), marker="o", ms=4, label=kind)
    axis.axhspan(0, undrifted_max, color=LIGHT, label="undrifted windows", zorder=0)
    axis.set(
        xlabel="severity",
        ylabel="effect size: largest KS distance",
        title=f"Windows of {window:,} images against the reference",
        ylim=(0, None),
    )
    axis.legend(loc="upper left")
    plt.show()


def p_values(p_vals: np.ndarray, thresholds: dict[str, float]) -> None:
    """Draw the p-value of each window on a logarithmic scale, with the thresholds' lines."""
    _, axis = plt.subplots(figsize=(7, 2.6))
    axis.scatter(range(1, len(p_vals) + 1), p_vals, color=BLUE, s=16, zorder=3)
    for (name, value), style in zip(thresholds.items(), ("--", "-", ":"), strict=False):
        axis.axhline(value, color=ORANGE, ls=style, lw=1.2, label=f"{name}: {value:.3g}")
    axis.set(
        yscale="log",
        xlabel="undrifted window",
        ylabel="p-value (Bonferroni)",
        title="Windows without drift: what lies below a line is a false alarm",
    )
    axis.legend(loc="lower right")
    plt.show()


def faded_outside(image: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Return `image` pale where `held` is 0; both (height, width, 3), held an anchor's image."""
    inside = np.any(held > 0, axis=-1, keepdims=True)
    return np.where(inside, image, 0.85 + 0.15 * image)


def anchors(
    images: np.ndarray, segments: np.ndarray, held: np.ndarray, titles: Sequence[str]
) -> None:
    """Draw a column per image: the image, its superpixels, and what the anchor holds.

    images, held: (n, height, width, 3); segments: integers (n, height, width). Pixels of `held`
    outside the anchor are 0.
    """
    from skimage.segmentation import mark_boundaries

    figure, axes = plt.subplots(3, len(images), figsize=(1.5 * len(images), 4.9), squeeze=False)
    figure.set_label(
        f"{len(images)} images, their superpixels, and what the anchor of each holds: {alt_text.joined(titles)}"
    )
    for column, title in enumerate(titles):
        image, parts = np.clip(images[column], 0, 1), segments[column]
        marked = mark_boundaries(image, parts, color=(1, 0.85, 0), mode="inner")
        rows = (image, marked, faded_outside(image, held[column]))
        for axis, picture in zip(axes[:, column], rows, strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[0, column].set_title(title, fontsize=8, loc="center")
    for axis, label in zip(axes[:, 0], ("image", "superpixels", "anchor"), strict=True):
        axis.set_ylabel(label)
    plt.show()


def request_scores(groups: dict[str, np.ndarray], scores: np.ndarray, threshold: float) -> None:
    """Draw the score of every request in the order they were sent; `groups` are masks over them."""
    _, axis = plt.subplots(figsize=(9, 2.8))
    for color, (name, mask) in zip((ORANGE, BLUE, GREY), groups.items(), strict=False):
        axis.scatter(np.flatnonzero(mask) + 1, scores[mask], s=14, color=color, label=name)
    axis.axhline(threshold, color="black", ls="--", lw=1, label="threshold")
    axis.set(
        yscale="log",
        xlabel="request",
        ylabel="instance score",
        title="What lies above the line was flagged",
    )
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.show()


def drift_windows(answers: dict[str, dict], floor: float = 1e-30) -> None:
    """Draw windows on a time line: the smallest p-value against the threshold, and the distances.

    answers: by window, in the order they were tested, a drift detector's data: `is_drift`, `threshold`,
    and `p_val` and `distance` of each feature. p-values below `floor` are drawn on it.
    """
    _, (upper, lower) = plt.subplots(2, 1, figsize=(9, 4.2), sharex=True)
    places = np.arange(len(answers))
    drifted = np.array([bool(np.any(answer["is_drift"])) for answer in answers.values()])
    p_vals = np.array([max(np.min(answer["p_val"]), floor) for answer in answers.values()])
    distances = [np.ravel(answer["distance"]) for answer in answers.values()]
    thresholds = [float(np.max(answer["threshold"])) for answer in answers.values()]
    upper.plot(places, p_vals, color=GREY, lw=0.8, zorder=1)
    upper.plot(places, thresholds, color="black", ls="--", lw=1, label="threshold")
    for mask, color, name in ((~drifted, BLUE, "no drift"), (drifted, ORANGE, "drift")):
        upper.scatter(places[mask], p_vals[mask], color=color, s=36, zorder=3, label=name)
        for place in places[mask]:
            spread = np.full(len(distances[place]), place)
            lower.scatter(spread, distances[place], color=color, s=8, alpha=0.5)
    upper.set(
        yscale="log",
        ylim=(floor / 30, 30),
        ylabel="smallest p-value",
        title="Each window against the reference",
    )
    if (p_vals <= floor).any():
        upper.text(
            0.005, 0.04, f"bottom: {floor:.0e} or less", transform=upper.transAxes, color=GREY
        )
    upper.legend(loc="upper left", bbox_to_anchor=(1, 1))
    lower.set(ylabel="KS distance\nof each feature", ylim=(0, None), xlabel="window")
    lower.set_xticks(places, list(answers))
    plt.show()
