"""Rules in which time passes faster: what is divided, and what must not be."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.monitoring.scaling import divided, faster, scaled

RULES = Path(__file__).resolve().parents[2] / "manifests/monitoring/rules"


@pytest.mark.parametrize(
    ("duration", "factor", "expected"),
    [("5m", 60, "5s"), ("1h30m", 60, "90s"), ("2m", 240, "500ms"), ("1d", 240, "360s")],
)
def test_durations(duration, factor, expected):
    assert divided(duration, factor) == expected


def test_nothing_may_be_left():
    with pytest.raises(ValueError, match="nothing is left of 1ms"):
        divided("1ms", 60)


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("rate(a[5m])", "rate(a[5s])"),
        ("increase(a[1h] offset 10m)", "increase(a[60s] offset 10s)"),
        ("a offset -1h", "a offset -60s"),
        ("max_over_time(rate(a[5m])[1h:1m])", "max_over_time(rate(a[5s])[60s:1s])"),
        ("max_over_time(a[1h:])", "max_over_time(a[60s:])"),
        ('a{b="[5m] offset 5m"} offset 5m', 'a{b="[5m] offset 5m"} offset 5s'),
        ("a{b='it\\'s [5m]'}", "a{b='it\\'s [5m]'}"),
        ("a:b:rate5m > 60", "a:b:rate5m > 60"),
        ("a # of [5m]\n > b[5m]", "a # of [5m]\n > b[5s]"),
    ],
)
def test_expressions(expr, expected):
    assert faster(expr, 60) == expected


@pytest.mark.parametrize("path", sorted(RULES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_rules_of_the_walkthrough_keep_all_but_their_durations(path):
    manifest = yaml.safe_load(path.read_text())
    factors = {group["name"]: 1 for group in manifest["spec"]["groups"]}
    same = scaled(manifest, factors)
    for before, after in zip(manifest["spec"]["groups"], same["spec"]["groups"], strict=True):
        for one, other in zip(before["rules"], after["rules"], strict=True):
            assert one.keys() == other.keys()
    minutes = scaled(manifest, dict.fromkeys(factors, 60))
    text = yaml.safe_dump(minutes)
    assert "for: 5s" in text
    assert "[5m]" not in text
    assert "[15m]" not in text
