"""`make run BACKEND=kind`: no cluster is one sentence, and what the notebooks deploy goes with the run."""

from __future__ import annotations

import sys

import pytest
from rich.console import Console

from helpers.errors import StackError
from helpers.runner import cli
from helpers.runner.stack import stopped_afterwards


@pytest.fixture
def console() -> Console:
    """Remembers what is printed."""
    return Console(record=True, width=200)


def test_no_cluster_is_one_sentence_before_anything_runs(
    tmp_path, monkeypatch, capfd, write_notebook
):
    notebook = write_notebook("02_two.ipynb", 'DATASET = "cifar10"\nBACKEND = "local"', "1 / 0")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    runs = tmp_path / "runs"
    words = ["run", "--backend", "kind", "--source", str(notebook.parent), "--runs", str(runs)]
    monkeypatch.setattr(sys, "argv", ["runner", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    out, err = capfd.readouterr()
    assert err.startswith("There is no cluster: ")
    assert err.endswith("`make kind-up` makes one.\n")
    assert "Traceback" not in out + err
    assert not runs.exists()


def test_digits_are_for_the_local_backend(monkeypatch, capfd):
    words = ["run", "--backend", "kind", "--dataset", "digits"]
    monkeypatch.setattr(sys, "argv", ["runner", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capfd.readouterr().err.startswith("DATASET=digits is for the local backend")


def test_a_cluster_without_the_walkthrough(cluster, console):
    cluster.namespaces.clear()
    with pytest.raises(StackError, match="has no namespace walkthrough"):
        stopped_afterwards(console, "kind").__enter__()


def test_what_a_run_deploys_goes_with_it(cluster, stack, manifest, console):
    def run() -> None:
        with stopped_afterwards(console, "kind"):
            stack.apply(manifest("eventing/broker.yaml"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert not cluster.store.objects


def test_what_was_there_before_stays(cluster, stack, manifest, console):
    stack.apply(manifest("eventing/broker.yaml"))
    with stopped_afterwards(console, "kind"):
        stack.apply(manifest("storage/s3-credentials.yaml"))
    assert len(cluster.store.objects) == 2
    assert "`make down BACKEND=kind` deletes it" in console.export_text()


def test_a_cluster_that_is_gone_at_the_end_does_not_hide_the_results(cluster, console):
    with stopped_afterwards(console, "kind"):
        cluster.broken = 503, "apiserver is shutting down"
    assert "The cluster could not be cleaned up: " in console.export_text()
