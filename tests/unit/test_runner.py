"""The runner: which notebooks, which parameters, what comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from helpers.errors import RunnerError
from helpers.runner import clean, cli
from helpers.runner.execute import count_checks, run_notebook
from helpers.runner.parameters import (
    check_parameters,
    declared_parameters,
    find_notebooks,
    parse_value,
    plan,
)
from helpers.runner.report import write_html

PARAMETERS = """
DATASET = "cifar10"  # cifar10 or digits
EPOCHS: int = 3  # 1 to 100
LEVELS = [
    1,
    5,
]
RATE = 0.1
FAST = False
"""
CHECKS = """
from helpers.checks import Checks
check = Checks()
check("epochs", EPOCHS, at_most=3)
check("works beside its file", not PLACE.exists())
check.done()
"""
TIMES = {"cell_timeout": 60, "notebook_timeout": 120}


@pytest.fixture
def notebook(write_notebook):
    return write_notebook("01_one.ipynb", PARAMETERS)


def test_finds_notebooks_by_number_and_name(write_notebook):
    folder = write_notebook("01_one.ipynb", "").parent
    write_notebook("06_six.ipynb", "")
    write_notebook("scratch.ipynb", "")

    def names(only):
        return [path.stem for path in find_notebooks(folder, only)]

    assert names("") == ["01_one", "06_six"]
    assert names("06") == names("6") == names("06_six") == names("06_six.ipynb") == ["06_six"]
    assert names("6, 1,06") == ["01_one", "06_six"]
    with pytest.raises(RunnerError, match=r"ONLY=99 names no notebook. There are: 01_one, 06_six"):
        names("06,99")


def test_an_empty_folder(tmp_path):
    with pytest.raises(RunnerError, match="holds no notebook"):
        find_notebooks(tmp_path)


def test_declared_parameters(notebook):
    assert declared_parameters(notebook) == {
        "DATASET": "cifar10",
        "EPOCHS": 3,
        "LEVELS": [1, 5],
        "RATE": 0.1,
        "FAST": False,
    }


@pytest.mark.parametrize(
    ("code", "message"),
    [("N = 2 * 3", "N is computed"), ("import os", "only lines like NAME = value")],
)
def test_a_parameters_cell_holds_literals_only(write_notebook, code, message):
    with pytest.raises(RunnerError, match=message):
        declared_parameters(write_notebook("01_one.ipynb", code))


def test_a_damaged_notebook(tmp_path):
    path = tmp_path / "01_one.ipynb"
    path.write_text('{"cells": [')
    with pytest.raises(RunnerError, match=r"01_one\.ipynb cannot be read"):
        declared_parameters(path)


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("7", 3, 7),
        ("2", 0.1, 2.0),
        ("1e-3", 0.1, 0.001),
        ("digits", "cifar10", "digits"),
        ("5", "cifar10", "5"),
        ("true", False, True),
        ("False", True, False),
        ("[1, 2]", [1, 5], [1, 2]),
        ("0.5", None, 0.5),
    ],
)
def test_values_take_the_type_of_the_default(text, default, value):
    parsed = parse_value("NAME", text, default)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "default"), [("many", 3), ("2.5", 3), ("x", 0.1), ("1", False), ("1", [1]), ("[", [1])]
)
def test_a_value_of_another_type(text, default):
    with pytest.raises(RunnerError, match="NAME takes a value of type"):
        parse_value("NAME", text, default)


def test_unknown_parameters_stop_the_run(notebook):
    with pytest.raises(RunnerError, match=r"no parameter EPOCH\. Did you mean EPOCHS\?"):
        check_parameters(notebook, {"EPOCH": 1})
    with pytest.raises(RunnerError, match=r"no parameter EPOCH\. Did you mean EPOCHS\?"):
        plan([notebook], {"DATASET": "cifar10"}, {"EPOCH": "1"})
    with pytest.raises(RunnerError, match=r"EPOCHS takes a value of type int, not '1' \(str\)"):
        check_parameters(notebook, {"EPOCHS": "1"})
    check_parameters(notebook, {"RATE": 1})


def test_a_plan_passes_what_a_notebook_knows_and_says_what_it_does_not(write_notebook, notebook):
    other = write_notebook("02_two.ipynb", 'DATASET = "cifar10"\nBACKEND = "local"')
    variables = {"DATASET": "digits", "BACKEND": "local"}
    plans, remarks = plan([notebook, other], variables, {"EPOCHS": "1"})
    assert plans == {notebook: {"DATASET": "digits", "EPOCHS": 1}, other: {"DATASET": "digits"}}
    assert remarks == ["02_two has no parameter EPOCHS: it runs without."]


def test_a_plan_leaves_defaults_out_so_that_nothing_is_injected(notebook):
    variables = {"DATASET": "cifar10", "BACKEND": "local"}
    assert plan([notebook], variables, {"EPOCHS": "3"}) == ({notebook: {}}, [])


def test_a_backend_that_no_notebook_has(notebook):
    with pytest.raises(RunnerError, match="no parameter BACKEND"):
        plan([notebook], {"DATASET": "digits", "BACKEND": "kind"}, {})


def test_runs_in_this_environment_and_cleans_for_commit(
    write_notebook, tmp_path, monkeypatch, root
):
    """A kernel named python3 and an IPython start-up file of the reader's must not matter."""
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    spec.joinpath("kernel.json").write_text(
        json.dumps({"argv": ["false"], "display_name": "Other", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    startup.joinpath("00.py").write_text("print('reader')")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    path = write_notebook(
        "01_one.ipynb",
        PARAMETERS,
        "import os, sys\n"
        "from pathlib import Path\n"
        "import helpers\n"
        "print(sys.executable, os.getcwd(), EPOCHS, DATASET, helpers.__file__)\n"
        "PLACE = Path('notebooks')",
        "os.environ['TF_USE_LEGACY_KERAS'], os.environ['MPLBACKEND']",
        CHECKS,
    )
    before = path.read_bytes()
    output = tmp_path / "runs" / "01_one.ipynb"
    seen = []

    result = run_notebook(path, output, {"EPOCHS": 2}, on_cell=seen.append, **TIMES)

    assert (result.error, result.passed, result.failed) == ("", 2, 0)
    assert seen == [0, 1, 2, 3, 4]
    assert path.read_bytes() == before
    cells = nbformat.read(output, as_version=4).cells
    assert cells[2].outputs[0].text.split() == [
        sys.executable,
        str(path.parent),
        "2",
        "cifar10",
        str(root / "helpers" / "__init__.py"),
    ]
    assert "inline" in cells[3].outputs[0].data["text/plain"]

    clean.write_cleaned(output, path, root)
    text = path.read_text()
    notebook = nbformat.reads(text, as_version=4)
    assert " helpers/__init__.py" in text
    assert str(root) not in text
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert [cell.id for cell in notebook.cells if "injected" not in str(cell.metadata)] == [
        "cell-0",
        "cell-1",
        "cell-2",
        "cell-3",
    ]
    assert count_checks(path) == (2, 0)
    assert list(path.parent.iterdir()) == [path]


def test_failures_are_reported_and_the_others_go_on(write_notebook, tmp_path, capsys):
    source = write_notebook(
        "01_bad.ipynb", 'DATASET = "cifar10"', "x = [1]\nx[3]  # [red]\n", "print('never')"
    ).parent
    write_notebook("02_good.ipynb", 'DATASET = "cifar10"', "print(DATASET)")
    before = {path.name: path.read_bytes() for path in source.iterdir()}

    with pytest.raises(SystemExit) as stopped:
        cli.notebooks(source=source, runs=tmp_path / "runs", **TIMES)

    assert stopped.value.code == 1
    shown = capsys.readouterr().out
    assert "failed 01_bad" in shown
    assert "x[3]  # [red]" in shown
    assert "IndexError: list index out of range" in shown
    assert "passed 02_good" in shown
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{name}.{ending}" for name in ("01_bad", "02_good") for ending in ("html", "ipynb")
    ]
    after = {path.name: path.read_bytes() for path in source.iterdir()}
    changed = [name for name in after if after[name] != before[name]]
    assert changed == ["02_good.ipynb"]


@pytest.mark.parametrize(
    ("times", "limit"),
    [
        ({"cell_timeout": 1, "notebook_timeout": 60}, "a cell is given 1 s"),
        ({"cell_timeout": 60, "notebook_timeout": 1}, "the notebook was given 1 s"),
    ],
)
def test_what_hangs_is_stopped(write_notebook, tmp_path, times, limit):
    path = write_notebook("01_hangs.ipynb", "", "import time\ntime.sleep(600)")
    result = run_notebook(path, tmp_path / "runs" / path.name, **times)
    assert result.error == f"Still running when its time was up: {limit}."
    assert result.seconds < 60


def test_ctrl_c_leaves_no_process(write_notebook, tmp_path, root):
    pid_file = tmp_path / "pids"
    path = write_notebook(
        "01_long.ipynb",
        'DATASET = "cifar10"',
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pid_file)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)",
    )
    command = [sys.executable, "-m", "helpers.runner", "run"]
    command += ["--source", path.parent, "--runs", tmp_path / "runs"]
    with subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 200
        while not (pid_file.exists() and len(pid_file.read_text().split()) == 2):
            assert time.monotonic() < deadline, "the notebook did not start"
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED
    assert "Interrupted in 01_long" in shown
    for pid in map(int, pid_file.read_text().split()):
        assert _gone(pid), f"process {pid} is still there"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--only", "99"], "ONLY=99 names no notebook"),
        (["run", "-p", "EPOCH=1"], "Did you mean EPOCHS?"),
        (["run", "-p", "EPOCHS"], "write it as NAME=value"),
        (["run", "-p", "EPOCHS=many"], "takes a value of type int"),
        (["notebooks", "--dataset", "digits"], "use `make run`"),
        (["run", "--dataset", "mnist"], "'mnist' is not one of"),
    ],
)
def test_what_is_asked_wrongly_is_one_sentence(notebook, arguments, message, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["runner", *arguments, "--source", str(notebook.parent)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    shown = " ".join(capfd.readouterr().err.split())
    assert message in shown
    assert "Traceback" not in shown


def test_starts_without_tensorflow(root):
    """TensorFlow takes seconds to import; the runner has no use for it."""
    code = (
        "import sys, helpers.runner.cli, helpers.runner.execute\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_links_of_a_page_lead_to_the_pages_of_its_run_and_to_the_repository(tmp_path):
    source, folder = tmp_path / "notebooks", tmp_path / "runs" / "1"
    for place in (source, folder):
        place.mkdir(parents=True)
    (tmp_path / "docs.md").touch()
    links = ["02_b.ipynb", "03_c.ipynb", "../docs.md#part", "https://a.org/x.ipynb", "nowhere.md"]
    text = " ".join(f"[x]({link})" for link in links)
    for name in ("01_a", "02_b", "03_c"):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
        nbformat.write(notebook, source / f"{name}.ipynb")
        if name != "03_c":  # not part of this run
            nbformat.write(notebook, folder / f"{name}.ipynb")
    before = (folder / "01_a.ipynb").read_bytes()

    page = write_html(folder / "01_a.ipynb", source).read_text(encoding="utf-8")

    for link in (
        "02_b.html",
        "../../notebooks/03_c.ipynb",
        "../../docs.md#part",
        "https://a.org/x.ipynb",
        "nowhere.md",
    ):
        assert f'href="{link}"' in page
    assert (folder / "01_a.ipynb").read_bytes() == before


def _gone(pid: int) -> bool:
    """Wait a little until no process has this number."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
