"""Explanations over HTTP: with and without the reuse of predictions, made and from the cache.

For every method, and every committed artefact of it, the deployed model and two explain servers are started
as processes, without gateway: one as manifests start it, with its cache on, and one that asks the model about every
sample. Both are asked for the same explanations in turn: test instances with the seeds 0, 1, 2, …; then the first
is asked for all of its own again, which come from the cache's memory.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.figures import Found, Table, percentile
from benchmarks.servers import Server, Servers, protocol_of
from helpers import artifacts, data
from helpers.errors import WalkthroughError
from helpers.metrics import Samples
from helpers.serving.explain.methods import METHODS, method_class
from helpers.serving.payloads import TENSORFLOW

MODELS = {
    "cifar10": "resnet32",
    "digits": "resnet32",
    "credit_risk": "forest",
    "breast_cancer": "logistic",
    "tickets": "bag_of_words",
}
"""The model of each data set that explainers ask."""

KERAS = "IntegratedGradients"  # explains a Keras model, not an artefact named after the method
ROWS = {"ALE": 100}  # instances of one request, where a method explains the model by many
BATCH = 16  # and of a second series, where a method explains several at once
ONE_CALL = (
    "--internal_batch_size=1000",
)  # all points of such a request in one call of the network
REQUESTS = 100
REQUEST_SECONDS = 120.0
QUICK = ("AnchorImages", "KernelShap", "IntegratedGradients", "TreeShap")
CACHE = ("--cache_memory_bytes=268435456", "--model_version=bench")


@dataclass(frozen=True)
class Case:
    """One method on one artefact.

    Args:
        method: as Seldon names it.
        dataset, explainer: the artefact.
        model: what it asks; None for a method that holds its model.
        rows: instances of one request.
        options: of the method, on the command line.
    """

    method: str
    dataset: str
    explainer: str
    model: str | None
    rows: int = 1
    options: tuple[str, ...] = ()

    @property
    def protocol(self) -> str:
        """That of the explained model."""
        return protocol_of(self.dataset, self.model or self.explainer)


@dataclass(frozen=True)
class Asked:
    """A series of explanations: seconds of each, and means of what one of them asked of the model."""

    seconds: list[float]
    calls: float
    predicted: float
    drawn: float


def cases(only: Sequence[str] = ()) -> list[Case]:
    """Return every method with every committed artefact of it, in the order of METHODS.

    Raises:
        WalkthroughError: MODELS does not say which model an explainer asks.
    """
    found = []
    for method, module in METHODS.items():
        for artifact in artifacts.list_all():
            if only and method not in only:
                continue
            folder = artifacts.path(artifact.dataset, artifact.name)
            keras = artifact.format == "keras" and (folder / "model.h5").is_file()
            if not (keras if method == KERAS else artifact.name == module):
                continue
            asks = method_class(method).asks_model
            if asks and artifact.dataset not in MODELS:
                raise WalkthroughError(
                    f"{artifact.dataset}/{artifact.name}: MODELS in {__file__} does not say which model it asks."
                )
            model = MODELS[artifact.dataset] if asks else None
            rows = ROWS.get(method, 1)
            found.append(Case(method, artifact.dataset, artifact.name, model, rows))
            if method == KERAS and artifact.dataset == "credit_risk":
                for options in ((), ONE_CALL):
                    found.append(
                        Case(method, artifact.dataset, artifact.name, model, BATCH, options)
                    )
    return found


def instances_of(case: Case) -> list[Any]:
    """Return test instances as JSON has them, in the model's own form.

    Raises:
        DataError: the data set is not here.
    """
    if case.dataset in data.TEXTS:
        return list(data.load_texts(case.dataset).x_test)
    if case.dataset in data.TABLES:
        table = data.load_table(case.dataset)
        if case.method == KERAS:
            from helpers.models.tabular import encoding_of

            return encoding_of(table).encode(table.x_test[:200]).astype(float).tolist()
        return table.x_test[:200].tolist()
    return data.load(case.dataset, fallback=False).x_test[:50].tolist()


class ExplainClient:
    """Asks one explain server."""

    def __init__(self, case: Case, server: Server, instances: list[Any]) -> None:
        self.case, self.server, self.instances = case, server, instances
        path = "/v1/models/m:explain" if case.protocol == TENSORFLOW else "/api/v1.0/explain"
        name = "m" if case.model is None else case.model
        self._url = server.url + path.replace("/m:", f"/{name}:")
        self._client = httpx.Client(timeout=REQUEST_SECONDS, trust_env=False)

    def ask(self, number: int, source: str = "") -> float:
        """Return the seconds of explanation `number`, which must come from `source`."""
        size = self.case.rows
        start = number * size % max(1, len(self.instances) - size)
        rows = self.instances[start : start + size]
        tensorflow = self.case.protocol == TENSORFLOW
        body: dict[str, Any] = {"instances": rows} if tensorflow else {"data": {"ndarray": rows}}
        body["parameters"] = {"seed": number}
        content = json.dumps(body)
        began = time.perf_counter()
        answer = self._client.post(self._url, content=content)
        took = time.perf_counter() - began
        if answer.status_code != 200:
            raise WalkthroughError(
                f"{self.case.method} of {self.case.dataset} answers {answer.status_code}: {answer.text[:300]}"
            )
        came = answer.headers.get("x-explanation-source", "")
        if source and came != source:
            raise WalkthroughError(
                f"{self.case.method}: explanation {number} came from {came!r}, not from {source!r}."
            )
        return took

    def asked(self, seconds: list[float], before: Samples) -> Asked:
        """Return a series with what the server counted since `before`."""
        counted = self.server.metrics() - before

        def mean(name: str) -> float:
            return counted.value(f"explain_server_{name}_sum") / len(seconds)

        return Asked(seconds, mean("model_calls"), mean("distinct_samples"), mean("samples"))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


@dataclass(frozen=True)
class Series:
    """What one case took; `paired` are (with reuse, without) of the same explanations."""

    case: Case
    made: Asked
    cached: list[float]
    paired: list[tuple[float, float]]
    without: Asked | None


def measure_case(case: Case, requests: int, seconds: float) -> Series:
    """Ask for so many explanations, or for so long, whichever is less; at least three.

    Raises:
        WalkthroughError: a server does not start, or an explanation is refused.
    """
    uri = f"s3://walkthrough/{case.dataset}/{case.explainer}"
    with Servers() as servers:
        model = servers.model(case.dataset, case.model) if case.model else None
        cache = CACHE if model is not None else CACHE[:1]
        options = (*cache, *case.options)
        first = servers.explainer(case.method, uri, case.protocol, model, *options)
        second = None
        if model is not None:
            second = servers.explainer(
                case.method, uri, case.protocol, model, EXPLAIN_REUSE_PREDICTIONS="false"
            )
        servers.wait(*filter(None, (model, first, second)))
        instances = instances_of(case)
        client = ExplainClient(case, first, instances)
        other = None if second is None else ExplainClient(case, second, instances)
        try:
            return _series(case, client, other, requests, seconds)
        finally:
            client.close()
            if other is not None:
                other.close()


def _series(
    case: Case, client: ExplainClient, other: ExplainClient | None, requests: int, seconds: float
) -> Series:
    for one in filter(None, (client, other)):
        one.ask(requests)  # warm: explanation `requests` is not measured
    before = client.server.metrics()
    other_before = None if other is None else other.server.metrics()
    made: list[float] = []
    without: list[float] = []
    end = time.monotonic() + seconds
    while len(made) < requests and (len(made) < 3 or time.monotonic() < end):
        number = len(made)
        in_pair = other is not None and (number < 3 or time.monotonic() < end - seconds / 2)
        if in_pair and number % 2:
            without.append(other.ask(number))
        made.append(client.ask(number, "made"))
        if in_pair and not number % 2:
            without.append(other.ask(number))
    asked = client.asked(made, before)
    cached = [client.ask(number, "memory") for number in range(len(made))]
    return Series(
        case,
        asked,
        cached,
        list(zip(made, without, strict=False)),
        other.asked(without, other_before) if other is not None else None,
    )


def measure(quick: bool) -> Found:
    """Measure every method; about three minutes, `quick` one."""
    found, lines = Found(), []
    chosen = cases(QUICK if quick else ())
    for case in chosen:
        if case.dataset == "digits" or (
            quick and case.method == KERAS and case.dataset == "cifar10"
        ):
            continue
        series = measure_case(case, 10 if quick else REQUESTS, 2.0 if quick else 8.0)
        lines.append(_line(series))
        _rows(found, series)
    head = (
        *("Method", "Explainer", "Asks", "n", "Made: p50 ms", "p99 ms", "Cached: p50 ms", "p99 ms"),
        *(
            "Model calls",
            "Inputs predicted",
            "Inputs drawn",
            "Without reuse: p50 ms",
            "Times slower",
        ),
    )
    found.tables.append(Table("Explanations, one after the other", head, lines))
    return found


def _line(series: Series) -> list[Any]:
    case, made = series.case, series.made
    return [
        ", ".join((case.method, *([f"{case.rows} rows"] if case.rows > 1 else ()), *case.options)),
        f"{case.dataset}/{case.explainer}",
        case.model or "nobody",
        len(made.seconds),
        *_milliseconds(made.seconds),
        *_milliseconds(series.cached),
        made.calls,
        made.predicted,
        made.drawn,
        _milliseconds(series.without.seconds)[0] if series.without else None,
        statistics.median(_ratios(series)) if series.paired else None,
    ]


def _ratios(series: Series) -> list[float]:
    return [without / made for made, without in series.paired]


def _milliseconds(seconds: Sequence[float]) -> tuple[float, float]:
    return statistics.median(seconds) * 1000, percentile(seconds, 99) * 1000


def _rows(found: Found, series: Series) -> None:
    case = series.case
    median = statistics.median(series.made.seconds)
    if case.rows == 1:
        found.facts[f"{case.method}_{case.dataset}_seconds"] = median
    if case.method == "AnchorImages":
        count = len(series.made.seconds)
        (_, made), (_, cached) = map(_milliseconds, (series.made.seconds, series.cached))
        found.add(
            "anchor_made", f"AnchorImages, p99 of {count} made", made, "ms",
            limit=f"p50 {median * 1000:.0f} ms", target="< 250",
        )  # fmt: skip
        found.add(
            "anchor_cached", f"AnchorImages, p99 of {count} from the cache", cached, "ms",
            limit=f"p50 {statistics.median(series.cached) * 1000:.1f} ms", target="< 10",
        )  # fmt: skip
        without = statistics.median(series.without.seconds) if series.without else 0.0
        found.add(
            "anchor_reuse", "AnchorImages: times faster than without reuse", _ratios(series), "×",
            limit=f"{without * 1000:.0f} ms without, the same explanations", target="≥ 10",
        )  # fmt: skip
    if case.method == KERAS and case.rows == BATCH:
        found.add(
            "gradients_one_call" if case.options else "gradients_batch",
            ", ".join(
                (f"IntegratedGradients of the credit network, {BATCH} a request", *case.options)
            ),
            [case.rows / one for one in series.made.seconds],
            "explanations/s",
            limit=f"{found.facts[f'{KERAS}_credit_risk_seconds'] * 1000:.0f} ms one alone",
            target="" if case.options else "≥ 100",
        )
