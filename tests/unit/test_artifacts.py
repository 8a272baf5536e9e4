"""Artefacts: what is recorded, and that nothing changed, foreign or half written is ever opened."""

from __future__ import annotations

import json
import os
import pickle
import platform
import shutil
import signal
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock

from helpers import artifacts
from helpers.errors import ArtifactError

SIZE = 400
FILES = ("explainer.dill", "meta.dill", "deep/er/state.bin")
FORMATS_AND_LIBRARIES = [
    (format, library) for format, used in artifacts.LIBRARIES.items() for library in used
]


def fill_with(byte: bytes, names: tuple[str, ...] = FILES):
    def fill(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(byte * SIZE)

    return fill


def save(name="thing", byte=b"a", fill=None, format="alibi", **options):
    described = {"summary": "A thing — for tests", "figures": {"share": 0.5}} | options
    return artifacts.save("toys", name, fill or fill_with(byte), format=format, **described)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a whole artefact, toys/thing."""
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path / "artifacts"))
    save(made_by="make toys")
    return tmp_path / "artifacts" / "toys" / "thing"


@pytest.fixture
def opened(monkeypatch):
    """The list of folders that a loader was given."""
    opened = []

    def loader(folder):
        opened.append(folder)
        return "loaded"

    monkeypatch.setattr(artifacts, "_LOADERS", dict.fromkeys(artifacts.LIBRARIES, loader))
    return opened


class Hostile:
    """Unpickling it writes a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def refused(message: str, name: str = "thing") -> str:
    """Assert that the artefact is neither verified nor loaded, and return what is said."""
    with pytest.raises(ArtifactError, match=message):
        artifacts.verify("toys", name)
    with pytest.raises(ArtifactError, match=message) as caught:
        artifacts.load("toys", name)
    text = str(caught.value)
    assert "\n" not in text
    assert "errors.pydantic.dev" not in text
    assert f"python -m helpers.train --dataset toys --only {name}" in text
    return text


def edit(folder: Path, change) -> None:
    record = json.loads((folder / artifacts.RECORD).read_text("utf-8"))
    change(record)
    (folder / artifacts.RECORD).write_text(json.dumps(record), "utf-8")


def test_records_checksums_versions_command_and_figures(folder):
    record = json.loads((folder / "artifact.json").read_text("utf-8"))
    assert set(record["files"]) == set(FILES)
    for file in record["files"].values():
        # sha256 of 400 times "a"
        assert file == {
            "sha256": "abd5e54be3f59d8ee4943b2380def17f546e604cc51da8b9c93f591f205e75db",
            "bytes": SIZE,
        }
    assert record["versions"] == {
        "python": platform.python_version(),
        "alibi": metadata.version("alibi"),
        "dill": metadata.version("dill"),
        "numpy": metadata.version("numpy"),
    }
    assert record["made_by"] == "make toys"
    assert record["figures"] == {"share": 0.5}
    assert record["summary"] == "A thing — for tests"


def test_a_whole_artefact_is_verified_described_listed_and_loaded(folder, opened):
    artifact = artifacts.verify("toys", "thing")
    assert artifact == artifacts.describe("toys", "thing") == artifacts.list_all()[0]
    assert artifact.bytes == 3 * SIZE
    assert artifacts.exists("toys", "thing")
    assert artifacts.load("toys", "thing") == "loaded"
    assert opened == [folder]


def test_lists_by_data_set_and_name(folder):
    save("another")
    artifacts.save("games", "chess", fill_with(b"c"), format="keras", summary="", figures={})
    assert [(a.dataset, a.name) for a in artifacts.list_all()] == [
        ("games", "chess"),
        ("toys", "another"),
        ("toys", "thing"),
    ]
    assert [a.name for a in artifacts.list_all("toys")] == ["another", "thing"]
    assert artifacts.list_all("nothing") == []


def test_the_checksum_of_all_files_changes_with_each(folder):
    first = artifacts.describe("toys", "thing").checksum
    assert save(byte=b"a").checksum == first
    assert save(byte=b"b").checksum != first
    assert save(fill=fill_with(b"a", ("other.bin", *FILES[1:]))).checksum != first


def test_removing_leaves_nothing_to_load(folder):
    artifacts.remove("toys", "thing")
    artifacts.remove("toys", "thing")
    assert not artifacts.exists("toys", "thing")
    refused(r"artifact\.json does not exist")


# Changed files


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("position", [0, SIZE // 2, SIZE - 1])
def test_a_flipped_byte_is_found_in_every_file(folder, opened, name, position):
    content = bytearray((folder / name).read_bytes())
    content[position] ^= 1
    (folder / name).write_bytes(content)
    text = refused("was changed after it was made")
    assert str(folder / name) in text
    assert not opened


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [0, SIZE - 1, SIZE + 1])
def test_a_file_of_another_length_is_found(folder, opened, name, size):
    (folder / name).write_bytes(b"a" * size)
    text = refused(f"has {size} bytes instead of {SIZE}")
    assert str(folder / name) in text
    assert not opened


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, opened, name):
    (folder / name).unlink()
    assert str(folder / name) in refused("is missing")
    assert not opened


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_place_of_a_file_is_a_missing_file(folder, opened, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    assert str(folder / name) in refused("is missing")
    assert not opened


def test_two_swapped_files_are_found(folder, opened):
    save(fill=lambda new: [(new / name).write_bytes(name.encode()) for name in ("a.bin", "b.bin")])
    (folder / "a.bin").rename(folder / "c.bin")
    (folder / "b.bin").rename(folder / "a.bin")
    (folder / "c.bin").rename(folder / "b.bin")
    assert str(folder / "a.bin") in refused("was changed after it was made")
    assert not opened


@pytest.mark.parametrize("name", ["extra.dill", ".hidden", "deep/er/extra", "deep/artifact.json"])
def test_an_extra_file_is_refused(folder, opened, name):
    (folder / name).write_bytes(b"")
    text = refused("does not belong to toys/thing")
    assert str(folder / name) in text
    assert "Remove it" in text
    assert not opened


@pytest.mark.parametrize("name", [FILES[0], FILES[2], "deep", "artifact.json", "extra"])
def test_a_link_is_refused_wherever_it_points(folder, opened, name, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    if name == "extra":
        (folder / name).symlink_to(elsewhere)  # dangling
    else:
        (folder / name).rename(elsewhere)
        (folder / name).symlink_to(elsewhere)
    for look in (artifacts.verify, artifacts.load):
        with pytest.raises(ArtifactError, match=r"is a link.*Replace it") as caught:
            look("toys", "thing")
        assert str(folder / name) in str(caught.value)
    assert not opened


def test_nothing_is_unpickled_when_a_checksum_differs(folder, tmp_path):
    canary = tmp_path / "canary"
    attack = pickle.dumps(Hostile(canary))
    assert len(attack) < SIZE
    attack = attack.ljust(SIZE, b"\0")  # the size is right: what follows a pickle's end is ignored
    for name in FILES:
        shutil.rmtree(folder)
        save()
        (folder / name).write_bytes(attack)
        with pytest.raises(ArtifactError, match="was changed after it was made"):
            artifacts.load("toys", "thing", predictor=len)
        assert not canary.exists()
    pickle.loads(attack)
    assert canary.exists()  # it would have worked


@pytest.mark.parametrize("name", ["explainer.dill", "meta.dill"])
def test_nothing_is_unpickled_when_a_version_differs(tmp_path, monkeypatch, name):
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path))
    canary = tmp_path / "canary"
    save(fill=lambda new: (new / name).write_bytes(pickle.dumps(Hostile(canary))))
    edit(tmp_path / "toys" / "thing", lambda record: record["versions"].update(alibi="0.9.5"))
    with pytest.raises(ArtifactError, match=r"alibi 0\.9\.5"):
        artifacts.load("toys", "thing", predictor=len)
    assert not canary.exists()


# The record


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable: Invalid JSON"),
        (b"{", "not readable: Invalid JSON"),
        (b"\xff\x00\x80", "not readable: Invalid JSON"),
        (b"[]", "not readable: Input should be an object"),
        (b"{}", "not readable: dataset: Field required"),
    ],
)
def test_a_garbled_record_is_named(folder, opened, content, message):
    (folder / "artifact.json").write_bytes(content)
    assert str(folder / "artifact.json") in refused(message)
    assert not opened


def change_file(**values):
    return lambda record: record["files"]["meta.dill"].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("files"), "files: Field required"),
        (lambda r: r.update(files={}), "files: Dictionary should have at least 1 item"),
        (lambda r: r.update(signature="x"), "signature: Extra inputs are not permitted"),
        (change_file(sha256="0" * 63), "files.meta.dill.sha256: String should match"),
        (change_file(sha256="A" * 64), "files.meta.dill.sha256: String should match"),
        (change_file(bytes=-1), "files.meta.dill.bytes: Input should be greater than"),
        (change_file(bytes=None), "files.meta.dill.bytes: Input should be a valid integer"),
        (lambda r: r.update(format="onnx"), "format 'onnx'; there are keras, alibi-detect, alibi"),
    ],
)
def test_a_record_with_a_wrong_field_is_refused(folder, opened, change, message):
    edit(folder, change)
    assert str(folder / "artifact.json") in refused(message)
    assert not opened


def test_a_missing_record_is_named(folder, opened):
    (folder / "artifact.json").unlink()
    assert not artifacts.exists("toys", "thing")
    assert str(folder / "artifact.json") in refused("does not exist")
    assert not opened


def test_a_folder_in_place_of_the_record_is_named(folder):
    (folder / "artifact.json").unlink()
    (folder / "artifact.json").mkdir()
    refused("artifact.json is not readable: Is a directory")


@pytest.mark.parametrize("escape", ["../secret", "deep/../../secret", "/{parent}/secret"])
def test_a_record_that_names_a_file_outside_is_refused(folder, opened, escape):
    secret = folder.parent / "secret"
    secret.write_bytes(b"a" * SIZE)  # its checksum matches, so only its place can be the reason
    escape = escape.format(parent=str(folder.parent).lstrip("/"))
    edit(folder, lambda r: r["files"].update({escape: r["files"]["meta.dill"]}))
    assert "artifact.json names" in refused("outside its folder")
    assert not opened


@pytest.mark.parametrize(
    "name", ["./meta.dill", "deep/../meta.dill", "", ".", "a\0b", "artifact.json"]
)
def test_a_record_with_an_odd_path_is_refused(folder, opened, name):
    edit(folder, lambda r: r["files"].update({name: r["files"].pop("meta.dill")}))
    refused("is missing|outside its folder")
    assert not opened


def test_a_renamed_copy_is_refused(folder, opened):
    shutil.copytree(folder, folder.with_name("copy"))
    assert "describes toys/thing" in refused("copied or renamed", name="copy")
    shutil.copytree(folder.parent, folder.parents[1] / "games")
    with pytest.raises(ArtifactError, match=r"games.*describes toys/thing.*copied or renamed"):
        artifacts.load("games", "thing")
    assert not opened


# Versions


@pytest.mark.parametrize(("format", "library"), FORMATS_AND_LIBRARIES)
@pytest.mark.parametrize("made_with", ["0.0.1", None])
def test_another_version_of_any_library_is_refused(folder, opened, format, library, made_with):
    save(format=format)
    if made_with:
        edit(folder, lambda r: r["versions"].update({library: made_with}))
    else:
        edit(folder, lambda r: r["versions"].pop(library))
    text = refused(f"made with {library} {made_with or 'an unrecorded version'}, here is")
    assert f"here is {metadata.version(library)};" in text
    assert "make env" in text
    assert not opened


def test_a_library_that_is_not_installed_is_refused(folder, opened, monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(artifacts.metadata, "version", version)
    refused("made with alibi .*, here is not installed")
    assert not opened


@pytest.mark.parametrize("python", ["3.11.9", "3.13.0", "4.12.1", "31.2.0"])
def test_another_minor_version_of_python_is_refused(folder, opened, monkeypatch, python):
    monkeypatch.setattr(artifacts.platform, "python_version", lambda: python)
    short = ".".join(python.split(".")[:2])
    refused(f"made with python 3.12, here is {short};")
    assert not opened


def test_another_patch_of_python_is_accepted(folder, opened, monkeypatch):
    monkeypatch.setattr(artifacts.platform, "python_version", lambda: "3.12.99")
    assert artifacts.load("toys", "thing") == "loaded"


# Names


@pytest.mark.parametrize("name", ["", ".", "..", "../toys", "a/b", "/etc", "a\\b", "a\0b"])
def test_a_name_cannot_leave_the_folder_of_all_artefacts(folder, name):
    for dataset, artefact in ((name, "thing"), ("toys", name)):
        for act in (
            artifacts.path,
            artifacts.exists,
            artifacts.describe,
            artifacts.verify,
            artifacts.load,
            artifacts.remove,
            lambda *where: artifacts.save(
                *where, fill_with(b"a"), format="alibi", summary="", figures={}
            ),
        ):
            with pytest.raises(ArtifactError, match="cannot name an artefact"):
                act(dataset, artefact)
    assert artifacts.verify("toys", "thing")


def test_the_remedy_for_what_is_committed_is_to_restore_it(monkeypatch):
    monkeypatch.delenv("ARTIFACTS_DIR", raising=False)
    with pytest.raises(ArtifactError, match="git checkout -- artifacts/cifar10/nothing"):
        artifacts.verify("cifar10", "nothing")


def test_the_remedy_elsewhere_is_to_make_it(folder):
    with pytest.raises(ArtifactError) as caught:
        artifacts.verify("cifar10", "nothing")
    assert "git checkout" not in str(caught.value)
    assert "`python -m helpers.train --dataset cifar10 --only nothing`" in str(caught.value)


# Saving


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".lock"
    }


def test_the_new_artefact_replaces_the_old_whole(folder):
    save(fill=fill_with(b"b", ("only.bin",)))
    assert set(contents(folder)) == {"only.bin", "artifact.json"}
    artifacts.verify("toys", "thing")
    assert sorted(p.name for p in folder.parent.iterdir()) == [".thing.lock", "thing"]


def broken_fill(folder: Path) -> None:
    fill_with(b"b")(folder)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("fill", "error"),
    [
        (broken_fill, KeyboardInterrupt),
        (lambda folder: None, ArtifactError),
        (lambda folder: (folder / "link").symlink_to("/etc/passwd"), ArtifactError),
    ],
)
def test_a_failed_save_leaves_the_old_one_and_nothing_else(folder, fill, error):
    before = contents(folder.parent)
    with pytest.raises(error):
        save(fill=fill)
    assert contents(folder.parent) == before
    assert sorted(p.name for p in folder.parent.iterdir()) == [".thing.lock", "thing"]
    artifacts.verify("toys", "thing")


def test_the_old_one_is_put_back_when_the_new_one_cannot_be_moved(folder, monkeypatch):
    before = contents(folder.parent)
    rename = Path.rename

    def failing(self, target):
        if self.name == "new":
            raise OSError("no space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no space left"):
        save(byte=b"b")
    assert contents(folder.parent) == before
    assert sorted(p.name for p in folder.parent.iterdir()) == [".thing.lock", "thing"]


def test_an_unknown_format_is_refused_before_any_work(folder):
    def fill(new):
        raise AssertionError("filled")

    with pytest.raises(ArtifactError, match="format 'onnx' is unknown; there are keras"):
        save(fill=fill, format="onnx")


def test_a_killed_save_leaves_the_old_one(folder):
    before = contents(folder)
    code = (
        "import os, time\nfrom helpers import artifacts\n"
        "def fill(new):\n    (new / 'half.bin').write_bytes(b'half')\n"
        "    print('filling', flush=True)\n    time.sleep(60)\n"
        "artifacts.save('toys', 'thing', fill, format='alibi', summary='', figures={})\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(artifacts.REPOSITORY)},
    )
    try:
        assert process.stdout.readline() == b"filling\n"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert contents(folder) == before
    artifacts.verify("toys", "thing")
    assert [a.name for a in artifacts.list_all()] == ["thing"]
    save(byte=b"b")  # the lock of a dead process is no lock


def test_concurrent_saves_wait_for_each_other(folder):
    inside, most, errors = [], [], []

    def fill(new):
        inside.append(new)
        most.append(len(inside))
        fill_with(bytes([65 + len(most)]))(new)
        inside.remove(new)

    def run():
        try:
            save(fill=fill)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert most == [1] * 8
    artifacts.verify("toys", "thing")
    assert sorted(p.name for p in folder.parent.iterdir()) == [".thing.lock", "thing"]


def test_a_save_that_waits_too_long_says_for_whom(folder, monkeypatch):
    monkeypatch.setattr(artifacts, "LOCK_SECONDS", 0.1)
    with (
        FileLock(folder.parent / ".thing.lock"),
        pytest.raises(ArtifactError, match=r"saving toys/thing.*remove .*\.thing\.lock"),
    ):
        save(byte=b"b")
    assert (folder / "meta.dill").read_bytes() == b"a" * SIZE


def test_the_command_is_this_process_s_own(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/run.py", "--fast"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert save().made_by == "run.py"  # no path of this machine
    import helpers.train.__main__ as module

    monkeypatch.setitem(sys.modules, "__main__", module)
    assert save().made_by == "python -m helpers.train --fast"
