"""The pictures of explanations: conditions, attributions, words and curves. Every function draws one figure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axis import Axis
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from helpers.plots import BLUE, GREY, LIGHT, ORANGE


def conditions(
    rows: Mapping[str, Mapping[str, str | float]], held: Mapping[str, Mapping[str, str]]
) -> None:
    """Draw a table, a column per instance: its values, and on blue those that its anchor holds.

    rows: title of the column -> value of each feature, as `Table.describe`. held: title -> feature ->
    condition, as alibi writes it.
    """
    features, width = list(next(iter(rows.values()))), 2.35
    figure, axis = plt.subplots(figsize=(1.7 + width * len(rows), 0.36 * (len(features) + 2)))
    anchors = (f"{title}: {', '.join(held[title].values()) or 'nothing'}" for title in rows)
    figure.set_label(
        "Table of instances, with what the anchor of each holds. " + "; ".join(anchors)
    )
    for row, feature in enumerate(features):
        axis.text(-0.1, row + 0.5, feature, ha="right", va="center")
    for column, (title, values) in enumerate(rows.items()):
        axis.text(width * (column + 0.5), -0.25, title, ha="center", va="bottom", weight="bold")
        for row, feature in enumerate(features):
            condition = held[title].get(feature)
            axis.add_patch(
                Rectangle(
                    (width * column + 0.03, row + 0.05),
                    width - 0.06,
                    0.9,
                    facecolor=LIGHT if condition is None else BLUE,
                    edgecolor="none",
                )
            )
            axis.text(
                width * (column + 0.5),
                row + 0.5,
                _cell(feature, values[feature], condition),
                ha="center",
                va="center",
                color=GREY if condition is None else "white",
            )
    axis.set(xlim=(-1.6, width * len(rows)), ylim=(len(features), -1.1))
    axis.axis("off")
    plt.show()


def _cell(feature: str, value: str | float, condition: str | None) -> str:
    """Return `33,200 > 30,310` for a loan of 33,200 and the condition `loan > 30310.00`."""
    if isinstance(value, str):
        return value
    if condition is None:
        return f"{value:,g}"
    limits = re.sub(r"\d+\.\d+", lambda found: f"{float(found[0]):,g}", condition)
    return limits.replace(feature, f"{value:,g}").replace("<=", "\N{LESS-THAN OR EQUAL TO}")


def attributions(
    features: Sequence[str],
    panels: Mapping[str, Mapping[str, np.ndarray]],
    deciding: Mapping[str, Sequence[str]],
    xlabel: str,
) -> None:
    """Draw a panel per instance with a bar per feature and method; features that decide have a pale band.

    panels: title -> method -> attributions (features,). deciding: title -> names of features.
    """
    _, axes = plt.subplots(
        1, len(panels), figsize=(9, 0.42 * len(features) + 1.2), sharey=True, sharex=True
    )
    for axis, (title, methods) in zip(axes, panels.items(), strict=True):
        thickness = 0.8 / len(methods)
        for number, (color, (method, given)) in enumerate(
            zip((BLUE, ORANGE, GREY), methods.items(), strict=False)
        ):
            places = np.arange(len(features)) + (number + 0.5) * thickness - 0.4
            axis.barh(places, given, thickness * 0.9, color=color, label=method)
        for name in deciding[title]:
            place = features.index(name)
            axis.axhspan(place - 0.5, place + 0.5, color="#fefcbf", zorder=0)
        axis.axvline(0, color="black", lw=0.8)
        axis.set(title=title, xlabel=xlabel)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(features)), features)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    handles.append(Rectangle((0, 0), 1, 1, color="#fefcbf"))
    axes[0].figure.legend(
        handles,
        [*labels, "decides, by the rule"],
        loc="outside lower center",
        ncols=len(labels) + 1,
    )
    plt.show()


def rule_map(
    panels: Mapping[str, np.ndarray],
    rule: np.ndarray,
    clauses: Sequence[str],
    features: Sequence[str],
) -> None:
    """Draw a panel per method: what share of its explanations goes to each feature, by clause of the rule.

    panels: method -> shares (clauses, features). rule: bool of the same shape, framed where true.
    """
    _, axes = plt.subplots(
        2, -(-len(panels) // 2), figsize=(9, 4.6), sharex=True, sharey=True, squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (method, shares) in zip(axes.flat, panels.items(), strict=False):
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(shares.shape):
            share = shares[row, column]
            if share >= 0.005:
                axis.text(
                    column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8,
                    color="white" if share > 0.6 else "black",
                )  # fmt: skip
            if rule[row, column]:
                axis.add_patch(
                    Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, ec=ORANGE, lw=2)
                )
        axis.set_title(f"{method}, percent")
        axis.set_xticks(range(len(features)), features, rotation=35, ha="right")
        axis.set_yticks(range(len(clauses)), clauses)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    plt.show()


def held_words(
    texts: Sequence[str], held: Sequence[Sequence[tuple[int, str]]], titles: Sequence[str]
) -> None:
    """Draw texts one below the other, the words that each anchor holds on blue.

    held: of each text, place of the first character and the word. titles: drawn before each text.
    """
    inches = 0.36
    figure = plt.figure(figsize=(9, inches * len(texts) + 0.1), layout="none")
    words_held = (", ".join(word for _, word in words) or "nothing" for words in held)
    figure.set_label(
        f"{len(texts)} texts, and the words that each anchor holds: " + "; ".join(words_held)
    )
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 1), ylim=(len(texts), 0))
    axis.axis("off")
    scale = 1 / figure.get_window_extent().width

    def write(left: float, row: int, text: str, **style) -> float:
        """Write and return where it ends."""
        box = axis.text(left, row + 0.5, text, va="center", **style)
        return left + box.get_window_extent().width * scale

    starts = []
    for row, title in enumerate(titles):
        starts.append(write(0.0, row, title, color=GREY))
    indent, gap = max(starts) + 0.015, 2.5 * scale  # of the box around a word, in pixels
    for row, (text, words) in enumerate(zip(texts, held, strict=True)):
        left, place = indent, 0
        for start, word in sorted(words):
            left = write(left, row, _solid(text[place:start]))
            box = {"boxstyle": "square,pad=0.15", "facecolor": BLUE, "edgecolor": "none"}
            left = write(left + gap, row, word, color="white", bbox=box) + gap
            place = start + len(word)
        write(left, row, _solid(text[place:]))
    plt.show()


def _solid(text: str) -> str:
    """Spaces at the ends would have no width."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def ale_curves(
    features: Sequence[str],
    places: Sequence[np.ndarray],
    effects: Sequence[np.ndarray],
    ylabel: str,
) -> None:
    """Draw a panel per feature: effect on the model's output over its values, with a mark for each place."""
    _, axes = plt.subplots(1, len(features), figsize=(9, 2.5), sharey=True)
    for axis, feature, place, effect in zip(axes, features, places, effects, strict=True):
        axis.axhline(0, color=GREY, lw=0.8, ls="--")
        axis.plot(place, effect, color=BLUE, lw=1.8)
        axis.plot(
            place, np.zeros(len(place)), "|", color="black", ms=8, alpha=0.5,
            transform=axis.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
        axis.set(xlabel=feature)
    axes[0].set_ylabel(ylabel)
    plt.show()


def cache_seconds(made: Sequence[float], kept: Sequence[float]) -> None:
    """Draw the time of each explanation when it was made, and when it came from the cache."""
    _, axis = plt.subplots(figsize=(9, 1.6))
    for row, (seconds, color) in enumerate(((made, ORANGE), (kept, BLUE))):
        axis.scatter(1000 * np.asarray(seconds), np.full(len(seconds), row), color=color, s=30)
    axis.set_yticks([0, 1], ["made", "from the cache"])
    axis.set(xscale="log", ylim=(1.6, -0.6), xlabel="milliseconds, as seen by the client")
    _plain(axis.xaxis)
    plt.show()


def distances_by_feature(
    windows: Mapping[str, Mapping[str, float]], drifted: Mapping[str, bool]
) -> None:
    """Draw how far each feature's attributions are from the reference, a panel per window.

    windows: window -> feature -> KS distance. drifted: window -> whether it was called drifted.
    """
    names = sorted(next(iter(windows.values())))
    figsize = (9, 0.28 * len(names) + 1)
    _, axes = plt.subplots(1, len(windows), figsize=figsize, sharex=True, sharey=True)
    for axis, (title, distances) in zip(np.atleast_1d(axes), windows.items(), strict=True):
        color = ORANGE if drifted[title] else BLUE
        axis.barh(names, [distances[name] for name in names], color=color)
        axis.set(
            title=f"{title}\n{'drift' if drifted[title] else 'no drift'}", xlabel="KS distance"
        )
    axes[0].set(xlim=(0, 1))
    axes[0].invert_yaxis()
    plt.show()


def batch_knee(sizes: Sequence[int], seconds: Sequence[float], knee: int) -> None:
    """Draw the time of a request over `internal_batch_size`, with the size that was chosen."""
    _, axis = plt.subplots(figsize=(9, 2.4))
    axis.plot(sizes, seconds, "o-", color=BLUE)
    axis.axvline(knee, color=ORANGE, lw=1.2, ls="--", label=f"chosen: {knee}")
    axis.set(
        xscale="log", yscale="log", xlabel="internal_batch_size", ylabel="seconds",
        title="Integrated gradients: time of one request",
    )  # fmt: skip
    _plain(axis.xaxis)
    _plain(axis.yaxis)
    axis.legend()
    plt.show()


def _plain(axis: Axis) -> None:
    """Write the numbers of a logarithmic axis out: 0.05, not 5 x 10^-2."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def method_costs(names: Sequence[str], seconds: Sequence[float], inputs: Sequence[float]) -> None:
    """Draw what one request costs with each method: the client's time, and the inputs the model predicts."""
    _, axes = plt.subplots(1, 2, figsize=(9, 0.3 * len(names) + 0.9), sharey=True)
    for axis, values, label in (
        (axes[0], seconds, "seconds, median"),
        (axes[1], inputs, "inputs that the model predicts"),
    ):
        places = [row for row, value in enumerate(values) if value]
        axis.scatter([values[row] for row in places], places, color=BLUE, s=36)
        axis.set(xscale="log", xlabel=label)
        axis.grid(axis="y", color=LIGHT)
        axis.set_axisbelow(True)
        _plain(axis.xaxis)
    axes[0].set_yticks(range(len(names)), names)
    for row, value in enumerate(inputs):
        if not value:
            axes[1].annotate(
                "none", (0.02, row), xycoords=("axes fraction", "data"), va="center", color=GREY
            )
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    plt.show()


def canary_steps(steps: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Draw share, error rate and time of each predictor, step by step.

    steps: step -> predictor -> {"share", "errors", "seconds"}; a predictor without requests is left out.
    """
    _, axes = plt.subplots(1, 3, figsize=(9, 0.36 * len(steps) + 1.1), sharey=True)
    titles = {"share": "share of requests", "errors": "error rate", "seconds": "median seconds"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for number, (name, color) in enumerate((("default", BLUE), ("canary", ORANGE))):
            places = [row for row, found in enumerate(steps.values()) if name in found]
            values = [found[name][key] for found in steps.values() if name in found]
            axis.barh(
                np.array(places) + 0.38 * number - 0.19, values, 0.36, color=color, label=name
            )
        axis.set(title=title)
    for axis in axes[:2]:
        axis.set(xlim=(0, 1))
        axis.xaxis.set_major_formatter("{x:.0%}")
    axes[0].set_yticks(range(len(steps)), list(steps))
    axes[0].invert_yaxis()
    axes[2].legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.show()
