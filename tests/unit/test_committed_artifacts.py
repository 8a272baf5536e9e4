"""The artefacts of the repository: whole, small, and as good as the notebooks say."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from helpers import artifacts, cards

NAMES = ("resnet32", "outlier_vae", "drift_ks", "anchor_images")
FOLDER = artifacts.REPOSITORY / "artifacts"
KINDS = {"gaussian_noise", "motion_blur", "brightness", "pixelate"}
SEVERITIES = ["1", "2", "3", "4", "5"]
MEGABYTE = 1_000_000


@pytest.fixture(autouse=True)
def _committed(monkeypatch):
    monkeypatch.delenv("ARTIFACTS_DIR", raising=False)


def figures(name: str) -> dict:
    return artifacts.verify("cifar10", name).figures


@pytest.mark.parametrize("name", NAMES)
def test_is_whole_and_of_these_versions(name):
    artifact = artifacts.verify("cifar10", name)
    assert artifact.made_by.startswith("python -m helpers.train")
    assert artifact.summary


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_byte_in_any_of_its_files_is_found(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path))
    folder = tmp_path / "cifar10" / name
    shutil.copytree(FOLDER / "cifar10" / name, folder)
    for relative in artifacts.verify("cifar10", name).files:
        whole = (folder / relative).read_bytes()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        (folder / relative).write_bytes(changed)
        with pytest.raises(artifacts.ArtifactError, match=re.escape(relative)):
            artifacts.load("cifar10", name)
        (folder / relative).write_bytes(whole)
    artifacts.verify("cifar10", name)


@pytest.mark.parametrize("name", NAMES)
def test_says_nothing_about_the_machine_it_was_made_on(name):
    record = (FOLDER / "cifar10" / name / artifacts.RECORD).read_text("utf-8")
    assert not re.search(r"/(home|root|Users|tmp|work|usr)\b", record)
    json.loads(record, parse_constant=lambda value: pytest.fail(f"{value} is not JSON"))


def test_they_are_the_only_ones_and_at_most_25_mb():
    assert {artifact.name for artifact in artifacts.list_all("cifar10")} == set(NAMES)
    files = [file for file in FOLDER.rglob("*") if file.is_file() and "digits" not in file.parts]
    assert sum(file.stat().st_size for file in files) <= 25 * MEGABYTE


def test_the_model_cards_are_generated_not_edited():
    page = (FOLDER / "README.md").read_text("utf-8")
    assert page == cards.render(cards.committed())
    for name in NAMES:
        assert f"## cifar10/{name}\n" in page


def test_the_classifier_is_as_good_as_the_paper_s():
    found = figures("resnet32")
    assert found["test_accuracy"] >= 0.925
    assert found["test_images"] == 10_000
    assert len(found["accuracy_per_class"]) == 10
    mean = sum(found["accuracy_per_class"].values()) / 10
    assert mean == pytest.approx(found["test_accuracy"], abs=1e-3)
    assert found["train_1"]["class"] == "truck"
    assert found["train_1"]["probability"] >= 0.99
    assert 460_000 < found["weights"] < 475_000
    assert found["training_minutes"] > 0


def test_the_history_belongs_to_the_classifier():
    history = json.loads((FOLDER / "cifar10" / "resnet32" / "history.json").read_text())
    found = figures("resnet32")
    assert len(history["epochs"]) == history["recipe"]["epochs"] == found["epochs"]
    assert [epoch["epoch"] for epoch in history["epochs"]] == list(range(1, found["epochs"] + 1))
    assert history["epochs"][-1]["loss"] < 0.1 * history["epochs"][0]["loss"]
    # Measured in bfloat16 along the way, in float32 at the end.
    assert history["epochs"][-1]["val_accuracy"] == pytest.approx(found["test_accuracy"], abs=5e-3)


def test_the_outlier_detector_lets_normal_images_pass():
    found = figures("outlier_vae")
    assert found["normal_flagged"] <= 0.05
    assert found["test_images"] == 10_000
    assert found["calibration_images"] >= 1000
    assert 90 <= found["threshold_percentile"] < 100
    assert found["normal_flagged"] == pytest.approx(
        1 - found["threshold_percentile"] / 100, abs=0.02
    )
    assert artifacts.describe("cifar10", "outlier_vae").bytes < 12 * MEGABYTE


def test_the_outlier_detector_was_measured_on_every_corruption():
    flagged = figures("outlier_vae")["corrupted_flagged"]
    assert set(flagged) == KINDS
    for by_severity in flagged.values():
        assert list(by_severity) == SEVERITIES
        assert all(0 <= share <= 1 for share in by_severity.values())
    noise = list(flagged["gaussian_noise"].values())
    assert noise == sorted(noise)
    assert noise[-1] > 0.5


def test_growing_masks_are_first_let_pass_and_then_flagged():
    flags = figures("outlier_vae")["mask_flags"]
    assert flags == sorted(flags)  # first 0, then all 1
    assert 1 <= flags.count(0) < len(flags)
    assert flags.count(1) >= 2


def test_the_drift_detector_keeps_its_promise_about_false_alarms():
    found = figures("drift_ks")
    assert found["reference_images"] == 5000
    assert found["window"] == 1000
    assert found["dimensions"] == 32
    assert found["undrifted_windows"] >= 40
    assert 0 < found["p_val"] <= found["p_val_nominal"] == 0.05
    low, high = found["false_alarm_interval_95"]
    assert found["false_alarm_rate"] == pytest.approx(
        found["false_alarms"] / found["undrifted_windows"], abs=1e-4
    )
    assert 0 <= low <= found["false_alarm_rate"] <= high <= 1
    assert low <= 0.05  # no more alarms than p_val promises, as far as so few windows can tell
    assert found["false_alarms"] <= found["false_alarms_at_nominal_p_val"]


def test_the_drift_detector_finds_all_four_corruptions():
    found = figures("drift_ks")
    assert set(found["detected"]) == set(found["effect"]) == KINDS
    for kind in KINDS:
        shares = found["detected"][kind]
        assert list(shares) == list(found["effect"][kind]) == SEVERITIES
        assert shares["5"] == 1.0
        smallest = found["smallest_severity_found"][kind]
        assert smallest == min(int(severity) for severity in SEVERITIES if shares[severity] == 1.0)
        assert found["effect"][kind]["5"] > found["undrifted_effect_mean"]


def test_the_explainer_is_there_in_both_forms_and_was_measured():
    artifact = artifacts.verify("cifar10", "anchor_images")
    assert set(artifact.files) == {
        "explainer.dill",
        "meta.dill",
        "segmentation_fn.dill",
        "single/explainer.dill",
    }
    found = artifact.figures
    assert found["segments_asked"] == 5
    assert found["images"] >= 20
    assert 0 < found["precision_mean"] <= 1
    assert 0 < found["coverage_mean"] <= 1
    assert found["train_1"]["precision"] >= found["threshold"]
    assert 0 <= found["train_1"]["superpixels"] <= found["train_1"]["segments"]
