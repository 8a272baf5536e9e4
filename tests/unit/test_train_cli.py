"""`python -m helpers.train`, and the order in which artefacts are made."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer

from helpers import artifacts, cards, data
from helpers.data import cifar10, download
from helpers.errors import ArtifactError, TrainingError
from helpers.train import __main__ as cli
from helpers.train import pipeline

ALL = ["resnet32", "outlier_vae", "drift_ks", "anchor_images"]
DIGITS = SimpleNamespace(name="digits")
CIFAR10 = SimpleNamespace(name="cifar10")


class Trained(list):
    """The names that were trained, and what the last one found in its folder."""

    found: list[str]


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """The names that were trained; each writes one small file, and loading returns the options."""
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path / "artifacts"))
    monkeypatch.setattr(
        pipeline, "workdir", lambda dataset, name: tmp_path / "runs" / dataset / name
    )
    monkeypatch.setattr(artifacts, "_LOADERS", {"alibi": lambda folder, **options: options})
    monkeypatch.setattr(data, "load", lambda name, fallback: SimpleNamespace(name=name))
    trained = Trained()

    def trainer(name):
        def train(loaded, workdir, progress):
            assert workdir == tmp_path / "runs" / loaded.name / name
            trained.found = [file.name for file in workdir.iterdir()]
            trained.append(name)
            return artifacts.save(
                loaded.name,
                name,
                lambda folder: (folder / "file").write_bytes(b"x"),
                format="alibi",
                summary=name,
                figures={"share": 0.5},
            )

        return train

    known = pipeline._trainer
    monkeypatch.setattr(pipeline, "_trainer", lambda name: known(name) and trainer(name))
    return trained


def damage(dataset: str, name: str) -> None:
    (artifacts.path(dataset, name) / "file").write_bytes(b"y")


def failure(capsys, **options) -> str:
    with pytest.raises(typer.Exit) as caught:
        cli.main(**{"dataset": "cifar10", "only": None, "restart": False} | options)
    assert caught.value.exit_code == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    assert output.err.count("\n") == 1
    return output.err


# The command


def test_an_unknown_artefact_is_refused_with_the_names_there_are():
    process = subprocess.run(
        [sys.executable, "-m", "helpers.train", "--only", "nonsense"],
        capture_output=True,
        text=True,
        cwd=artifacts.REPOSITORY,
    )
    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr == (
        "error: there is no artefact 'nonsense'; there are resnet32, outlier_vae, drift_ks, "
        "anchor_images.\n"
    )


def test_an_unknown_name_among_known_ones_trains_nothing(trained, capsys):
    assert "'nonsense'" in failure(capsys, only=["drift_ks", "nonsense"])
    assert trained == []


def test_without_cifar10_it_says_so_and_trains_no_digits(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cifar10, "REPOSITORY", tmp_path / "main")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("CIFAR10_DIR", "KERAS_HOME"):
        monkeypatch.delenv(name, raising=False)

    def fetch(folder):
        raise download.DownloadError(f"no connection [yet]; put it into {folder}")

    monkeypatch.setattr(download, "fetch", fetch)
    monkeypatch.setattr(pipeline, "train", lambda *_: pytest.fail("trained"))
    message = failure(capsys, only=["drift_ks"])
    # In one line, and with its brackets, which rich would take for markup.
    assert message == f"error: no connection [yet]; put it into {tmp_path}/main/data\n"


def test_an_unknown_data_set_is_refused(capsys):
    message = failure(capsys, dataset="mnist")
    assert "There is no data set 'mnist'" in message
    assert "cifar10, digits, credit_risk, breast_cancer, tickets" in message


def test_trains_everything_in_order_and_writes_the_cards(trained, capsys):
    cli.main("cifar10", None, False)
    assert trained == ALL
    assert re.findall(r"cifar10/(\w+)", capsys.readouterr().err) == ALL
    page = artifacts.root() / "README.md"
    assert page.read_text("utf-8") == cards.render(artifacts.list_all("cifar10"))


def test_trains_what_is_named_and_writes_no_cards_for_digits(trained):
    cli.main("digits", ["drift_ks"], False)
    assert trained == ["drift_ks"]
    assert not (artifacts.root() / "README.md").exists()


@pytest.mark.parametrize(("restart", "found"), [(False, ["checkpoint"]), (True, [])])
def test_restarting_forgets_the_run_that_is_named_and_no_other(trained, restart, found):
    for name in ("drift_ks", "outlier_vae"):
        folder = pipeline.workdir("digits", name)
        folder.mkdir(parents=True)
        (folder / "checkpoint").touch()
    cli.main("digits", ["drift_ks"], restart)
    assert trained.found == found
    assert not pipeline.workdir("digits", "drift_ks").exists()  # done: nothing to go on with
    assert (pipeline.workdir("digits", "outlier_vae") / "checkpoint").exists()


def test_an_interrupted_training_keeps_its_folder(trained, monkeypatch):
    def interrupted(loaded, workdir, progress):
        (workdir / "checkpoint").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_trainer", lambda name: interrupted)
    with pytest.raises(KeyboardInterrupt):
        cli.main("digits", ["drift_ks"], False)
    assert (pipeline.workdir("digits", "drift_ks") / "checkpoint").exists()


# The order, and what notebooks call


def test_every_artefact_can_be_trained():
    for name in pipeline.NAMES:
        assert callable(pipeline._trainer(name))


def test_an_unknown_artefact_is_named():
    with pytest.raises(TrainingError, match="no artefact 'nonsense'; there are resnet32, "):
        pipeline.train(DIGITS, "nonsense")


def test_the_explainer_makes_the_classifier_first_if_it_is_missing(trained):
    pipeline.train(DIGITS, "anchor_images")
    assert trained == ["resnet32", "anchor_images"]
    pipeline.train(DIGITS, "anchor_images")
    assert trained == ["resnet32", "anchor_images", "anchor_images"]


def test_a_missing_artefact_is_made_once(trained, capsys):
    assert pipeline.ensure(DIGITS, "drift_ks", option=3) == {"option": 3}
    assert "training it on the spot" in capsys.readouterr().out
    pipeline.ensure(DIGITS, "drift_ks")
    assert trained == ["drift_ks"]
    assert capsys.readouterr().out == ""


def test_a_damaged_artefact_of_the_digits_is_made_again(trained, capsys):
    pipeline.ensure(DIGITS, "drift_ks")
    damage("digits", "drift_ks")
    pipeline.ensure(DIGITS, "drift_ks")
    assert trained == ["drift_ks", "drift_ks"]
    assert "training it again" in capsys.readouterr().out


def test_a_damaged_classifier_of_the_digits_is_made_again_for_the_explainer(trained):
    pipeline.train(DIGITS, "resnet32")
    damage("digits", "resnet32")
    pipeline.ensure(DIGITS, "anchor_images")
    assert trained == ["resnet32", "resnet32", "anchor_images"]


def test_a_damaged_artefact_of_the_repository_is_not_replaced_unasked(trained):
    pipeline.train(CIFAR10, "drift_ks")
    damage("cifar10", "drift_ks")
    with pytest.raises(ArtifactError, match="was changed after it was made"):
        pipeline.ensure(CIFAR10, "drift_ks")
    assert trained == ["drift_ks"]


def test_unfinished_runs_are_kept_apart_by_data_set_and_name():
    folder = pipeline.workdir("digits", "drift_ks")
    assert folder == artifacts.REPOSITORY / "runs" / "train" / "digits" / "drift_ks"
