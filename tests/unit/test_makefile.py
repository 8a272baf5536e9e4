"""The Makefile and the scripts behind it, with fake Pythons and a fake uv: nothing is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.environment.warm_up import remedy

PYTHON_312 = "#!/bin/sh\necho 3.12\n"
PYTHON_311 = "#!/bin/sh\necho 3.11\n"
WITHOUT_ENSUREPIP = '#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\necho 3.12\n'
PYENV_SHIM = '#!/bin/sh\necho "pyenv: python3.12: command not found" >&2\nexit 127\n'
# Notes what it is asked; `uv venv` makes a Python that does the same, and answers 3.12.
UV = """#!/bin/sh
echo "uv $*" >>"$LOG"
case "$1 ${2:-}" in
venv*)
    for last; do :; done
    mkdir -p "$last/bin"
    cp "$FAKE_PYTHON" "$last/bin/python"
    ;;
"pip sync") exit "$(cat "$LOG.sync" 2>/dev/null || echo 0)" ;;
esac
"""
ENVIRONMENT_PYTHON = """#!/bin/sh
echo "python $*" >>"$LOG"
case "$*" in
*version_info*) echo 3.12 ;;
*lock.py*) echo "numpy is missing"; exit "$(cat "$LOG.lock" 2>/dev/null || echo 0)" ;;
"-m pip"* | "-m ensurepip"*) exit 1 ;;
esac
"""


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


# ---- Which Python


@pytest.fixture
def find(root, tmp_path):
    """Return find(*arguments, **variables) -> (exit code, what was printed, what was said)."""

    def run(*arguments, **variables):
        done = subprocess.run(
            [root / "helpers/environment/find-python.sh", *arguments],
            env={"HOME": str(tmp_path), "PATH": str(tmp_path / "bin"), **variables},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    return run


def test_python_on_path(find, tmp_path):
    executable(tmp_path / "bin/python3.12", PYTHON_312)
    assert find() == (0, str(tmp_path / "bin/python3.12"), "")


def test_python_on_path_under_a_plain_name(find, tmp_path):
    executable(tmp_path / "bin/python3", PYTHON_312)
    assert find() == (0, str(tmp_path / "bin/python3"), "")


def test_a_shim_that_fails_does_not_hide_the_python_behind_it(find, tmp_path):
    executable(tmp_path / "bin/python3.12", PYENV_SHIM)
    executable(tmp_path / "bin/python3", PYTHON_311)
    real = executable(tmp_path / "usr/bin/python3.12", PYTHON_312)
    assert find(PATH=f"{tmp_path}/bin:{tmp_path}/usr/bin") == (0, str(real), "")


@pytest.mark.parametrize(
    "place",
    [
        ".pyenv/versions/3.12.1",
        "miniconda3",
        "miniforge3/envs/monitored-models",
        "micromamba/envs/a b",
        ".local/share/uv/python/cpython-3.12.9-linux-x86_64-gnu",
        ".local/share/mise/installs/python/3.12.4",
    ],
)
def test_python_that_is_not_on_path(find, tmp_path, place):
    executable(tmp_path / "bin/python3.12", PYENV_SHIM)
    executable(tmp_path / ".pyenv/versions/3.11.7/bin/python3.11", PYTHON_311)
    real = executable(tmp_path / place / "bin/python3.12", PYTHON_312)
    assert find() == (0, str(real), "")


def test_python_of_another_pyenv_root(find, tmp_path):
    real = executable(tmp_path / "opt/pyenv/versions/3.12.7/bin/python3.12", PYTHON_312)
    assert find(PYENV_ROOT=str(tmp_path / "opt/pyenv")) == (0, str(real), "")


def test_python_of_the_active_conda_environment(find, tmp_path):
    real = executable(tmp_path / "opt/conda/envs/x/bin/python3.12", PYTHON_312)
    assert find(CONDA_PREFIX=str(tmp_path / "opt/conda/envs/x")) == (0, str(real), "")


def test_python_of_an_environment_that_conda_remembers(find, tmp_path):
    real = executable(tmp_path / "data/env/bin/python3.12", PYTHON_312)
    (tmp_path / ".conda").mkdir()
    (tmp_path / ".conda/environments.txt").write_text(f"/gone\n{tmp_path}/data/env\n")
    assert find() == (0, str(real), "")


def test_python_that_is_named(find, tmp_path):
    executable(tmp_path / "bin/python3.12", PYTHON_312)
    named = executable(tmp_path / "my/python", PYTHON_312)
    wrong = executable(tmp_path / "my/old", PYTHON_311)
    assert find(PYTHON=str(named)) == (0, str(named), "")
    code, printed, said = find(PYTHON=str(wrong))
    assert (code, printed) == (1, "")
    assert said == (
        f"PYTHON={wrong} is not a Python 3.12 that runs: name one that is, or leave PYTHON out."
    )


def test_python_without_ensurepip_makes_no_environment(find, tmp_path):
    """Debian's python3.12 without python3.12-venv."""
    executable(tmp_path / "bin/python3.12", WITHOUT_ENSUREPIP)
    whole = executable(tmp_path / ".pyenv/versions/3.12.1/bin/python3.12", PYTHON_312)
    assert find()[1] == str(tmp_path / "bin/python3.12")
    assert find("--venv")[1] == str(whole)


def test_no_python_is_one_sentence(find, tmp_path):
    for place in ("/opt/conda", "/opt/homebrew", "/Library/Frameworks/Python.framework"):
        if Path(place).exists():
            pytest.skip(f"{place} holds Pythons")
    executable(tmp_path / "bin/python3.12", PYENV_SHIM)
    executable(tmp_path / "bin/python3", PYTHON_311)
    code, printed, said = find()
    assert (code, printed) == (1, "")
    assert said.startswith("No Python 3.12 was found: install it (")
    assert said.endswith("and run make again.")
    assert "\n" not in said


# ---- Which environment


@pytest.fixture
def copy(root, tmp_path):
    """A repository with the Makefile and its scripts, a lock of one line, and a fake uv."""
    copy = tmp_path / "a repository"
    shutil.copytree(root / "helpers/environment", copy / "helpers/environment")
    shutil.copy(root / "Makefile", copy)
    (copy / "requirements.txt").write_text("numpy==1.26.4\n")
    executable(tmp_path / "bin/python3.12", PYTHON_312)
    executable(tmp_path / "bin/uv", UV)
    executable(tmp_path / "fake-python", ENVIRONMENT_PYTHON)
    return copy


@pytest.fixture
def log(tmp_path):
    """Return log() -> what the fakes were asked since the last call."""
    path = tmp_path / "log"

    def read():
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        return lines

    return read


@pytest.fixture
def make(copy, tmp_path):
    """Return make(*arguments, **variables) -> the finished process."""

    def run(*arguments, cwd=copy, **variables):
        return subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=cwd,
            env={
                "HOME": str(tmp_path),
                "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
                "LOG": str(tmp_path / "log"),
                "FAKE_PYTHON": str(tmp_path / "fake-python"),
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    return run


def test_the_environment_is_made_once(make, copy, log, tmp_path):
    first = make("env")
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"{copy}/.venv/bin/python\n"
    assert f"Making .venv with {tmp_path}/bin/python3.12." in first.stderr
    assert "minute" in first.stderr
    asked = [line for line in log() if not line.endswith("--version")]
    assert re.match("uv venv", asked[0])
    assert any(line.startswith("uv pip sync") for line in asked)
    assert any("-e " in line for line in asked)
    assert any("warm_up.py" in line for line in asked)

    second = make("env")
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert log() == []


def test_a_changed_lock_is_installed_into_the_same_environment(make, copy, log):
    make("env")
    log()
    (copy / "requirements.txt").write_text("numpy==1.26.5\n")
    assert make("env").returncode == 0
    asked = log()
    assert any(line.startswith("uv pip sync") for line in asked)
    assert not any(line.startswith("uv venv") for line in asked)
    assert make("env").stderr == ""


def test_an_installation_that_was_cut_short_is_repeated(make, log, tmp_path):
    (tmp_path / "log.sync").write_text("1")
    failed = make("env")
    assert failed.returncode != 0
    assert "uv could not install the lock: trying pip" in failed.stderr
    (tmp_path / "log.sync").unlink()
    log()
    assert make("env").returncode == 0
    assert any(line.startswith("uv pip sync") for line in log())


def test_an_environment_that_was_moved_is_installed_again(make, copy, log, tmp_path):
    make("env")
    log()
    moved = tmp_path / "elsewhere"
    copy.rename(moved)
    done = make("env", cwd=moved)
    assert done.returncode == 0
    assert any(line.startswith("uv pip sync") for line in log())


def test_a_broken_environment_is_made_again(make, copy, log):
    make("env")
    log()
    (copy / ".venv/bin/python").unlink()
    (copy / ".venv/bin/python").symlink_to("/gone/python3.12")
    assert make("env").returncode == 0
    assert any(line.startswith("uv venv") for line in log())


def test_an_environment_of_another_python_is_not_thrown_away(make, copy):
    executable(copy / ".venv/bin/python", "#!/bin/sh\necho 3.11\n")
    done = make("env")
    assert done.returncode != 0
    assert "is a Python 3.11 environment, not 3.12: remove it" in done.stderr
    assert (copy / ".venv/bin/python").exists()


def test_an_active_environment_that_holds_the_lock_is_used(make, copy, log, tmp_path):
    active = executable(tmp_path / "conda/envs/x/bin/python", ENVIRONMENT_PYTHON)
    prefix = str(tmp_path / "conda/envs/x")
    assert make("env", CONDA_PREFIX=prefix).stdout == f"{active}\n"
    assert len(log()) == 1  # asked what it lacks, once
    assert make("env", CONDA_PREFIX=prefix).stdout == f"{active}\n"
    assert log() == []
    assert make("env", VIRTUAL_ENV=prefix).stdout == f"{active}\n"
    assert not (copy / ".venv").exists()


def test_an_active_environment_that_differs_is_left_alone(make, copy, tmp_path):
    executable(tmp_path / "conda/bin/python", ENVIRONMENT_PYTHON)
    (tmp_path / "log.lock").write_text("3")
    done = make("env", CONDA_PREFIX=str(tmp_path / "conda"))
    assert done.stdout == f"{copy}/.venv/bin/python\n"
    assert "differs from requirements.txt (numpy is missing); using .venv" in done.stderr


def test_without_uv_and_without_python_is_one_sentence(make, copy, tmp_path):
    (tmp_path / "bin/uv").unlink()
    for name in ("python3.12", "python3", "python"):
        executable(tmp_path / "bin" / name, PYENV_SHIM)
    if shutil.which("python3.12", path="/usr/bin:/bin:/opt/conda/bin"):
        pytest.skip("this system has a Python 3.12 of its own")
    done = make("run")
    assert done.returncode != 0
    assert done.stderr.startswith("No Python 3.12 was found: install it (")
    assert not (copy / ".venv").exists()


def test_a_library_that_the_system_lacks_comes_with_its_remedy():
    error = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    assert "sudo apt-get install libgl1 libglib2.0-0" in remedy(error)
    assert "Remove .venv" in remedy(ImportError("no such module"))


# ---- The targets


def test_make_alone_lists_every_target(make, copy):
    shown = make().stdout
    text = (copy / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.M)
    listed = re.findall(r"^  ([a-z-]+)  ", shown, re.M)
    assert sorted(listed) == sorted(set(phony.split()) - {"help"})
    for variable in ("ONLY=06", "DATASET=digits", "BACKEND=kind"):
        assert variable in shown


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("DATASET=mnist", "DATASET=mnist is not known: use DATASET=cifar10"),
        ("DATASET=", "DATASET= is not known"),
        ("DATASET=cifar10 digits", "DATASET=cifar10 digits is not known"),
        ("DATASET=credit_risk", "DATASET=credit_risk is not known"),
        ("BACKEND=gke", "BACKEND=gke is not known: use BACKEND=local"),
    ],
)
def test_a_wrong_variable_stops_before_anything_is_installed(make, copy, variable, message):
    done = make("run", variable)
    assert done.returncode != 0
    assert message in done.stderr
    assert not (copy / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["run"], "-m helpers.runner run --dataset cifar10 --backend local --only "),
        (
            ["run", "ONLY=06", "DATASET=digits", "BACKEND=kind"],
            "-m helpers.runner run --dataset digits --backend kind --only 06",
        ),
        (
            ["notebooks", "ONLY=06", "ARGS=--cell-timeout 60"],
            "-m helpers.runner notebooks --dataset cifar10 --backend local --only 06 "
            "--cell-timeout 60",
        ),
        (["train"], "-m helpers.train"),
        (
            ["train", "ONLY=resnet32,drift_ks", "DATASET=digits"],
            "-m helpers.train --dataset digits --only resnet32 --only drift_ks",
        ),
        (["train", "DATASET=credit_risk"], "-m helpers.train --dataset credit_risk"),
        (["test", "ARGS=-k 'one or two'"], "-m pytest -k one or two"),
        (
            ["bench", "ONLY=model,scale", "ARGS=--quick"],
            "-m benchmarks --only model --only scale --quick",
        ),
    ],
)
def test_what_the_targets_run(make, log, arguments, asked):
    make("env")
    log()
    assert make(*arguments).returncode == 0
    assert log() == [f"python {asked}"]


def test_a_command_that_fails_fails_make(make, copy):
    make("env")
    executable(copy / ".venv/bin/python", "#!/bin/sh\nexit 1\n")
    assert make("run").returncode != 0
    assert make("lint").returncode != 0


def test_clean_keeps_what_is_expensive(make, copy):
    keep = ["runs/train/ckpt", "data/batch", ".venv/x", "notebooks/01.ipynb"]
    lose = ["runs/20260101-000000/x", "helpers/__pycache__/x", ".ruff_cache/x"]
    for name in keep + lose:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    assert make("clean").returncode == 0
    assert [name for name in keep if not (copy / name).exists()] == []
    assert [name for name in lose if (copy / name).exists()] == []


def test_make_test_runs_every_folder_of_tests(root):
    folders = {path.parent.name for path in root.glob("tests/*/test_*.py")}
    folders.remove("image")  # make test-image
    script = (root / "tests" / "run.sh").read_text(encoding="utf-8")
    assert {f"tests/{name}" for name in folders} == set(re.findall(r"(?<= )tests/\w+(?= )", script))


def test_shell_scripts_are_executable(root):
    scripts = [root / ".ci/run", root / "kind/up", root / "kind/down"]
    scripts += [*root.glob("helpers/**/*.sh"), *root.glob("kind/image/*.sh")]  # kind/lib is sourced
    assert [path for path in scripts if not os.access(path, os.X_OK)] == []
