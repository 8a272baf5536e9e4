"""The serving image's part of the lock, and what its Dockerfile has from elsewhere. Its containers: tests/image."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.environment.lock import read_lock

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "kind" / "image"
DOCKERFILE = (ROOT / "kind" / "Dockerfile").read_text()
RENAMED = {"opencv-python-headless": "opencv-python"}
LEFT_OUT = {"opencv-python", "libclang"}  # overrides.txt


@pytest.fixture(scope="module")
def lock():
    return read_lock(ROOT / "requirements.txt")


@pytest.fixture(scope="module")
def image():
    return read_lock(IMAGE / "requirements.txt")


def test_versions_are_those_of_the_lock(lock, image):
    wrong = [
        str(found)
        for name, found in image.items()
        if found.specifier != lock[RENAMED.get(name, name)].specifier
    ]
    assert wrong == [], "run `make lock`"


def test_everything_that_the_packages_need_is_there(image):
    """As far as the environment here says; its packages have the same versions."""
    missing = set()
    asked = [Requirement(line) for line in _lines(IMAGE / "requirements.in")]
    seen = set()
    while asked:
        requirement = asked.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen or name in LEFT_OUT:
            continue
        seen.add(key)
        if name not in image:
            missing.add(name)
        extras = requirement.extras or {""}
        for line in metadata.requires(RENAMED.get(name, name)) or ():
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": one}) for one in extras
            ):
                asked.append(needed)
    assert missing == set(), "run `make lock`"


def _lines(path):
    lines = (line.split(" #")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def test_versions_in_the_dockerfile(lock):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.search(r"^ARG VERSION=(\S+)$", DOCKERFILE, re.MULTILINE)[1] == project["version"]
    uv = re.search(r"^ARG UV_VERSION=(\S+)$", DOCKERFILE, re.MULTILINE)[1]
    assert uv == str(lock["uv"].specifier).removeprefix("==")


def test_every_module_that_the_servers_import_is_in_the_image():
    """Follows the imports of helpers, those inside functions too, and asks .dockerignore."""
    ignored = [line for line in _lines(ROOT / ".dockerignore") if line.startswith("helpers/")]

    def left_out(path):
        return any(path.is_relative_to(ROOT / folder) for folder in ignored)

    todo = [path for path in (ROOT / "helpers/serving").rglob("*.py") if not left_out(path)]
    assert todo
    seen = set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        assert not left_out(path), (
            f"{path.relative_to(ROOT)} is imported and .dockerignore leaves it out"
        )
        for name in _imported(path):
            module = ROOT.joinpath(*name.split("."))
            todo += [
                one for one in (module.with_suffix(".py"), module / "__init__.py") if one.exists()
            ]


def _imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names)


def test_index_settings_of_this_machine_without_its_folders():
    spec = importlib.util.spec_from_file_location("index_settings", IMAGE / "index_settings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = {
        "index-url": "https://index.example/simple",
        "extra-index-url": "file:///srv/wheels https://more.example/simple",
        "find-links": "/srv/wheels",
    }
    environment = {
        "UV_DEFAULT_INDEX": "https://uv.example/simple",
        "SSL_CERT_FILE": "/etc/ssl/a.pem",
    }
    assert module.variables(settings, environment) == {
        "PIP_INDEX_URL": "https://index.example/simple",
        "UV_DEFAULT_INDEX": "https://uv.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://more.example/simple",
        "UV_INDEX": "https://more.example/simple",
        "SSL_CERT_FILE": "/run/secrets/ca",
        "PIP_CERT": "/run/secrets/ca",
    }


def test_no_host_is_named_in_the_image_files():
    texts = [DOCKERFILE, *(path.read_text() for path in IMAGE.iterdir() if path.is_file())]
    found = {host for text in texts for host in re.findall(r"https?://([^/\s\"']+)", text)}
    assert found <= {"127.0.0.1"}


def test_what_make_test_image_lacks_is_said_at_once(tmp_path):
    for name in ("bash", "dirname", "mkdir", "df", "awk"):
        (tmp_path / name).symlink_to(shutil.which(name))
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)

    def said(engine):
        done = subprocess.run(
            [ROOT / "tests/image/run.sh", sys.executable],
            env={"PATH": str(tmp_path), "ENGINE": engine},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        return done.stderr.splitlines()

    lacking = said("podman")
    for what in (
        "Root is needed",
        "podman is missing",
        "runc is missing",
        "debootstrap is missing",
    ):
        (line,) = [line for line in lacking if line.startswith(what)]
        assert "apt-get install" in line or "sudo" in line
    assert said("docker")[0].startswith("docker is missing")
    assert said("containerd")[0].startswith("ENGINE=containerd is not known")
