"""What is in the image, and what is not."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import yaml
from packaging.utils import canonicalize_name

from helpers import artifacts
from helpers.environment.lock import read_lock

from .containers import Engine

ROOT = Path(__file__).resolve().parents[2]

INSTALLED = """
import json
from importlib import metadata
print(json.dumps({one.metadata["Name"]: one.version for one in metadata.distributions(path=[
    "/opt/venv/lib/python3.12/site-packages"])}))
"""

# Imports every module of the servers, in the order in which the servers themselves import TensorFlow: first.
EVERY_MODULE = """
import importlib, json, pkgutil
import helpers.tf, helpers.serving
names = [one.name for one in pkgutil.walk_packages(helpers.serving.__path__, "helpers.serving.")]
for name in names:
    importlib.import_module(name)
print(json.dumps(names))
"""

WRITABLE = """
import json, os
found = []
for folder, folders, files in os.walk("/"):
    folders[:] = [one for one in folders if os.path.join(folder, one) not in ("/proc", "/sys", "/dev", "/tmp")]
    found += [path for name in (*folders, *files) if not os.path.islink(path := os.path.join(folder, name))
              and os.access(path, os.W_OK)]
print(json.dumps(found))
"""

TRY_TO_WRITE = """
import json, os
written = []
for folder in ("/", "/app", "/app/helpers", "/app/artifacts", "/opt/venv", "/etc", "/run", "/var/tmp",
               os.path.expanduser("~"), "/tmp"):
    try:
        open(os.path.join(folder, "probe"), "w").close()
        written.append(folder)
    except OSError:
        pass
print(json.dumps([os.getuid(), os.getgid(), written]))
"""


def test_versions_are_those_of_the_lock(engine: Engine) -> None:
    found = {canonicalize_name(k): v for k, v in engine.python(INSTALLED).items()}
    lock = read_lock(ROOT / "requirements.txt")
    wanted = {name: str(lock[name].specifier).removeprefix("==") for name in found if name in lock}
    # The one that the lock has under another name.
    wanted["opencv-python-headless"] = str(lock["opencv-python"].specifier).removeprefix("==")
    assert found == wanted
    assert found.keys() == read_lock(ROOT / "kind" / "image" / "requirements.txt").keys()


def test_every_module_of_the_servers_can_be_imported(engine: Engine) -> None:
    names = engine.python(EVERY_MODULE)
    assert "helpers.serving.explain.app" in names


def test_no_compilers(engine: Engine) -> None:
    names = ["gcc", "cc", "g++", "c++", "cpp", "clang", "tcc", "make", "ld", "as", "uv"]
    assert engine.python(
        f"import json, shutil; print(json.dumps([*map(shutil.which, {names})]))"
    ) == [None] * len(names)


def test_nothing_is_writable_that_needs_not_be(engine: Engine) -> None:
    """Even where the root file system is not read-only."""
    everybodys = {"/var/tmp", "/run/lock", "/var/lock"}  # the base's, writable for every user
    assert set(engine.python(WRITABLE, read_only=False)) <= everybodys


def test_user_and_read_only_root(engine: Engine) -> None:
    assert engine.python(TRY_TO_WRITE) == [
        8888,
        8888,
        ["/tmp", "/tmp"],
    ]  # the home folder too is /tmp


def test_nothing_of_the_build_is_left(engine: Engine) -> None:
    history = engine("history", "--no-trunc", engine.image).stdout
    settings = json.dumps(engine.inspect(engine.image)["Config"])
    for told in (history, settings):
        assert "INDEX_URL=" not in told
        assert "://" not in told
    assert engine.run("ls", "/run/secrets").stdout == ""


def test_labels_and_defaults(engine: Engine) -> None:
    config = engine.inspect(engine.image)["Config"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert config["Labels"]["org.opencontainers.image.version"] == version
    assert len(config["Labels"]["org.opencontainers.image.revision"]) == 40
    assert config["User"] == "8888:8888"
    environment = dict(one.split("=", 1) for one in config["Env"])
    assert environment["SERVING_HOST"] == "0.0.0.0"
    assert environment["TF_USE_LEGACY_KERAS"] == "1"


def test_without_a_command_it_says_which_servers_there_are(engine: Engine) -> None:
    done = engine.run()
    assert done.returncode == 2
    for server in ("detect", "explain", "kserve_explain", "mlserver_explain", "payload_log"):
        assert f"\n  {server} " in done.stderr
    assert "seldon_model" not in done.stderr


def test_a_server_by_its_name(engine: Engine) -> None:
    done = engine.run("payload_log", "--help")
    assert done.returncode == 0
    assert "--state" in done.stdout


def test_an_unknown_server_is_refused(engine: Engine) -> None:
    done = engine.run("payload-log")
    assert done.returncode == 1
    assert "'payload-log' is no server" in done.stderr


def test_the_job_that_fills_the_bucket_copies_the_artefacts(engine: Engine) -> None:
    documents = yaml.safe_load_all((ROOT / "kind/components/minio-fill.yaml").read_text())
    (copy,) = next(documents)["spec"]["template"]["spec"]["initContainers"]
    program = f"{copy['args'][0]}\nimport json, os\nprint(json.dumps(os.listdir('/artifacts')))"
    options = ("--no-healthcheck", *engine.confined(), "--tmpfs=/artifacts:mode=0777")
    done = engine("run", "--rm", *options, engine.image, *copy["command"], program)
    assert set(artifacts.COMMITTED) <= set(json.loads(done.stdout))
