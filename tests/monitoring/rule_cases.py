"""For each alert of manifests/monitoring/rules: series that make it fire, and series that must not.

Values are in promtool's notation, one for each step: `0+9x60` is 0, 9, 18, … 540; `_x5` five times nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT = 'namespace="walkthrough",deployment_name="cifar10",predictor_name="default"'
CANARY = 'namespace="walkthrough",deployment_name="cifar10",predictor_name="canary"'
EXPLAINER = 'namespace="walkthrough",container="cifar10-default-explainer",model_name="resnet32"'

Series = dict[str, str]


@dataclass
class Case:
    """What happens, and whether the alert fires at a minute.

    Args:
        what: in words.
        series: and their values.
        fires: the labels of what fires, without the rule's own; None where it stays silent.
        at: the minute.
    """

    what: str
    series: Series
    fires: dict[str, str] | None = None
    at: int = 50


def labels(text: str) -> dict[str, str]:
    """Return the labels in `a="b",c="d"`."""
    return dict(re.findall(r'(\w+)="([^"]*)"', text))


HERE, THERE = labels(DEFAULT), labels(CANARY)
DEPLOYMENT = {name: HERE[name] for name in ("namespace", "deployment_name")}
EXPLAINED = labels(EXPLAINER)


def answered(code: int, values: str, predictor: str = DEFAULT) -> Series:
    name = "seldon_api_executor_server_requests_seconds_count"
    return {f'{name}{{{predictor},service="predictions",code="{code}"}}': values}


def took(whole: str, fast: str, second: str = "1.0") -> Series:
    """Predictions of which `fast` took a second or less, and none more than 2.5 s."""
    name = "seldon_api_executor_server_requests_seconds_bucket"
    buckets = {second: fast, "2.5": whole, "+Inf": whole}
    of = f'{DEFAULT},service="predictions",code="200"'
    return answered(200, whole) | {
        f'{name}{{{of},le="{le}"}}': values for le, values in buckets.items()
    }


def detector(name: str, values: str, worker: int = 1, tag: str = "") -> Series:
    return {f'{name}{{{DEFAULT},pod="detector",worker_id="{worker}"{tag}}}': values}


def rows(values: str, worker: int = 1) -> Series:
    return detector("detect_server_rows_total", values, worker)


def outliers(values: str, worker: int = 1) -> Series:
    return detector("seldon_metric_outlier_is_outlier_total", values, worker, ',index="0"')


def drifted(values: str, worker: int = 1) -> Series:
    return detector("seldon_metric_drift_counter_total", values, worker)


def feedback(right: str, wrong: str) -> Series:
    return detector("seldon_metric_true_positive_total", right, 1, ',class="CLASS_1"') | detector(
        "seldon_metric_false_negative_total", wrong, 1, ',class="CLASS_1"'
    )


def explained(code: int, values: str) -> Series:
    return {f'explain_server_requests_total{{{EXPLAINER},code="{code}"}}': values}


def explaining(whole: str, fast: str) -> Series:
    """Explanations of which `fast` took 5 s or less, and none more than 10 s."""
    buckets = {"5.0": fast, "10.0": whole, "+Inf": whole}
    return {f"explain_server_seconds_count{{{EXPLAINER}}}": whole} | {
        f'explain_server_seconds_bucket{{{EXPLAINER},le="{le}"}}': values
        for le, values in buckets.items()
    }


def cache_up(values: str) -> Series:
    return {f'explain_server_cache_up{{{EXPLAINER},level="redis"}}': values}


def stability(index: str, measured: str) -> Series:
    samples = "explain_server_stability_samples_total"
    return {
        f'explain_server_stability_index{{{EXPLAINER},similarity="jaccard"}}': index,
        f'{samples}{{{EXPLAINER},result="measured"}}': measured,
    }


def gauge(name: str, values: str) -> Series:
    return {f"explain_server_{name}{{{EXPLAINER}}}": values}


def seldon_events(make, count: int, every: int, lasting: int) -> Series:
    """As Seldon's image counts: each event is a series of its own, that stays; every n-th of them is 0."""
    found: Series = {}
    for number in range(1, count):
        found |= make(f"_x{number} {int(number % every > 0)}x{lasting}", number)
    return found


# Of AccuracyFell, whose windows are a day and an hour: 4 minutes a step, so 15 steps an hour.
STEPS = {"AccuracyFell": 4}  # minutes; of the others it is one
DAY = 375  # steps: a day and the hour before its last one
LATE = 4 * (DAY + 14)  # minutes: an hour later, almost

CASES: dict[str, list[Case]] = {
    "PredictionsFail": [
        Case("one in ten", answered(200, "0+54x60") | answered(503, "0+6x60"), HERE),
        Case("one in fifty", answered(200, "0+98x60") | answered(500, "0+2x60")),
        Case("two requests, both bad", answered(500, "0x47 1 2 2 2")),
        Case("the client's doing", answered(200, "0+54x60") | answered(400, "0+6x60")),
        Case("nothing at all", answered(200, "7x60") | answered(500, "7x60")),
        Case("for a minute only", answered(200, "0+5x60") | answered(500, "0x49 20")),
        Case(
            "restarted, failing before and after",
            answered(200, "0+54x45 0+54x10") | answered(500, "0+6x45 0+6x10"),
            HERE,
        ),
        Case(
            "restarted, failures long ago",
            answered(200, "0+60x45 0+60x10") | answered(500, "0+60x5 300x39 0x10"),
        ),
        Case(
            "the canary alone",
            answered(200, "0+95x60")
            | answered(200, "0+3x60", CANARY)
            | answered(500, "0+2x60", CANARY),
            THERE,
        ),
    ],
    "PredictionsRefused": [
        Case("four in ten", answered(200, "0+6x60") | answered(400, "0+4x60"), HERE),
        Case("one in ten", answered(200, "0+90x60") | answered(422, "0+10x60")),
        Case("one a minute, all bad", answered(400, "0+1x60")),
        Case("the server's doing", answered(200, "0+6x60") | answered(500, "0+4x60")),
        Case("restarted", answered(200, "0+6x45 0+6x10") | answered(400, "90x45 0x10")),
    ],
    "PredictionsSlow": [
        Case("one in twenty", took("0+100x60", "0+95x60"), HERE),
        Case("as Seldon's orchestrator writes it", took("0+100x60", "0+95x60", "1"), HERE),
        Case("one in five hundred", took("0+500x60", "0+499x60")),
        Case("one every two minutes, all slow", took("0+0.5x60", "0x60")),
        Case("no requests", took("50x60", "20x60")),
        Case("restarted", took("0+10x45 0+10x10", "0+10x45 0+10x10")),
    ],
    "PredictionsStopped": [
        Case("none for 17 minutes", answered(200, "0+2x60 120x60"), DEPLOYMENT, 77),
        Case("its orchestrator is gone", answered(200, "0+2x60 _x60"), DEPLOYMENT, 77),
        Case("none for 12 minutes", answered(200, "0+2x60 120x60"), None, 72),
        Case("one now and then before", answered(200, "0+0.5x60 30x60"), None, 77),
        Case("fewer than before", answered(200, "0+9x60 540+0.2x60"), None, 77),
        Case("restarted", answered(200, "0+2x60 0+2x60"), None, 77),
        Case(
            "another predictor goes on",
            answered(200, "0+2x60 120x60") | answered(200, "0+2x120", CANARY),
            None,
            77,
        ),
        Case("the busy hour is over", answered(200, "0+2x60 120x120"), None, 150),
    ],
    "OutlierShareHigh": [
        Case("three in ten", rows("0+10x60") | outliers("0+3x60"), HERE),
        Case("one in twenty", rows("0+20x60") | outliers("0+1x60")),
        Case("two rows, both outliers", rows("0x45 1 2x15") | outliers("0x45 1 2x15"), None, 57),
        Case("no rows", rows("90x60") | outliers("90x60")),
        Case(
            "restarted, with outliers long before",
            rows("0+10x45 _x15")
            | outliers("99x45 _x15")
            | rows("_x46 0+10x15", 2)
            | outliers("_x46 0x15", 2),
        ),
        Case(
            "Seldon's image, which counts no rows",
            answered(200, "0+2x60") | seldon_events(outliers, 50, 4, 60),
            HERE,
        ),
        Case(
            "Seldon's image, outliers long ago",
            answered(200, "0+2x120") | seldon_events(outliers, 30, 40, 120),
            None,
            90,
        ),
    ],
    "DriftDetected": [
        Case("a window of several", drifted("0x30 1x40"), HERE),
        Case("the first window ever", drifted("_x30 1x40"), HERE),
        Case("more than an hour ago", drifted("0x10 1x140"), None, 140),
        Case("no window drifts", drifted("0x60")),
        Case("restarted", drifted("0x5 3x135 _x40") | drifted("_x145 0x20", 2), None, 150),
        Case(
            "restarted, then the first window",
            drifted("3x140 _x40") | drifted("_x145 1x20", 2),
            HERE,
            150,
        ),
        Case("Seldon's image", seldon_events(drifted, 8, 4, 60), HERE),
        Case("Seldon's image, long ago", seldon_events(drifted, 8, 4, 140), None, 130),
    ],
    "AccuracyFell": [
        Case(
            "from 90 to 60 %",
            feedback(f"0+9x{DAY} {9 * DAY}+6x15", f"0+1x{DAY} {DAY}+4x15"),
            HERE,
            LATE,
        ),
        Case(
            "nothing is right any more",
            feedback(f"0+9x{DAY} {9 * DAY}x15", f"0x{DAY} 0+9x15"),
            HERE,
            LATE,
        ),
        Case(
            "90 %, and 18 of 24: chance",
            feedback(f"0+9x{DAY} {9 * DAY}+1.2x30", f"0+1x{DAY} {DAY}+0.4x30"),
            None,
            4 * (DAY + 29),
        ),
        Case(
            "15 pieces of feedback, all wrong",
            feedback(f"0+9x{DAY - 5} {9 * DAY}x20", f"0x{DAY} 0+5x3 15x12"),
            None,
            LATE,
        ),
        Case(
            "no feedback any more",
            feedback(f"0+9x{DAY - 5} {9 * DAY}x20", f"0+1x{DAY - 5} {DAY}x20"),
            None,
            LATE,
        ),
        Case(
            "wrong from the beginning: nothing to fall from", feedback("0+1x20", "0+9x20"), None, 48
        ),
        Case("restarted", feedback(f"0+9x{DAY} 0+9x15", f"0+1x{DAY} 0+1x15"), None, LATE),
    ],
    "ExplanationsFail": [
        Case("one in ten", explained(200, "0+54x60") | explained(504, "0+6x60"), EXPLAINED),
        Case("the client's doing", explained(200, "0+54x60") | explained(400, "0+6x60")),
        Case("two requests, both bad", explained(500, "0x40 1 2x20")),
        Case("nothing at all", explained(500, "9x60")),
    ],
    "ExplanationsSlow": [
        Case("nine in ten", explaining("0+10x60", "0+1x60"), EXPLAINED),
        Case("none", explaining("0+10x60", "0+10x60")),
        Case("two in all, both slow", explaining("0x40 1 2x20", "0x60")),
        Case("restarted", explaining("0+3x45 0+3x15", "0+3x45 0+3x15")),
    ],
    "ExplanationCacheDown": [
        Case("down", cache_up("0x60"), EXPLAINED | {"level": "redis"}),
        Case("up", cache_up("1x60")),
        Case("down for a moment", cache_up("1x46 0 0 1x9"), None, 48),
    ],
    "ExplanationsUnstable": [
        Case("0.5", stability("0.5x60", "12x60"), EXPLAINED | {"similarity": "jaccard"}),
        Case("0.9", stability("0.9x60", "12x60")),
        Case("0.5, but of two inputs", stability("0.5x60", "2x60")),
    ],
    "AttributionDrift": [
        Case("drift", gauge("attribution_drift_is_drift", "0x20 1x60"), EXPLAINED),
        Case("none any more", gauge("attribution_drift_is_drift", "1x20 0x60")),
    ],
    "ExplanationsNotAudited": [
        Case("some", gauge("audit_failures_total", "0x45 1x10"), EXPLAINED),
        Case("long ago", gauge("audit_failures_total", "0x5 3x60")),
        Case("restarted", gauge("audit_failures_total", "3x45 0x10")),
    ],
}
