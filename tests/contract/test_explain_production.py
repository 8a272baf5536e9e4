"""Each production option of the explain server, on and off, over HTTP.

The artefacts are those of the repository, and the model answers in this process.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from helpers import artifacts
from helpers.data import credit_risk, load_table
from helpers.serving.common.errors import ServingError
from helpers.serving.explain import cli
from helpers.serving.explain.app import ExplainServer, make_app
from helpers.serving.explain.methods import METHODS, method_class
from helpers.serving.explain.model_client import ModelClient
from helpers.serving.explain.production import audit
from helpers.serving.explain.production.deadline import GRACE_SECONDS
from helpers.serving.explain.production.settings import ProductionSettings
from helpers.serving.explain.reuse import ReusedPredictions
from helpers.serving.payloads import write_json
from helpers.verify import VerificationError, verify

pytestmark = pytest.mark.timeout(120)

PATH = "/api/v1.0/explain"
NAMES = list(credit_risk.FEATURE_NAMES)
INCOME = NAMES.index("income")
SECRET = 73911.27  # an income that stands nowhere else
ROW = [2.0, SECRET, 3.0, 1.0, 14250.0, 6.3, 2.0, 0.0]
KEY = "k" * 32
MODEL = "--model_uri=s3://walkthrough/credit_risk/forest"
ARTEFACTS = {
    "AnchorTabular": "credit_risk/anchor_tabular",
    "KernelShap": "credit_risk/kernel_shap",
    "TreeShap": "credit_risk/tree_shap",
    "AnchorText": "tickets/anchor_text",
    "ALE": "breast_cancer/ale",
    "IntegratedGradients": "credit_risk/network",
    "AnchorImages": "cifar10/anchor_images",
}
MODELS = {"tickets": "tickets/bag_of_words", "breast_cancer": "breast_cancer/logistic"}


class Model:
    """The deployed model: answers, counts, and may take its time."""

    def __init__(self, artefact: str) -> None:
        self.estimator = artifacts.load(*artefact.split("/"))
        self.calls = 0
        self.seconds = 0.0
        self.fail: httpx.Response | None = None

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        time.sleep(self.seconds)
        if self.fail is not None:
            return self.fail
        rows = json.loads(request.content)["data"]["ndarray"]
        known = rows if isinstance(rows[0], str) else np.array(rows)
        return httpx.Response(
            200, json={"data": {"ndarray": self.estimator.predict_proba(known).tolist()}}
        )


def build(method: str, *options: str) -> tuple[ExplainServer, Model | None]:
    """Return the server of a command line, its model in this process."""
    arguments = [
        "--model_name=m",
        "--predictor_host=model:9000",
        f"--storage_uri=s3://walkthrough/{ARTEFACTS[method]}",
        method,
        *options,
    ]
    server = cli.build(cli.parser().parse_args(arguments))
    if server.service.predictions is None:
        return server, None
    model = Model(MODELS.get(ARTEFACTS[method].partition("/")[0], "credit_risk/forest"))
    client = ModelClient("model:9000", "seldon.http", "m", httpx.MockTransport(model.answer))
    server.service.predictions = ReusedPredictions(client, True)
    return server, model


class Serving:
    """A running server."""

    def __init__(self, client: TestClient, server: ExplainServer, model: Model | None) -> None:
        self.client = client
        self.server = server
        self.model = model

    def post(self, rows: Any = None, headers: Any = None, **parameters: Any) -> httpx.Response:
        body = {"data": {"ndarray": rows or [ROW]}, "parameters": parameters}
        return self.client.post(PATH, json=body, headers=headers)

    def ask(self, rows: Any = None, **parameters: Any) -> dict[str, Any]:
        answer = self.post(rows, **parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series with these labels; NaN where it has none."""
        found = [
            sample.value
            for family in text_string_to_metric_families(self.client.get("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else math.nan


@contextmanager
def serving(method: str, *options: str) -> Iterator[Serving]:
    server, model = build(method, *options)
    failures: list[str] = []
    with TestClient(make_app(server, failures.append)) as client:
        until(lambda: client.get("/ready").status_code == 200 or failures)
        assert not failures, failures
        yield Serving(client, server, model)


def until(check: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDACTION_KEY", KEY)
    monkeypatch.setenv("SIGNING_KEY", "s" * 32)
    monkeypatch.setenv("OLD_KEY", "o" * 32)


@pytest.fixture
def terms(tmp_path: Path) -> Path:
    table = tmp_path / "terms.yaml"
    table.write_text(
        """
outcomes: {0: low, 1: high}
sentences:
  lowers: "{feature} of {value} {unit} is against {outcome}: {attribution:+.2f}"
features:
  income: {term: Yearly income, unit: EUR}
  credit_history:
    term: Payment history
    values: {3: defaults}
    raises: "{feature}: {value}, which makes the risk {outcome} ({attribution:+.2f})"
"""
    )
    return table


# Off


@pytest.fixture(scope="module")
def plain() -> Iterator[dict[str, Serving]]:
    """Servers with every option off."""
    import contextlib

    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(serving(name)) for name in ("KernelShap", "AnchorTabular")}


def untouched(one: Serving, seed: int) -> bytes:
    """Return what alibi's explanation is as JSON, made past everything that production adds."""
    explained, _, _ = one.server.service.explain(np.array([ROW]), one.server.options, seed)
    return write_json({"meta": explained.meta, "data": explained.data})


@pytest.mark.parametrize("method", ["KernelShap", "AnchorTabular"])
def test_off_the_response_is_the_explanation_byte_for_byte(
    plain: dict[str, Serving], method: str
) -> None:
    one = plain[method]
    answer = one.post(seed=3)
    assert answer.content == untouched(one, 3)
    assert set(answer.headers) == {"content-type", "content-length"}
    exposed = one.client.get("/metrics").text
    for absent in ("_cache_", "_audit_", "_jobs", "_stability", "_attribution_drift"):
        assert f"explain_server{absent}" not in exposed


def test_off_nothing_is_kept_taken_or_promised(plain: dict[str, Serving]) -> None:
    one = plain["KernelShap"]
    assert one.model is not None
    counts = []
    for _ in range(3):
        counts.append(one.model.calls)
        one.ask(seed=1)
    first, second = np.diff(counts)
    assert first == second > 0
    later = one.post(headers={"prefer": "respond-async"}, seed=3)
    assert (later.status_code, later.content) == (200, untouched(one, 3))
    assert one.client.get("/v1/explanations/x").status_code == 404
    refused = one.post(deadline=1.0)
    assert refused.status_code == 400
    assert "deadline" in refused.json()["status"]["info"]
    seeds = {one.ask()["meta"]["params"]["seed"] for _ in range(3)}
    assert len(seeds) == 3


@pytest.mark.parametrize(
    "option",
    [
        *[f"--{name}=" for name in ProductionSettings.model_fields],
        *["--cache_memory_bytes=0", "--async_results=0", "--stability_share=0"],
        *["--cache_ttl_seconds=5", "--signing_key_id=", "--async_keep_seconds=9"],
    ],
)
def test_an_option_that_is_off_changes_nothing(option: str) -> None:
    with serving("TreeShap", option) as one:
        answer = one.post(seed=3)
        assert answer.content == untouched(one, 3)
        assert set(answer.headers) == {"content-type", "content-length"}


def test_no_option_of_production_is_a_method_s() -> None:
    for name in METHODS:
        assert not set(ProductionSettings.model_fields) & set(
            method_class(name).options.model_fields
        )


# Top k


@pytest.mark.parametrize("k", [1, 3, 8, 50])
@pytest.mark.parametrize("method", ["KernelShap", "TreeShap"])
def test_the_largest_attributions_and_the_others_sum_add_up(
    plain: dict[str, Serving], method: str, k: int
) -> None:
    with serving(method, f"--top_k={k}") as one:
        body = one.ask([ROW, ROW[::-1][:8]] if method == "TreeShap" else None, seed=1)
        explained, _, _ = one.server.service.explain(np.array([ROW]), one.server.options, 1)
    assert body["meta"]["params"]["top_k"] == k
    for output, whole in zip(
        body["data"]["shap_values"], explained.data["shap_values"], strict=True
    ):
        found = output[0]
        order = np.argsort(-np.abs(whole[0]), kind="stable")[:k]
        assert found["features"] == order.tolist()
        assert found["names"] == [NAMES[place] for place in order]
        assert found["values"] == whole[0][order].tolist()
        assert found["others"]["count"] == max(0, 8 - k)
        assert math.fsum([*found["values"], found["others"]["sum"]]) == pytest.approx(
            whole[0].sum(), abs=1e-12
        )
    ranked = body["data"]["raw"]["importances"]["aggregated"]
    assert len(ranked["names"]) == min(k, 8)


# For people


def test_people_get_sentences_beside_the_numbers(plain: dict[str, Serving], terms: Path) -> None:
    with serving("KernelShap", f"--people_template={terms}") as one:
        body = one.ask(seed=1)
    whole = plain["KernelShap"].ask(seed=1)
    (person,) = body.pop("people")
    assert body == whole
    assert person["outcome"] == "high"
    by_name = {entry["feature"]: entry for entry in person["features"]}
    assert set(by_name) == {"Yearly income", "Payment history"} | set(NAMES) - {
        "income",
        "credit_history",
    }
    values = dict(zip(NAMES, whole["data"]["shap_values"][1][0], strict=True))
    history = by_name["Payment history"]
    assert history["attribution"] == values["credit_history"] > 0
    assert history["sentence"] == (
        f"Payment history: defaults, which makes the risk high ({values['credit_history']:+.2f})"
    )
    income = by_name["Yearly income"]
    assert values["income"] < 0
    assert (
        income["sentence"]
        == f"Yearly income of 73911.3 EUR is against high: {values['income']:+.2f}"
    )
    sizes = [abs(entry["attribution"]) for entry in person["features"]]
    assert sizes == sorted(sizes, reverse=True)


def test_the_table_may_be_a_variable(terms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMS", terms.read_text())
    with serving("TreeShap", "--people_template=env:TERMS") as one:
        (person,) = one.ask()["people"]
    assert "Payment history" in [entry["feature"] for entry in person["features"]]
    monkeypatch.setenv("TERMS", "sentences: {raises: '{nothing}'}")
    for option, says in (("env:TERMS", "nothing"), ("env:NO_TERMS", "NO_TERMS")):
        with pytest.raises(ServingError, match=says):
            build("TreeShap", f"--people_template={option}")


def test_people_get_the_conditions_of_an_anchor(terms: Path) -> None:
    with serving("AnchorTabular", f"--people_template={terms}") as one:
        body = one.ask([ROW, ROW], seed=1)
    assert len(body["people"]) == 2
    first = body["people"][0]
    assert [entry["feature"] for entry in first["features"]] == ["Payment history"]
    assert first["features"][0]["attribution"] is None
    assert "Payment history = defaulted" in first["features"][0]["sentence"]
    assert "high" in first["sentence"]


def test_people_and_top_k_tell_of_the_same_features(terms: Path) -> None:
    with serving("KernelShap", f"--people_template={terms}", "--top_k=2") as one:
        body = one.ask(seed=1)
    (person,) = body["people"]
    kept = body["data"]["shap_values"][1][0]
    assert [entry["attribution"] for entry in person["features"]] == kept["values"]
    assert person["others"]["count"] == 6
    assert person["others"]["attribution"] == pytest.approx(kept["others"]["sum"], abs=1e-12)


# Signature


def test_a_signed_response_verifies_and_a_changed_byte_does_not(keys: None) -> None:
    with serving("KernelShap", "--signing_key=env:SIGNING_KEY", "--signing_key_id=2026-11") as one:
        answer = one.post(seed=1)
        expected = json.loads(untouched(one, 1))
    known = {"2026-11": b"s" * 32}
    assert verify(answer.content, known) == "2026-11"
    body = answer.json()
    assert body.pop("signatures")[0]["key_id"] == "2026-11"
    assert body == expected
    for place in range(0, len(answer.content), 7):
        changed = bytearray(answer.content)
        changed[place] ^= 0x01
        with pytest.raises(VerificationError):
            verify(bytes(changed), known)


def test_while_a_key_is_changed_either_verifies(keys: None, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("n" * 40 + "\n")
    options = (
        f"--signing_key=file:{tmp_path / 'new'}",
        "--signing_key_id=new",
        "--previous_signing_key=env:OLD_KEY",
        "--previous_signing_key_id=old",
    )
    with serving("TreeShap", *options) as one:
        content = one.post().content
    assert verify(content, {"old": b"o" * 32}) == "old"
    assert verify(content, {"new": b"n" * 40, "old": b"o" * 32}) == "new"
    with pytest.raises(VerificationError):
        verify(content, {"new": b"o" * 32})


# Cache


def test_the_second_answer_is_the_first_and_the_model_is_not_asked() -> None:
    with serving("KernelShap", "--cache_memory_bytes=10000000", MODEL) as one:
        assert one.model is not None
        first = one.post()
        calls = one.model.calls
        second = one.post()
        assert (first.headers["x-explanation-source"], second.headers["x-explanation-source"]) == (
            "made",
            "memory",
        )
        assert first.content == second.content
        assert one.model.calls == calls
        assert one.metric("explain_server_cache_hits_total", level="memory") == 1
        for other in ({"seed": 5}, {"nsamples": 50}, {"rows": [ROW[::-1]]}):
            assert one.post(**other).headers["x-explanation-source"] == "made"


def test_disk_survives_the_server_and_a_new_model_makes_it_anew(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    options = (f"--cache_disk_folder={folder}", "--model_version=1")
    with serving("KernelShap", *options) as one:
        until(lambda: one.metric("explain_server_cache_up", level="disk") == 1)
        first = one.post()
    with serving("KernelShap", *options) as one:
        until(lambda: one.metric("explain_server_cache_up", level="disk") == 1)
        kept = one.post()
    with serving("KernelShap", options[0], "--model_version=2") as one:
        until(lambda: one.metric("explain_server_cache_up", level="disk") == 1)
        new = one.post()
    sources = [answer.headers["x-explanation-source"] for answer in (first, kept, new)]
    assert sources == ["made", "disk", "made"]
    assert first.content == kept.content


def test_a_replaced_model_artefact_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    for name in ("kernel_shap", "forest"):
        shutil.copytree(artifacts.path("credit_risk", name), tmp_path / "credit_risk" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS_DIR", str(tmp_path))
        with serving("KernelShap", "--cache_memory_bytes=10000000", MODEL) as one:
            assert one.post().headers["x-explanation-source"] == "made"
            assert one.post().headers["x-explanation-source"] == "memory"
            record = tmp_path / "credit_risk" / "forest" / artifacts.RECORD
            told = json.loads(record.read_text())
            next(iter(told["files"].values()))["sha256"] = "0" * 64
            new = record.with_name("new")
            new.write_text(json.dumps(told))
            new.replace(record)
            assert one.post().headers["x-explanation-source"] == "made"


def test_a_redis_that_is_not_there_fails_nothing() -> None:
    options = ("--cache_memory_bytes=10000000", "--cache_redis_url=redis://127.0.0.1:9/0", MODEL)
    with serving("KernelShap", *options) as one:
        sources = [one.post().headers["x-explanation-source"] for _ in range(2)]
    assert sources == ["made", "memory"]


def test_templates_and_signatures_are_not_kept(keys: None, terms: Path) -> None:
    options = (
        *("--cache_memory_bytes=10000000", MODEL, "--top_k=2"),
        *(f"--people_template={terms}", "--signing_key=env:SIGNING_KEY", "--signing_key_id=a"),
    )
    with serving("KernelShap", *options) as one:
        first, second = one.post(), one.post()
    assert second.headers["x-explanation-source"] == "memory"
    assert first.content == second.content
    verify(second.content, {"a": b"s" * 32})


# Redaction


def files_below(folder: Path) -> bytes:
    return b"\n".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


LEAKS = (b"income", b"home_region", b"73911", b"7.3911", b"Yearly", b"61420")


@pytest.mark.parametrize("method", ["KernelShap", "AnchorTabular", "TreeShap"])
def test_a_sensitive_feature_is_nowhere(
    method: str, keys: None, terms: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    kept = tmp_path / "kept"
    options = [
        *("--redact_features=income, home_region", "--redaction_key=env:REDACTION_KEY"),
        *(f"--people_template={terms}", f"--audit_file={kept / 'audit.sqlite'}"),
        *(f"--cache_disk_folder={kept / 'cache'}", MODEL),
        *("--signing_key=env:SIGNING_KEY", "--async_results=4", "--deadline_seconds=60"),
    ]
    with serving(method, *options) as one:
        until(lambda: one.metric("explain_server_cache_up", level="disk") == 1)
        rows = [[*ROW[:2], 0.0, *ROW[3:]], ROW]  # the first has an anchor on the income
        seen = [one.post(rows, seed=seed) for seed in range(3)]
        assert all(answer.status_code == 200 for answer in seen)
        seen.append(one.post([[*ROW[:7], 99.0]]))  # no such category
        seen.append(one.post([ROW[:3]]))
        seen.append(one.post(income=1))
        seen.append(one.client.post(PATH, json={"data": {"ndarray": [["income", SECRET]]}}))
        if one.model is not None:
            one.model.fail = httpx.Response(400, json={"error": f"income {SECRET} is too high"})
            seen.append(one.post(seed=77))
            one.model.fail = httpx.Response(200, json={"data": {"ndarray": [[1.0]]}})
            seen.append(one.post(seed=78))
        one.server.service.explain = broken  # a fault of ours, whose message holds the value
        seen.append(one.post(seed=79))
        assert seen[-1].status_code == 500
        metrics = one.client.get("/metrics").content
        until(lambda: "audit.sqlite" in str(list(kept.iterdir())))
    told = b"\n".join(answer.content + repr(answer.headers).encode() for answer in seen)
    everything = told + metrics + files_below(kept) + caplog.text.encode()
    for leak in LEAKS:
        found = re.search(rb".{,60}" + re.escape(leak) + rb".{,60}", everything, re.IGNORECASE)
        assert not found, found
    assert b"hidden-" in told
    assert b"hidden-" in (kept / "audit.sqlite").read_bytes()


def broken(*_: Any) -> Any:
    raise ValueError(f"could not explain income={SECRET}")


def test_the_rest_of_a_redacted_explanation_stays(plain: dict[str, Serving], keys: None) -> None:
    options = ("--redact_features=income", "--redaction_key=env:REDACTION_KEY")
    with serving("KernelShap", *options) as one:
        found = one.ask(seed=1)
    whole = plain["KernelShap"].ask(seed=1)
    data = found["data"]
    assert data["shap_values"] == whole["data"]["shap_values"]
    assert data["expected_value"] == whole["data"]["expected_value"]
    assert data["raw"]["instances"] == [[*ROW[:INCOME], None, *ROW[INCOME + 1 :]]]
    mask = data["feature_names"][INCOME]
    assert mask.startswith("hidden-")
    assert data["feature_names"] == [*NAMES[:INCOME], mask, *NAMES[INCOME + 1 :]]
    assert found["meta"] == whole["meta"]
    with serving("TreeShap", *options) as other:
        assert mask in other.ask()["data"]["feature_names"]  # followed by its mask


def test_another_key_is_another_mask(keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def masks() -> list[str]:
        options = ("--redact_features=income", "--redaction_key=env:REDACTION_KEY")
        with serving("TreeShap", *options) as one:
            return one.ask()["data"]["feature_names"]

    first = masks()
    monkeypatch.setenv("REDACTION_KEY", "z" * 32)
    assert masks()[INCOME] != first[INCOME]


def test_a_feature_of_a_global_explanation_is_masked(keys: None) -> None:
    options = ("--redact_features=mean radius", "--redaction_key=env:REDACTION_KEY")
    rows = load_table("breast_cancer").x_test[:60]
    with serving("ALE", *options) as one:
        body = one.ask(rows.tolist(), features=[1, 0])
    data = body["data"]
    assert data["feature_names"][0] == "mean texture"
    assert data["feature_names"][1].startswith("hidden-")
    assert data["feature_values"][1] is None
    assert data["feature_deciles"][1] is None
    assert len(data["feature_values"][0]) > 2
    assert "mean radius" not in json.dumps(body)


def test_words_of_a_text_are_masked(keys: None) -> None:
    options = ("--redact_features=invoice,Meier", "--redaction_key=env:REDACTION_KEY")
    with serving("AnchorText", *options) as one:
        answer = one.post(["The INVOICE of Ms Meier shows the invoice twice"], seed=1)
    assert answer.status_code == 200, answer.text
    assert b"hidden-" in answer.content
    for secret in (b"invoice", b"meier"):
        assert secret not in answer.content.lower()


def test_a_name_that_no_feature_has_stops_the_server(keys: None) -> None:
    for options in (
        ("--redact_features=incone", "--redaction_key=env:REDACTION_KEY"),
        ("--redact_features=income", "--redaction_key=env:REDACTION_KEY", "--feature_names=a,b"),
    ):
        server, _ = build("KernelShap", *options)
        failures: list[str] = []
        with TestClient(make_app(server, failures.append)):
            until(lambda told=failures: told)
        assert "redact_features" in failures[0]
        assert "inco" not in failures[0]


# Audit


def test_each_answer_leaves_a_row_that_is_there_before_it(tmp_path: Path) -> None:
    file = tmp_path / "audit.sqlite"
    with serving("KernelShap", f"--audit_file={file}", "--top_k=2") as one:
        answer = one.post(
            headers={"seldon-puid": "p-1", "x-forwarded-user": "anna"}, seed=4, nsamples=60
        )
        receipt = audit.Receipt.parse(answer.headers["x-explanation-audit"])
        assert audit.verify(file, receipt=receipt).ok
        refused = one.post([[1.0]], headers={"x-request-id": "r-2"})
        assert refused.status_code == 400
    with sqlite3.connect(file) as db:
        db.row_factory = sqlite3.Row
        first, second = db.execute("SELECT * FROM audit ORDER BY seq").fetchall()
    assert (first["request_id"], first["caller"], first["outcome"]) == ("p-1", "anna", "made")
    assert (first["method"], first["explainer"]) == ("KernelShap", "credit_risk/kernel_shap")
    expected = artifacts.describe("credit_risk", "kernel_shap").checksum
    assert first["explainer_version"] == expected
    assert json.loads(first["parameters"]) == {"nsamples": 60, "seed": 4, "top_k": 2}
    kept = answer.json()["data"]["shap_values"][1][0]
    assert json.loads(first["top"]) == [
        list(pair) for pair in zip(kept["names"], kept["values"], strict=True)
    ]
    assert (second["request_id"], second["outcome"]) == ("r-2", "400")
    assert str(SECRET).encode() not in files_below(tmp_path)


def test_a_fault_leaves_a_row_too_and_its_log_has_the_cause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Any:
        try:
            raise KeyError("the cause")
        except KeyError as problem:
            raise ValueError("the fault") from problem

    with serving("TreeShap", f"--audit_file={tmp_path / 'audit.sqlite'}") as one:
        one.server.service.explain = fails
        assert one.post().status_code == 500
    assert "the cause" in caplog.text
    with sqlite3.connect(tmp_path / "audit.sqlite") as db:
        assert db.execute("SELECT outcome FROM audit").fetchall() == [("500",)]


# Deadline


ROWS = credit_risk.draw(60, np.random.default_rng(0))
SAFE = ROWS[credit_risk.rule(ROWS) == 0][1].tolist()
ENDLESS = {"threshold": 1.0, "delta": 0.001, "tau": 0.02}  # a search of half a minute and more


def test_an_anchor_is_the_best_so_far() -> None:
    options = ("--deadline_seconds=60", "--cache_memory_bytes=1000000", MODEL)
    with serving("AnchorTabular", *options) as one:
        full = one.ask([SAFE], seed=1)
        assert full["meta"]["deadline"] == {"seconds": 60, "complete": True}
        began = time.monotonic()
        cut = one.post([SAFE], seed=1, deadline=1.0, **ENDLESS)
        assert time.monotonic() - began < 1.0 + GRACE_SECONDS + 1.0
        assert cut.status_code == 200, cut.text
        body = cut.json()
        assert body["meta"]["deadline"] == {"seconds": 1.0, "complete": False}
        assert 0 < len(body["data"]["anchor"]) == len(body["data"]["raw"]["feature"])
        assert full["data"]["anchor"][0] in body["data"]["anchor"]
        assert 0.5 < body["data"]["precision"] <= 1
        assert one.metric("explain_server_cut_short_total") == 1
        again = one.post([SAFE], seed=1, deadline=1.0, **ENDLESS)
        assert again.headers["x-explanation-source"] == "made"  # what was cut short is not kept
        longer = one.post([SAFE], seed=1, deadline=50)
        assert longer.headers["x-explanation-source"] == "memory"
        assert longer.json()["meta"]["deadline"] == {"seconds": 50, "complete": True}


def test_what_has_nothing_yet_is_a_504_that_says_what_to_change() -> None:
    with serving("KernelShap", "--deadline_seconds=0.3") as one:
        assert one.model is not None
        one.model.seconds = 0.4
        answer = one.post()
        assert answer.status_code == 504
        told = answer.json()["status"]["info"]
        assert "0.3 s" in told
        assert "deadline" in told
        one.model.seconds = 3.0  # one call that cannot be interrupted
        began = time.monotonic()
        assert one.post().status_code == 504
        assert time.monotonic() - began < 2.5
        one.model.seconds = 0.0
        until(lambda: one.post().status_code == 200, 20)


def test_who_has_more_time_is_not_refused_with_who_has_less() -> None:
    """Two ask for the same at the same time, and the one with less time is first."""
    options = ("--deadline_seconds=30", "--cache_memory_bytes=1000000", MODEL)
    with serving("KernelShap", *options) as one, ThreadPoolExecutor(2) as pool:
        assert one.model is not None
        one.model.seconds = 0.4
        first = pool.submit(one.post, seed=1, deadline=0.5)
        until(lambda: one.server.waiting == 1)
        second = pool.submit(one.post, seed=1, deadline=20)
        assert first.result().status_code == 504
        assert second.result().status_code == 200


def test_who_has_more_time_gets_the_better_anchor() -> None:
    options = ("--deadline_seconds=30", "--cache_memory_bytes=1000000", MODEL)
    with serving("AnchorTabular", *options) as one, ThreadPoolExecutor(2) as pool:
        first = pool.submit(one.post, [SAFE], seed=1, deadline=1.0, **ENDLESS)
        until(lambda: one.server.waiting == 1)
        second = pool.submit(one.post, [SAFE], seed=1, deadline=3.0, **ENDLESS)
        told = [answer.result().json()["meta"]["deadline"] for answer in (first, second)]
    assert told == [{"seconds": 1.0, "complete": False}, {"seconds": 3.0, "complete": False}]


@pytest.mark.parametrize("deadline", [0, -1, 31, "1", True, None, float(2**40)])
def test_a_deadline_is_bounded_by_the_configuration(deadline: Any) -> None:
    with serving("TreeShap", "--deadline_seconds=30") as one:
        answer = one.post(deadline=deadline)
    assert answer.status_code == (200 if deadline is None else 400)


# Asynchronous


def test_an_explanation_is_fetched_later(plain: dict[str, Serving]) -> None:
    expected = plain["KernelShap"].ask(seed=1)
    with serving("KernelShap", "--async_results=2", "--async_keep_seconds=60") as one:
        accepted = one.post(headers={"prefer": "wait=1, Respond-Async"}, seed=1)
        assert accepted.status_code == 202
        assert accepted.headers["preference-applied"] == "respond-async"
        place = httpx.URL(f"http://g/seldon/ns/x-explainer/p{PATH}").join(
            accepted.headers["location"]
        )
        id = accepted.json()["id"]
        assert place.path == f"/seldon/ns/x-explainer/p/v1/explanations/{id}"
        path = httpx.URL(f"http://g{PATH}").join(accepted.headers["location"]).path
        until(lambda: one.client.get(path).status_code == 200)
        body = one.client.get(path).json()
        assert body["meta"].pop("deadline")["complete"] is True
        assert body == expected
        assert one.client.get("/v1/explanations/unknown").status_code == 404
        failed = one.post([[1.0]], headers={"prefer": "respond-async"})
        path = f"/v1/explanations/{failed.json()['id']}"
        until(lambda: one.client.get(path).status_code != 202)
        assert one.client.get(path).status_code == 400
        assert one.post(headers={"prefer": "respond-async"}).status_code == 429
        assert one.ask(seed=1) == expected  # who asks plainly gets a plain answer


def test_what_is_fetched_later_may_be_the_best_so_far() -> None:
    with serving("AnchorTabular", "--async_results=2", "--async_seconds=1.5") as one:
        accepted = one.post([SAFE], {"prefer": "respond-async"}, seed=1, **ENDLESS)
        path = f"/v1/explanations/{accepted.json()['id']}"
        until(lambda: one.client.get(path).status_code != 202)
        answer = one.client.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.json()["meta"]["deadline"] == {"seconds": 1.5, "complete": False}


# Stability and drift


@pytest.mark.parametrize(
    ("method", "similarity"), [("KernelShap", "spearman"), ("AnchorTabular", "jaccard")]
)
def test_what_is_asked_again_with_other_seeds_is_measured(method: str, similarity: str) -> None:
    with serving(method, "--stability_share=1", "--stability_seeds=2") as one:
        one.ask(seed=1)
        name = "explain_server_stability_index"
        until(lambda: not math.isnan(one.metric(name, similarity=similarity)))
        assert one.metric(name, similarity=similarity) > 0.5
        assert one.metric("explain_server_seconds_count") == 1  # clients only


def test_what_was_cut_short_is_not_made_again() -> None:
    rows = credit_risk.draw(60, np.random.default_rng(0))
    safe = rows[credit_risk.rule(rows) == 0][1].tolist()
    options = ("--stability_share=1", "--stability_seeds=1", "--deadline_seconds=30")
    with serving("AnchorTabular", *options) as one:
        cut = one.ask([safe], seed=1, deadline=0.5, threshold=1.0, delta=0.001, tau=0.02)
        assert cut["meta"]["deadline"]["complete"] is False
        one.ask([ROW], seed=1)
        samples = "explain_server_stability_samples_total"
        until(lambda: one.metric(samples) > 0)
        assert one.metric(samples, result="measured") == 1
        assert one.metric("explain_server_stability_count") == 1


def test_attributions_that_drift_are_told() -> None:
    options = ("--attribution_window=20", "--attribution_reference=20")
    rows = credit_risk.draw(40, np.random.default_rng(0))
    with serving("TreeShap", *options) as one:
        one.ask(rows[:20].tolist())
        one.ask(rows[20:].tolist())
        assert one.metric("explain_server_attribution_drift_windows_total", drift="0") == 1
        one.ask([ROW] * 20)
        assert one.metric("explain_server_attribution_drift_is_drift") == 1


# What stops the server


BAD = {
    "top_k 0": ("KernelShap", ["--top_k=0"], "top_k"),
    "top_k -1": ("KernelShap", ["--top_k=-1"], "top_k"),
    "top_k many": ("KernelShap", ["--top_k=many"], "top_k"),
    "top_k of anchors": ("AnchorTabular", ["--top_k=3"], "AnchorTabular"),
    "drift of anchors": ("AnchorTabular", ["--attribution_window=30"], "AnchorTabular"),
    "no redaction key": ("KernelShap", ["--redact_features=income"], "redaction_key"),
    "nothing to redact": ("KernelShap", ["--redaction_key=env:REDACTION_KEY"], "redact_features"),
    "missing key file": ("KernelShap", ["--signing_key=file:/nowhere/key"], "/nowhere/key"),
    "missing variable": ("KernelShap", ["--signing_key=env:NOWHERE"], "NOWHERE"),
    "a key itself": ("KernelShap", ["--signing_key=0123456789abcdef"], "file:<path>"),
    "an id alone": ("KernelShap", ["--signing_key_id=a"], "signing_key"),
    "two keys of one id": (
        "KernelShap",
        ["--signing_key=env:SIGNING_KEY", "--previous_signing_key=env:SIGNING_KEY"],
        "two|Two",
    ),
    "previous alone": ("KernelShap", ["--previous_signing_key=env:OLD_KEY"], "signing_key"),
    "missing template": ("KernelShap", ["--people_template=/nowhere/t.yaml"], "/nowhere/t.yaml"),
    "template of ALE": ("ALE", ["--people_template=x"], "ALE"),
    "stability of ALE": ("ALE", ["--stability_share=0.1"], "stability_share"),
    "redaction of images": (
        "AnchorImages",
        ["--redact_features=a", "--redaction_key=env:REDACTION_KEY"],
        "image",
    ),
    "a cache without a model": ("KernelShap", ["--cache_memory_bytes=1000"], "model_uri"),
    "no such model": (
        "KernelShap",
        ["--cache_memory_bytes=1000", "--model_uri=s3://walkthrough/credit_risk/none"],
        "model_uri",
    ),
    "no Redis address": ("TreeShap", ["--cache_redis_url=here"], "redis_url"),
    "cache folder": ("TreeShap", ["--cache_disk_folder=/dev/null/x"], "/dev/null/x"),
    "audit file": ("TreeShap", ["--audit_file=/dev/null/x"], "/dev/null/x"),
    "deadline": ("TreeShap", ["--deadline_seconds=0"], "deadline_seconds"),
    "endless deadline": ("TreeShap", ["--deadline_seconds=inf"], "deadline_seconds"),
    "async": ("TreeShap", ["--async_results=-1"], "async_results"),
    "share": ("TreeShap", ["--stability_share=2"], "stability_share"),
    "window": ("TreeShap", ["--attribution_window=2"], "attribution_window"),
    "names": ("TreeShap", ["--feature_names=[1"], "feature_names"),
}  # fmt: skip


@pytest.mark.parametrize(("method", "options", "says"), BAD.values(), ids=BAD.keys())
def test_bad_configuration_stops_the_server_with_a_sentence(
    method: str, options: list[str], says: str, keys: None
) -> None:
    with pytest.raises(ServingError, match=says) as told:
        build(method, *options)
    assert "\n" not in str(told.value)
    assert "0123456789abcdef" not in str(told.value)


@pytest.mark.parametrize(
    "content",
    [
        "sentences: {raises: '{nothing}'}",
        "sentences: {raises: '{value.__class__}'}",
        "sentences: {raises: '{value[0]}'}",
        "sentences: {raises: '{value!r}'}",
        "sentences: {raises: '{value'}",
        "sentences: {raises: '{count:%Q}'}",
        "sentences: {shouts: x}",
        "features: {income: {word: x}}",
        "features: [income]",
        "- a",
        "a: [",
        "\x00",
        "a: !!python/object:os.system x",
    ],
)
def test_a_template_that_cannot_be_read_stops_the_server(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(content)
    with pytest.raises(ServingError, match=r"people_template.*t\.yaml") as told:
        build("KernelShap", f"--people_template={tmp_path / 't.yaml'}")
    assert "\n" not in str(told.value)


def test_a_row_for_no_feature_stops_the_server(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("features: {incone: {term: x}}")
    server, _ = build("KernelShap", f"--people_template={tmp_path / 't.yaml'}")
    failures: list[str] = []
    with TestClient(make_app(server, failures.append)):
        until(lambda: failures)
    assert "incone" in failures[0]


def test_an_unknown_key_stops_the_server() -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(
            ["--predictor_host=h", "--storage_uri=s3://walkthrough/a/b", "KernelShap", "--topk=3"]
        )
    assert "--topk" in str(ended.value.code)
    assert "\n" not in str(ended.value.code)
