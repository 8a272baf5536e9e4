"""The environment is what the lock says, and the lock is what Seldon Core 1.19 runs.

Seldon Core 1.19's own server images (explainer, outlier and drift detectors) carry exactly the
versions in SERVER_IMAGES. Saved explainers and detectors are pickles and SavedModels: they load
with the library that wrote them and often with no other. What is trained here is served there, so
these five do not move before Seldon's images do.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.environment.lock import differences, read_lock

SERVER_IMAGES = {
    "tensorflow": "2.18.1",
    "tf-keras": "2.18.0",
    "alibi": "0.9.6",
    "alibi-detect": "0.13.0",
    "numpy": "1.26.4",
}


@pytest.fixture
def lock(root):
    return read_lock(root / "requirements.txt")


@pytest.fixture
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(("name", "version"), SERVER_IMAGES.items())
def test_server_image_versions(name, version, lock):
    assert str(lock[name].specifier) == f"=={version}"
    assert metadata.version(name) == version


def test_installed_is_what_the_lock_says(root):
    assert differences(root / "requirements.txt") == []


def test_differences_are_named(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text(
        "# a comment\n"
        "numpy==1.26.4\n"
        "    # via something\n"
        "rich==1.0\n"
        "no-such-package==2.0 ; python_version >= '3'\n"
        "colorama==0.0.1 ; sys_platform == 'win32'\n"
    )
    rich = metadata.version("rich")
    assert differences(path) == [f"rich is {rich} instead of ==1.0", "no-such-package is missing"]


def test_lock_pins_every_package_exactly(lock):
    assert [str(r) for r in lock.values() if not str(r.specifier).startswith("==")] == []


def test_lock_meets_what_pyproject_asks(project, lock):
    asked = project["dependencies"] + project["optional-dependencies"]["dev"]
    wrong = []
    for requirement in map(Requirement, asked):
        found = lock.get(canonicalize_name(requirement.name))
        version = str(found.specifier).removeprefix("==") if found else None
        if version is None or not requirement.specifier.contains(version):
            wrong.append(f"{requirement}: {version}")
    assert wrong == [], "run `make lock`"


def test_lock_names_no_server(root):
    text = (root / "requirements.txt").read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links", text)


def test_alibi_comes_without_its_tensorflow_extra(project):
    """That extra caps TensorFlow at 2.14, which has no Python 3.12 build."""
    alibi = next(r for r in map(Requirement, project["dependencies"]) if r.name == "alibi")
    assert alibi.extras == {"shap"}


def test_conda_environment_installs_the_same_lock(root):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == ["python=3.12", "pip"]
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}
    assert environment["variables"] == {"TF_USE_LEGACY_KERAS": "1"}
