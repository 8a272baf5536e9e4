"""The steps of the canary differ in their traffic only, and a cluster can pin what the gateway can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.serving.gateway.variant import HEADER, PINNED_HEADER

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
STEPS = (5, 25, 100)


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((MANIFESTS / name).read_text())


@pytest.mark.parametrize("share", STEPS)
def test_a_step_is_the_logged_model_twice_with_a_share_of_the_traffic(share):
    step = read(f"canary/{share}-percent/cifar10.yaml")
    stable, canary = step["spec"]["predictors"]
    assert (stable.pop("traffic"), canary.pop("traffic")) == (100 - share, share)
    assert canary.pop("name") == "canary"
    assert canary == {key: value for key, value in stable.items() if key != "name"}
    step["spec"]["predictors"] = [stable]
    assert step == read("logging/cifar10-logged.yaml")


def test_there_are_no_other_steps():
    assert {int(one.name.partition("-")[0]) for one in MANIFESTS.glob("canary/*-percent")} == set(
        STEPS
    )


def test_the_virtual_service_leads_each_name_to_its_predictor():
    model = read("canary/5-percent/cifar10.yaml")
    spec = read("canary/kind/pin-virtualservice.yaml")["spec"]
    *routes, last = spec["http"]
    prefix = f"/seldon/{model['metadata']['namespace']}/{model['metadata']['name']}/"
    for route in spec["http"]:
        (match,) = route["match"]
        assert match["uri"] == {"prefix": prefix}
        assert match["headers"].keys() == {HEADER.decode()}
    names = [predictor["name"] for predictor in model["spec"]["predictors"]]
    assert [route["match"][0]["headers"][HEADER.decode()] for route in routes] == [
        {"exact": name} for name in names
    ]
    for name, route in zip(names, routes, strict=True):
        assert route["rewrite"] == {"uri": "/"}
        assert route["route"] == [
            {
                "destination": {
                    "host": f"cifar10-{name}.walkthrough.svc.cluster.local",
                    "port": {"number": 8000},
                }
            }
        ]
        told = {HEADER.decode(): name, PINNED_HEADER.decode(): "true"}
        assert route["headers"]["response"]["set"] == told
    assert last["match"][0]["headers"][HEADER.decode()] == {"regex": ".*"}
    assert last["directResponse"]["status"] == 400
    assert ", ".join(names) in last["directResponse"]["body"]["string"]
