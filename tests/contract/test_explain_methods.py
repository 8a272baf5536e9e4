"""Every explanation method behind the explain server: responses, seeds, batches, options and refusals.

The artefacts are those of the repository, and the models answer in this process.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from helpers import artifacts
from helpers.data import credit_risk, load_table, load_texts
from helpers.models.tabular import encoding_of
from helpers.serving.common.errors import ServingError
from helpers.serving.explain import cli
from helpers.serving.explain.app import make_app
from helpers.serving.explain.model_client import ModelClient
from helpers.serving.explain.reuse import ReusedPredictions

pytestmark = pytest.mark.timeout(120)

CREDIT, CANCER, TICKETS = (
    load_table("credit_risk"),
    load_table("breast_cancer"),
    load_texts("tickets"),
)
TENSORFLOW, SELDON = "tensorflow.http", "seldon.http"
PATHS = {SELDON: "/api/v1.0/explain", TENSORFLOW: "/v1/models/m:explain"}


@dataclass
class Model:
    """A deployed scikit-learn model: answers in both protocols, and counts."""

    artefact: str
    calls: int = 0
    rows: int = 0
    fail: int = 0
    turned: bool = False
    estimator: Any = field(init=False)

    def __post_init__(self) -> None:
        self.estimator = artifacts.load(*self.artefact.split("/"))

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.fail:
            return httpx.Response(self.fail, json={"error": "told to"})
        assert request.headers["seldon-skip-logging"] == "true"
        body = json.loads(request.content)
        told = request.url.path == "/api/v1.0/predictions"
        rows = body["data"]["ndarray"] if told else body["instances"]
        self.calls += 1
        self.rows += len(rows)
        answers = self.estimator.predict_proba(np.array(rows) if told else rows).tolist()
        if self.turned:
            answers = [row[::-1] for row in answers]
        return httpx.Response(
            200, json={"data": {"ndarray": answers}} if told else {"predictions": answers}
        )


@dataclass(frozen=True)
class Case:
    """A method, its artefact, the model that it asks, and instances to explain."""

    method: str
    artefact: str
    model: str | None
    instances: Any
    quick: dict[str, Any] = field(default_factory=dict)  # parameters of a shorter search

    def body(self, count: int = 1, protocol: str = SELDON, **parameters: Any) -> dict:
        chosen = self.instances[:count]
        rows = chosen.tolist() if isinstance(chosen, np.ndarray) else list(chosen)
        body = {"data": {"ndarray": rows}} if protocol == SELDON else {"instances": rows}
        return {**body, "parameters": self.quick | parameters}

    def only(self, number: int) -> Case:
        """Return the case of one of the instances."""
        return replace(self, instances=self.instances[number : number + 1])


QUICK = {"max_anchor_size": 1, "coverage_samples": 500}
# Risky by one clause each, the credit history among them.
RISKY = CREDIT.x_test[credit_risk.clauses(CREDIT.x_test).sum(1) == 1]
CASES = {
    case.method: case
    for case in (
        Case("AnchorTabular", "credit_risk/anchor_tabular", "credit_risk/forest", RISKY, QUICK),
        Case("AnchorText", "tickets/anchor_text", "tickets/bag_of_words", TICKETS.x_test, QUICK),
        Case("KernelShap", "credit_risk/kernel_shap", "credit_risk/forest", RISKY),
        Case("TreeShap", "credit_risk/tree_shap", None, RISKY),
        Case(
            "IntegratedGradients",
            "credit_risk/network",
            None,
            encoding_of(CREDIT).encode(RISKY).astype(float),
        ),
        Case("ALE", "breast_cancer/ale", "breast_cancer/logistic", CANCER.x_test),
    )
}
ALL = pytest.mark.parametrize("method", CASES)
PROTOCOLS = pytest.mark.parametrize("protocol", [SELDON, TENSORFLOW])


@contextmanager
def serving(
    case: Case,
    protocol: str = SELDON,
    options: tuple[str, ...] = (),
    transport: httpx.BaseTransport | None = None,
) -> Iterator[tuple[TestClient, Model | None]]:
    """Start the server of a command line, its model in this process."""
    arguments = [
        "--model_name=m",
        "--predictor_host=model:9000",
        f"--protocol={protocol}",
        f"--storage_uri=s3://walkthrough/{case.artefact}",
        case.method,
        *options,
    ]
    server = cli.build(cli.parser().parse_args(arguments))
    model = None
    if case.model is not None:
        model = Model(case.model)
        transport = httpx.MockTransport(model.answer)
    if transport is not None:
        server.service.predictions = ReusedPredictions(
            ModelClient("model:9000", protocol, "m", transport), True
        )
    failures: list[str] = []
    with TestClient(make_app(server, failures.append)) as client:
        end = time.monotonic() + 60
        while client.get("/ready").status_code != 200:
            assert not failures, failures
            assert time.monotonic() < end
            time.sleep(0.01)
        yield client, model


Started = Callable[[str], tuple[TestClient, Model | None]]


@pytest.fixture(scope="module")
def started() -> Iterator[Started]:
    """Return started(method, protocol): a server that the tests of this file share."""
    with ExitStack() as stack:
        running: dict[tuple[str, str], Any] = {}

        def one(method: str, protocol: str = SELDON) -> tuple[TestClient, Model | None]:
            if (method, protocol) not in running:
                running[method, protocol] = stack.enter_context(serving(CASES[method], protocol))
            return running[method, protocol]

        yield one


def ask(client: TestClient, body: Any, protocol: str = SELDON) -> dict:
    answer = client.post(PATHS[protocol], json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(client: TestClient, body: Any) -> str:
    answer = client.post(PATHS[SELDON], json=body)
    assert answer.status_code == 400, answer.text
    return answer.json()["status"]["info"]


SHAPES = {
    "AnchorTabular": {"anchor", "precision", "coverage", "raw"},
    "AnchorText": {"anchor", "precision", "coverage", "raw"},
    "KernelShap": {
        "shap_values",
        "expected_value",
        "categorical_names",
        "feature_names",
        "raw",
    },
    "TreeShap": {
        "shap_values",
        "shap_interaction_values",
        "expected_value",
        "categorical_names",
        "feature_names",
        "raw",
    },
    "IntegratedGradients": {
        "attributions",
        "X",
        "forward_kwargs",
        "baselines",
        "predictions",
        "deltas",
        "target",
    },
    "ALE": {
        "ale_values",
        "constant_value",
        "ale0",
        "feature_values",
        "feature_names",
        "target_names",
        "feature_deciles",
    },
}


# What every method does --------------------------------------------------------------------------


@ALL
def test_the_response_is_alibis_explanation(method: str, started: Started) -> None:
    client, _ = started(method)
    body = ask(client, CASES[method].body(5 if method == "ALE" else 1, seed=3))
    assert body.keys() == {"meta", "data"}
    assert body["meta"]["name"] == method
    assert body["meta"]["version"] == "0.9.6"
    assert body["meta"]["params"]["seed"] == 3
    assert SHAPES[method] <= body["data"].keys() <= SHAPES[method] | {"reason"}


@ALL
def test_both_protocols_give_the_same_bytes(method: str, started: Started) -> None:
    answers = []
    for protocol in (SELDON, TENSORFLOW):
        client, _ = started(method, protocol)
        answer = client.post(PATHS[protocol], json=CASES[method].body(2, protocol, seed=11))
        assert answer.status_code == 200, answer.text
        answers.append(answer.content)
    assert answers[0] == answers[1]


@ALL
def test_a_seed_repeats_the_explanation_in_another_server(method: str, started: Started) -> None:
    client, _ = started(method)
    body = CASES[method].body(3)
    first = client.post(PATHS[SELDON], json=body)
    seed = first.json()["meta"]["params"]["seed"]
    body["parameters"]["seed"] = seed
    for _ in range(2):  # the first may have left something behind
        assert client.post(PATHS[SELDON], json=body).content == first.content
    with serving(CASES[method]) as (another, _):
        assert another.post(PATHS[SELDON], json=body).content == first.content


@ALL
def test_instances_of_another_shape_are_refused(method: str, started: Started) -> None:
    client, _ = started(method)
    for wrong in ([], [[]], [[1.0]], [[[1.0] * 8]], 5, None, [["a", 1]], [{"a": 1}], [[None] * 8]):
        assert refusal(client, {"data": {"ndarray": wrong}})
    assert refusal(client, {})
    huge = b'{"data": {"ndarray": [[' + b"1e400," * 7 + b"1]]}}"
    assert client.post(PATHS[SELDON], content=huge).status_code == 400


@ALL
def test_unknown_options_are_refused(method: str, started: Started) -> None:
    client, _ = started(method)
    assert "parameters.nonsense" in refusal(client, CASES[method].body(nonsense=1))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "AnchorTabular --threshold=1.5",
            "--threshold=1.5: Input should be less than or equal to 1",
        ),
        ("AnchorTabular --beam_size=0", "--beam_size=0"),
        ("AnchorText --sample_proba=0", "--sample_proba=0"),
        ("AnchorText --use_unk=false", "words are masked with UNK"),
        ("AnchorText --top_n=none", "--top_n=none"),
        ("KernelShap --nsamples=1", "--nsamples=1"),
        ("TreeShap --tree_limit=0", "--tree_limit=0"),
        ("TreeShap --interactions=perhaps", "--interactions=perhaps"),
        ("IntegratedGradients --method=simpson", "--method=simpson"),
        ("IntegratedGradients --n_steps=0", "--n_steps=0"),
        ("IntegratedGradients --internal_batch_size=-1", "--internal_batch_size=-1"),
        ("IntegratedGradients --layer=first", "--layer=first"),
        ("ALE --features=1,1", "each once"),
        ("ALE --min_bin_points=0", "--min_bin_points=0"),
    ],
)
def test_a_wrong_option_stops_the_server_with_a_sentence(option: str, said: str) -> None:
    method, flag = option.split()
    case = CASES[method]
    arguments = ["--predictor_host=m:1", f"--storage_uri=s3://walkthrough/{case.artefact}"]
    with pytest.raises(ServingError, match=said.replace("(", "\\(")):
        cli.build(cli.parser().parse_args([*arguments, method, flag]))


KEYS = {
    "AnchorTabular": "threshold delta tau batch_size coverage_samples beam_size stop_on_first "
    "max_anchor_size max_samples_start n_covered_ex binary_cache_size cache_margin verbose",
    "AnchorText": "threshold delta tau batch_size coverage_samples beam_size stop_on_first "
    "max_anchor_size max_samples_start n_covered_ex binary_cache_size cache_margin verbose "
    "use_unk sample_proba top_n temperature",
    "IntegratedGradients": "layer method n_steps internal_batch_size",
    "TreeShap": "interactions approximate tree_limit summarise_result check_additivity",
}


@pytest.mark.parametrize("method", KEYS)
def test_it_has_the_keys_of_seldons_server(method: str) -> None:
    from helpers.serving.explain.methods import method_class

    assert set(KEYS[method].split()) <= method_class(method).options.model_fields.keys()


@ALL
def test_another_methods_artefact_is_refused_by_name(method: str) -> None:
    other = CASES["TreeShap" if method != "TreeShap" else "KernelShap"]
    case = Case(method, other.artefact, None, None)
    arguments = [
        "--predictor_host=m:1",
        f"--storage_uri=s3://walkthrough/{case.artefact}",
        case.method,
    ]
    server = cli.build(cli.parser().parse_args(arguments))
    failures: list[str] = []
    server.service.start(failures.append)
    (sentence,) = failures
    assert sentence.startswith(f"The explainer {case.artefact} cannot be loaded: the artefact")


@pytest.mark.parametrize("method", [name for name, case in CASES.items() if case.model])
def test_a_failing_model_is_503_or_502_and_the_next_request_is_answered(
    method: str, started: Started
) -> None:
    client, model = started(method)
    body = CASES[method].body(2, seed=1)
    before = client.post(PATHS[SELDON], json=body).content
    for told, wanted in ((503, 503), (500, 502)):
        model.fail = told
        try:
            assert client.post(PATHS[SELDON], json=body).status_code == wanted
        finally:
            model.fail = 0
    assert client.post(PATHS[SELDON], json=body).content == before


# Anchors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["AnchorTabular", "AnchorText"])
def test_a_batch_of_anchors_lists_what_each_instance_gets_alone(
    method: str, started: Started
) -> None:
    client, _ = started(method)
    case = CASES[method]
    together = ask(client, case.body(4, seed=5))
    listed = together["data"].pop("explanations")
    assert together["data"] == listed[0]  # what Seldon's server answers
    assert len(listed) == 4
    for number, one in enumerate(listed):
        assert ask(client, case.only(number).body(seed=5))["data"] == one
    assert len({json.dumps(one["raw"]["instances"]) for one in listed}) == 4


@pytest.mark.parametrize("method", ["AnchorTabular", "AnchorText"])
def test_it_is_the_anchor_that_alibi_finds_under_the_seed(method: str, started: Started) -> None:
    case = CASES[method]
    dataset, name = case.artefact.split("/")
    model = Model(case.model).estimator
    explainer = artifacts.load(dataset, name, predictor=lambda x: model.predict_proba(np.array(x)))
    client, _ = started(method)
    state = np.random.get_state()
    try:
        for number in range(3):
            np.random.seed(8)
            local = json.loads(explainer.explain(case.instances[number], **QUICK).to_json())
            remote = ask(client, case.only(number).body(seed=8))
            remote["data"].pop("reason", None)
            assert remote["data"] == local["data"]
    finally:
        np.random.set_state(state)


def test_a_batch_of_images_lists_what_each_gets_alone() -> None:
    images = np.random.default_rng(0).random((3, 32, 32, 3), np.float32)
    for number, image in enumerate(images):  # the class is the third that has its texture
        part = slice(11 * number, 11 * number + 11)
        image[:, : part.start], image[:, part.stop :] = 0.5, 0.5

    def answer(request: httpx.Request) -> httpx.Response:
        rows = np.array(json.loads(request.content)["instances"])
        thirds = [part.std(axis=(1, 2, 3)) for part in np.array_split(rows, 3, axis=2)]
        return httpx.Response(200, json={"predictions": np.stack(thirds, 1).tolist()})

    case = Case("AnchorImages", "cifar10/anchor_images", None, images, {"coverage_samples": 200})
    with serving(case, TENSORFLOW, transport=httpx.MockTransport(answer)) as (client, _):
        together = ask(client, case.body(3, TENSORFLOW, seed=2), TENSORFLOW)["data"]
        for number, one in enumerate(together["explanations"]):
            alone = case.only(number).body(1, TENSORFLOW, seed=2)
            assert ask(client, alone, TENSORFLOW)["data"] == one
            assert one["raw"]["prediction"] == [number]


def test_an_anchor_of_a_default_is_the_credit_history(started: Started) -> None:
    client, model = started("AnchorTabular")
    history = credit_risk.FEATURE_NAMES.index("credit_history")
    defaulted = RISKY[credit_risk.clauses(RISKY)[:, 0]][:5]
    model.calls = 0
    body = ask(client, {"data": {"ndarray": defaulted.tolist()}, "parameters": {"seed": 0}})
    for one in body["data"]["explanations"]:
        assert one["anchor"] == ["credit_history = defaulted"]
        assert one["raw"]["feature"] == [history]
        assert one["precision"] >= 0.95
    assert model.calls > 0


def test_an_empty_anchor_says_why(started: Started) -> None:
    client, _ = started("AnchorText")
    empty = {"data": {"ndarray": ["Something or other happens whenever I try."]}}
    data = ask(client, empty)["data"]
    assert data["anchor"] == []
    assert "The anchor is empty: nothing has to be held." in data["reason"]
    assert "100.0% kept the prediction, and the threshold is 0.95" in data["reason"]
    full = {"data": {"ndarray": ["Please refund the invoice for my subscription."]}}
    assert "reason" not in ask(client, full)["data"]


def test_an_anchor_below_the_threshold_says_so(started: Started) -> None:
    client, _ = started("AnchorTabular")
    near = CREDIT.x_test[np.abs(CREDIT.x_test[:, 4] / CREDIT.x_test[:, 1] - 0.6) < 0.02][:6]
    body = {
        "data": {"ndarray": near.tolist()},
        "parameters": {"threshold": 1.0, "max_anchor_size": 1, "seed": 0},
    }
    data = ask(client, body)["data"]["explanations"]
    below = [one for one in data if one["raw"]["success"] is False]
    assert below
    assert all("No anchor reaches the threshold 1;" in one["reason"] for one in below)


def test_a_category_that_is_not_there_is_refused(started: Started) -> None:
    client, _ = started("AnchorTabular")
    for wrong in (4, -1, 1.5):
        row = RISKY[0].copy()
        row[credit_risk.FEATURE_NAMES.index("credit_history")] = wrong
        assert f"credit_history is {wrong:g}" in refusal(
            client, {"data": {"ndarray": [row.tolist()]}}
        )


def test_every_category_and_extreme_numbers_are_explained(started: Started) -> None:
    client, _ = started("AnchorTabular")
    rows = np.repeat(RISKY[:1], 12, axis=0)
    for column, values in CREDIT.category_map.items():
        rows[:, column] = np.arange(12) % len(values)
    for column in range(8):
        if column not in CREDIT.category_map:
            rows[0, column], rows[1, column], rows[2, column] = -1e12, 1e12, 0
    body = {"data": {"ndarray": rows.tolist()}, "parameters": QUICK | {"seed": 0}}
    assert len(ask(client, body)["data"]["explanations"]) == 12


def test_too_many_instances_are_refused(started: Started) -> None:
    client, _ = started("AnchorTabular")
    body = {"data": {"ndarray": np.repeat(RISKY[:1], 101, axis=0).tolist()}}
    assert "101 instances are too many" in refusal(client, body)


@PROTOCOLS
def test_texts_may_stand_in_a_column(protocol: str, started: Started) -> None:
    client, _ = started("AnchorText", protocol)

    def make(rows: list) -> dict:
        return {"data": {"ndarray": rows}} if protocol == SELDON else {"instances": rows}

    texts, told = list(TICKETS.x_test[:2]), {"parameters": QUICK | {"seed": 1}}
    plain = ask(client, {**make(texts), **told}, protocol)
    column = ask(client, {**make([[text] for text in texts]), **told}, protocol)
    assert plain == column


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([""], "something else than texts"),
        (["  \n"], "something else than texts"),
        (["a word", 5], "something else than texts"),
        (["word " * 201], "201 words"),
        (["x" * 10_001], "10001 characters"),
    ],
)
def test_texts_that_cannot_be_explained(texts: list, said: str, started: Started) -> None:
    assert said in refusal(started("AnchorText")[0], {"data": {"ndarray": texts}})


def test_a_long_text_needs_no_gigabytes(started: Started) -> None:
    psutil = pytest.importorskip("psutil")
    client, _ = started("AnchorText")
    words = [f"word{number}" for number in range(180)]
    body = {"data": {"ndarray": ["invoice " + " ".join(words)]}}
    before = psutil.Process().memory_info().rss
    ask(client, {**body, "parameters": {"seed": 0, "max_anchor_size": 1}})
    # alibi's own sampler would take 180 words × 10,000 draws × 1,440 characters × 4 bytes.
    assert psutil.Process().memory_info().rss - before < 500e6


def test_any_text_can_be_masked(started: Started) -> None:
    client, _ = started("AnchorText")
    strange = ["UNK UNK", "Ünïcödé ⚠️ 中文", "\u200b!", "a", "'; DROP TABLE", "1 2 3", "...!?"]
    answer = ask(client, {"data": {"ndarray": strange}, "parameters": {"seed": 0}})
    assert [one["raw"]["instance"] for one in answer["data"]["explanations"]] == strange


# Attributions ------------------------------------------------------------------------------------


def test_kernel_shap_adds_up_and_finds_what_decides(started: Started) -> None:
    client, model = started("KernelShap")
    model.calls = model.rows = 0
    counted = re.search(
        r"explain_server_model_calls_sum\{.*\} ([\d.]+)", client.get("/metrics").text
    )
    before = float(counted[1])
    body = ask(client, CASES["KernelShap"].body(20, seed=0))
    data = body["data"]
    risk = np.array(data["shap_values"][1])
    assert risk.shape == (20, 8)
    assert data["feature_names"] == list(CREDIT.feature_names)
    np.testing.assert_allclose(
        data["expected_value"][1] + risk.sum(1),
        model.estimator.predict_proba(RISKY[:20])[:, 1],
        atol=1e-6,
    )
    np.testing.assert_array_equal(data["raw"]["instances"], RISKY[:20])
    assert np.shape(data["raw"]["raw_prediction"]) == (20, 2)
    assert len(data["raw"]["prediction"]) == 20
    ranked = data["raw"]["importances"]["aggregated"]["names"]
    assert set(ranked[:4]) == set(credit_risk.DECIDING)
    assert model.rows < 20 * 254 * 20 / 1.5  # many mixtures are the same row
    counted = re.search(
        r"explain_server_model_calls_sum\{.*\} ([\d.]+)", client.get("/metrics").text
    )
    assert float(counted[1]) - before == model.calls > 20  # a request holds some hundred rows


@pytest.mark.parametrize("method", ["KernelShap", "TreeShap", "IntegratedGradients"])
def test_a_row_of_a_batch_gets_what_it_gets_alone(method: str, started: Started) -> None:
    client, _ = started(method)
    case = CASES[method]

    def attributions(body: dict) -> np.ndarray:
        data = ask(client, body)["data"]
        return np.array(data["shap_values"] if "shap_values" in data else data["attributions"])

    together = attributions(case.body(5, seed=4))
    for number in range(5):
        np.testing.assert_allclose(
            attributions(case.only(number).body(seed=4))[:, 0], together[:, number], atol=1e-6
        )


@pytest.mark.parametrize("method", ["KernelShap", "TreeShap"])
def test_attributions_are_not_logged(method: str, started: Started, caplog: Any) -> None:
    client, _ = started(method)
    with caplog.at_level("INFO"):
        ask(client, CASES[method].body())
    assert not [record for record in caplog.records if record.name.startswith("shap")]


def test_kernel_shap_with_few_coalitions_is_random_and_repeatable(started: Started) -> None:
    client, _ = started("KernelShap")
    case = CASES["KernelShap"]

    def values(seed: int) -> Any:
        return ask(client, case.body(2, nsamples=60, seed=seed))["data"]["shap_values"]

    assert values(1) == values(1)
    assert values(1) != values(2)


def test_kernel_shap_follows_a_model_that_was_replaced(started: Started) -> None:
    client, model = started("KernelShap")
    body = CASES["KernelShap"].body(seed=0)
    before = ask(client, body)["data"]
    model.turned = True
    try:
        after = ask(client, body)["data"]
    finally:
        model.turned = False
    np.testing.assert_allclose(after["shap_values"][0], before["shap_values"][1], atol=1e-9)
    np.testing.assert_allclose(after["expected_value"], before["expected_value"][::-1], atol=1e-9)


def test_tree_shap_is_of_the_deployed_forest(started: Started) -> None:
    client, _ = started("TreeShap")
    data = ask(client, CASES["TreeShap"].body(30))["data"]
    forest = artifacts.load("credit_risk", "forest")
    probabilities = forest.predict_proba(RISKY[:30])
    np.testing.assert_allclose(data["raw"]["raw_prediction"], probabilities, atol=1e-12)
    risk = np.array(data["shap_values"][1])
    np.testing.assert_allclose(
        data["expected_value"][1] + risk.sum(1), probabilities[:, 1], atol=1e-9
    )
    ranked = data["raw"]["importances"]["aggregated"]["names"]
    assert set(ranked[:4]) == set(credit_risk.DECIDING)


@pytest.mark.parametrize(
    "chosen",
    [{"interactions": True}, {"approximate": True}, {"tree_limit": 5}, {"summarise_result": True}],
    ids=str,
)
def test_options_of_tree_shap(chosen: dict, started: Started) -> None:
    client, _ = started("TreeShap")
    body = ask(client, CASES["TreeShap"].body(3, **chosen))
    assert chosen.items() <= body["meta"]["params"].items()
    assert np.shape(body["data"]["shap_values"]) == (2, 3, 8)
    if "interactions" in chosen:
        interactions = np.array(body["data"]["shap_interaction_values"])
        assert interactions.shape == (2, 3, 8, 8)
        np.testing.assert_allclose(interactions.sum(3), body["data"]["shap_values"], atol=1e-9)


def test_integrated_gradients_add_up_and_find_what_decides(started: Started) -> None:
    client, _ = started("IntegratedGradients")
    data = ask(client, CASES["IntegratedGradients"].body(20))["data"]
    attributions = np.array(data["attributions"][0])
    assert attributions.shape == (20, 20)
    assert np.abs(data["deltas"]).max() < 0.01
    assert np.shape(data["baselines"]) == (20, 20)
    assert not np.any(data["baselines"])
    assert data["target"] == np.argmax(data["predictions"], axis=1).tolist()
    features = np.abs(encoding_of(CREDIT).collect(attributions)).mean(0)
    ranked = [credit_risk.FEATURE_NAMES[column] for column in np.argsort(-features)]
    assert set(ranked[:4]) == set(credit_risk.DECIDING)


def test_options_of_integrated_gradients(started: Started) -> None:
    client, _ = started("IntegratedGradients")
    case = CASES["IntegratedGradients"]
    fine = ask(client, case.body(3, n_steps=200))["data"]
    coarse = ask(client, case.body(3, n_steps=3, method="riemann_left"))["data"]
    assert np.abs(fine["deltas"]).max() < np.abs(coarse["deltas"]).max()
    batched = ask(client, case.body(3, n_steps=200, internal_batch_size=7))["data"]
    np.testing.assert_allclose(batched["attributions"], fine["attributions"], atol=1e-5)
    layer = ask(client, case.body(3, layer=0))
    assert layer["meta"]["params"]["layer"] == 0
    assert np.shape(layer["data"]["attributions"][0]) == (3, 32)
    assert "the model has 3 layers" in refusal(client, case.body(layer=3))
    assert "Input should be" in refusal(client, case.body(method="simpson"))


# The whole model ---------------------------------------------------------------------------------


def test_ale_is_one_answer_about_all_rows(started: Started) -> None:
    client, model = started("ALE")
    data = ask(client, CASES["ALE"].body(143))["data"]
    assert data["feature_names"] == list(CANCER.feature_names)
    assert data["target_names"] == list(CANCER.class_names)
    assert len(data["ale_values"]) == len(data["feature_values"]) == 30
    for curve, values in zip(data["ale_values"], data["feature_values"], strict=True):
        assert np.shape(curve) == (len(values), 2)
    # The effect of a feature in a logistic regression has the sign of its weight.
    weights = model.estimator[-1].coef_[0]
    strong = np.argsort(-np.abs(weights))[:10]
    rising = [data["ale_values"][k][-1][1] > data["ale_values"][k][0][1] for k in strong]
    assert rising == (weights[strong] > 0).tolist()


def test_ale_of_some_features(started: Started) -> None:
    client, _ = started("ALE")
    whole = ask(client, CASES["ALE"].body(50))["data"]
    some = ask(client, CASES["ALE"].body(50, features=[3, 0]))["data"]
    assert some["feature_names"] == [CANCER.feature_names[3], CANCER.feature_names[0]]
    assert some["ale_values"] == [whole["ale_values"][3], whole["ale_values"][0]]
    assert "there are 30 columns" in refusal(client, CASES["ALE"].body(features=[30]))
    with serving(CASES["ALE"], options=("--features=3,0",)) as (configured, _):
        assert ask(configured, CASES["ALE"].body(50))["data"] == some
