"""One scrape of a server's metrics, and what changed between two of them.

before = cluster.metrics("outlier-vae")
...                                        # send requests
sent = cluster.metrics("outlier-vae") - before
sent.value("seldon_metric_outlier_is_outlier_total")
sent.by("seldon_metric_outlier_is_outlier_total", "index")
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from helpers.errors import ClientError

Labels = tuple[tuple[str, str], ...]
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_TOTAL = "_total"


class Samples:
    """The samples of one scrape, immutable: for each metric's name and labels, one value.

    Args:
        values: by name and sorted pairs of labels.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[tuple[str, Labels], float]) -> None:
        by_name: dict[str, dict[Labels, float]] = {}
        for (name, labels), value in values.items():
            by_name.setdefault(name, {})[labels] = value
        self._values = MappingProxyType(by_name)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the samples of exposition text, as a `/metrics` answers.

        Raises:
            ClientError: the text is no exposition; says which line is not.
        """
        values: dict[tuple[str, Labels], float] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if not _NAME.fullmatch(sample.name):
                        raise ValueError(f"{sample.name!r} is no metric's name")
                    key = (sample.name, tuple(sorted(sample.labels.items())))
                    values[key] = values.get(key, 0.0) + sample.value
        except (ValueError, IndexError, KeyError) as problem:
            raise ClientError(
                f"The text is no exposition of metrics ({problem}); it begins with "
                f"{text.strip()[:60]!r}. Was another path than the server's metrics asked for?"
            ) from problem
        return cls(values)

    def value(self, name: str, /, **labels: object) -> float:
        """Return the sum of the samples that have these labels; 0.0 where there is none.

        Args:
            name: of the samples; a counter's with or without `_total`.
            labels: what they must have; further labels do not matter.
        """
        return math.fsum(value for _, value in self._matching(name, labels))

    def by(self, name: str, label: str, /, **labels: object) -> dict[str, float]:
        """Return the sum for each value of `label`, in natural order: CLASS_2 before CLASS_10.

        Samples without that label are left out.
        """
        groups: dict[str, list[float]] = {}
        for found, value in self._matching(name, labels):
            if label in found:
                groups.setdefault(found[label], []).append(value)
        return {text: math.fsum(groups[text]) for text in sorted(groups, key=natural)}

    def names(self) -> tuple[str, ...]:
        """Return the names of all samples, sorted; a histogram's end in _bucket, _count and _sum."""
        return tuple(sorted(self._values))

    def quantile(self, histogram_name: str, q: float, /, **labels: object) -> float:
        """Return a quantile from a histogram's buckets, as PromQL's histogram_quantile estimates it.

        Linear within the bucket; the highest finite bound where the quantile lies above it. All
        series with these labels count as one histogram. NaN where nothing was observed.

        Args:
            histogram_name: without `_bucket`.
            q: between 0 and 1.
            labels: what its samples must have.

        Raises:
            ValueError: q is not between 0 and 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q is {q}: a quantile lies between 0 and 1.")
        name = histogram_name.removesuffix("_bucket") + "_bucket"
        bounds = sorted((float(le), count) for le, count in self.by(name, "le", **labels).items())
        if len(bounds) < 2 or not math.isinf(bounds[-1][0]) or not bounds[-1][1] > 0:
            return math.nan
        rank = q * bounds[-1][1]
        place = next(place for place, (_, count) in enumerate(bounds) if count >= rank)
        upper, count = bounds[place]
        if math.isinf(upper):
            return bounds[-2][0]
        if place == 0 and upper <= 0:
            return upper
        lower, below = bounds[place - 1] if place else (0.0, 0.0)
        if count == below:  # a rank of 0 in an empty first bucket
            return upper if place else lower
        return lower + (upper - lower) * (rank - below) / (count - below)

    def __sub__(self, before: Samples) -> Samples:
        """Return what was added since `before`, sample by sample; new series count from 0.

        Of a gauge it is how far it moved, so read gauges from the later scrape. Series that are gone
        are left out. A server that was started again in between counts from 0, and differences can be
        negative.
        """
        if not isinstance(before, Samples):
            return NotImplemented
        earlier = dict(before._items())
        return Samples({key: value - earlier.get(key, 0.0) for key, value in self._items()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Samples) and dict(self._items()) == dict(other._items())

    __hash__ = None  # type: ignore[assignment]  (compares by value, like a dict)

    def __len__(self) -> int:
        """Number of samples."""
        return sum(len(series) for series in self._values.values())

    def __repr__(self) -> str:
        return f"<Samples: {len(self)} of {len(self._values)} names>"

    def _items(self) -> Iterator[tuple[tuple[str, Labels], float]]:
        for name, series in self._values.items():
            for labels, value in series.items():
                yield (name, labels), value

    def _matching(
        self, name: str, labels: Mapping[str, object]
    ) -> Iterator[tuple[dict[str, str], float]]:
        wanted = {(label, str(value)) for label, value in labels.items()}
        for candidate in (name, name + _TOTAL, name.removesuffix(_TOTAL)):
            if candidate in self._values:
                for found, value in self._values[candidate].items():
                    if wanted.issubset(found):
                        yield dict(found), value
                return


def natural(text: str) -> list[tuple[int, float, str]]:
    """Return a sort key under which numbers within text, and numbers alone, stand in numeric order."""
    try:
        return [(0, float(text), "")]
    except ValueError:
        parts = re.split(r"(\d+)", text)
        return [(0, float(p), "") if p.isdecimal() else (1, 0.0, p) for p in parts if p]
