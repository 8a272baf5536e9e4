"""Manifest files as documents: what is read, and what is refused with which sentence."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from helpers.errors import ManifestError
from helpers.stack import documents
from helpers.stack.documents import Document, read

pytestmark = pytest.mark.timeout(60)

CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n"


@pytest.fixture
def write(tmp_path: Path):
    """Return write(text, name): a file below tmp_path."""

    def write(text: str | bytes, name: str = "one.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def refusal(*paths: str | Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read(paths)
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 600
    return told


def data(write, text: str):
    """The parsed value of `x` in a ConfigMap."""
    return read([write(f"{CONFIG.format(name='a')}x: {text}\n")])[0].content["x"]


def test_a_file_of_several_documents_says_which_one(write) -> None:
    path = write(f"{CONFIG.format(name='a')}---\n---\n{CONFIG.format(name='b')}---\n")
    assert [(one.origin, one.content["metadata"]["name"]) for one in read([path])] == [
        (f"{path}, document 1", "a"),
        (f"{path}, document 3", "b"),
    ]


def test_a_folder_is_read_in_order_of_names_without_other_files_and_subfolders(write) -> None:
    for name in ("b.yaml", "a.yml", "sub/c.yaml"):
        path = write(CONFIG.format(name=Path(name).stem), f"folder/{name}")
    write("no YAML: [", "folder/README.md")
    found = read([path.parent.parent])
    assert [one.content["metadata"]["name"] for one in found] == ["a", "b"]


def test_a_folders_kustomization_is_left_out(write) -> None:
    for name in ("kustomization.yaml", "kustomization.yml"):
        path = write("resources: [one.yaml]\n", f"folder/{name}")
    assert refusal(path.parent) == f"{path.parent}: the folder holds no .yaml file."
    write(CONFIG.format(name="a"), "folder/one.yaml")
    (found,) = read([path.parent])
    assert found.content["metadata"]["name"] == "a"


def test_an_overlay_is_refused_with_what_to_do(write) -> None:
    path = write("# Changes another.\nbases:\n  - ../base\n", "overlay/kustomization.yaml")
    write("- op: remove\n  path: /spec\n", "overlay/patch.yaml")
    told = refusal(path.parent)
    assert told.startswith(f"{path.parent}: this is an overlay")
    assert f"`kubectl kustomize {path.parent} > overlay.yaml`" in told


def test_a_relative_path_is_looked_for_here_and_then_in_the_repository(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (found,) = read(["manifests/eventing/broker.yaml"])
    assert found.origin == "manifests/eventing/broker.yaml"
    write(CONFIG.format(name="mine"), "manifests/eventing/broker.yaml")
    (found,) = read(["manifests/eventing/broker.yaml"])
    assert found.content["metadata"]["name"] == "mine"


def test_every_manifest_of_the_repository_is_read(root: Path) -> None:
    files = sorted(
        file
        for file in (root / "manifests").rglob("*.yaml")
        if file.name not in documents.KUSTOMIZATIONS and "apiVersion" in file.read_text()
    )
    assert files
    for one in read(files):
        json.dumps(one.content, allow_nan=False)


def test_another_dataset_is_put_into_storage_uris_and_nothing_else(write) -> None:
    path = write(
        CONFIG.format(name="cifar10")
        + """data:
  both: s3://walkthrough/cifar10/resnet32
  rclone: --storage_uri=s3:walkthrough/cifar10/vae
  other: s3://elsewhere/cifar10/resnet32
  prefix: s3://walkthrough/cifar100/resnet32
list: [{uri: "s3://walkthrough/cifar10/a"}]
"""
    )
    (found,) = read([path], "digits")
    assert found.content["metadata"]["name"] == "cifar10"
    assert found.content["data"] == {
        "both": "s3://walkthrough/digits/resnet32",
        "rclone": "--storage_uri=s3:walkthrough/digits/vae",
        "other": "s3://elsewhere/cifar10/resnet32",
        "prefix": "s3://walkthrough/cifar100/resnet32",
    }
    assert found.content["list"] == [{"uri": "s3://walkthrough/digits/a"}]
    assert read([path])[0].content["data"]["both"] == "s3://walkthrough/cifar10/resnet32"


def test_another_dataset_has_the_drift_window_it_is_calibrated_for() -> None:
    from helpers.train.settings import SETTINGS

    def argument(dataset: str) -> str:
        deployment = read(["manifests/detectors/drift-ks.yaml"], dataset)[0].content
        return deployment["spec"]["template"]["spec"]["containers"][0]["args"][-1]

    for dataset, settings in SETTINGS.items():
        assert argument(dataset) == f"--drift_batch_size={settings.drift.window}"


def test_no_path_no_object(write, tmp_path: Path) -> None:
    assert "name a file or a folder" in refusal()
    empty = write("")
    assert refusal(empty) == f"{empty}: there is no Kubernetes object in it."
    assert "no Kubernetes object" in refusal(write("# nothing but a comment\n---\n"))
    (tmp_path / "folder").mkdir()
    assert "the folder holds no .yaml file" in refusal(tmp_path / "folder")


def test_a_missing_file_names_its_neighbours(write, tmp_path: Path) -> None:
    write("", "cifar10.yaml")
    told = refusal(tmp_path / "cifar.yaml")
    assert "no such file" in told
    assert "cifar10.yaml" in told
    assert "manifests/model" in refusal("manifests/model/cifar.yaml")


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b"])
def test_a_path_that_cannot_be_one(path: str) -> None:
    assert "cannot be read" in refusal(path) or "no such file" in refusal(path)


def test_what_is_no_regular_file() -> None:
    assert "is no file" in refusal("/dev/null")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: [", "is not YAML: line 1, column 8"),
        ("kind: ConfigMap\n\tname: x", "line 2, column 1"),
        ("a: *nowhere", "undefined alias"),
        ("kind: 'x", "is not YAML: line"),
        (b"kind: \xff\xfe", "not text in UTF-8"),
        ("kind: \x07", "is not YAML"),
        ("kind: !!python/object/apply:os.system [ls]", "the tag !!python/object/apply:os.system"),
        ("kind: !!binary aGFsbG8=", "the tag !!binary is not supported"),
        ("kind: !own x", "the tag !own is not supported"),
        ("? [a]\n: b", "unhashable"),
        ("kind: a\nkind: b", "line 2, column 1: the key 'kind' stands twice"),
        ("m:\n  x: {b: 1, a: 1, b: 2}", "the key 'b' stands twice"),
        ("x: .nan", "infinity and NaN"),
        ("x: -.inf", "infinity and NaN"),
        (f"x: {'9' * 5000}", "a value is wrong"),
        ('x: "\\ud800"', "a character that no text has"),
        ('x: "a\\0b"', "a character that no text has"),
        ("[" * 3000, "nested too deeply"),
        ("[" * 60 + "]" * 60, "nested deeper than 50"),
        ("&a [*a]", "nested deeper than 50"),
        ("just text", "a mapping, not a str"),
        ("- a\n- b", "a mapping, not a list"),
        ("42", "a mapping, not a int"),
        ("kind: ConfigMap", "apiVersion is missing"),
        ("apiVersion: v1", "kind is missing"),
        ("apiVersion: 1\nkind: x", "apiVersion is missing"),
        ("apiVersion: v1\nkind: x", "metadata.name is missing"),
        ("apiVersion: v1\nkind: x\nmetadata: text", "metadata.name is missing"),
        ("apiVersion: v1\nkind: x\nmetadata: {generateName: x-}", "metadata.name is missing"),
        ("apiVersion: v1\nkind: x\nmetadata: {name: 12}", "metadata.name is not text"),
        ("apiVersion: v1\nkind: x\nmetadata: {name: a, namespace: }", "metadata.namespace is not"),
        ("apiVersion: v1\nkind: List\nitems: []", "the kind List is not supported"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(write, text: str | bytes, told: str) -> None:
    path = write(text)
    assert str(path) in refusal(path)
    assert told in refusal(path)


def test_the_second_document_is_named(write) -> None:
    path = write(f"{CONFIG.format(name='a')}---\nkind: x\n")
    assert refusal(path).startswith(f"{path}, document 2: ")


def test_an_error_does_not_show_the_line_that_it_is_in(write) -> None:
    assert "hunter2" not in refusal(write("stringData:\n  password: hunter2: hunter2\n"))
    assert "hunter2" not in refusal(write("password: hunter2\n  other: [hunter2"))
    assert "hunter2" not in refusal(write("hunter2"))


def test_a_bomb_of_aliases_is_refused_at_once(write) -> None:
    text = 'a0: &a0 ["x","x","x","x","x","x","x","x","x"]\n'
    merged = "m0: &m0 {x: 1, y: 2}\n"
    for level in range(1, 40):
        text += f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]\n"
        merged += f"m{level}: &m{level} {{<<: [{','.join([f'*m{level - 1}'] * 9)}]}}\n"
    started = time.monotonic()
    assert "more than 50000 values" in refusal(write(text))
    assert "more than 50000 values" in refusal(write(merged))
    assert time.monotonic() - started < 20


def test_aliases_cannot_nest_deeper_than_the_control_api_takes(write) -> None:
    deep = "[" * 40 + "]" * 40
    assert "nested deeper than 50" in refusal(write(f"a: &a {deep}\nb: {'[' * 20}*a{']' * 20}"))


def test_a_huge_file_is_not_read(write) -> None:
    assert "that is no manifest" in refusal(write(b" " * (documents.LARGEST + 1)))


def test_aliases_and_merges_are_taken(write) -> None:
    # A merged mapping that is built after the one it is merged into.
    path = write(
        CONFIG.format(name="a")
        + "base: &base {a: 1, b: 1}\nx: {mid: &mid {<<: *base, a: 2}}\ntop: {<<: *mid, c: 3}\n"
    )
    (found,) = read([path])
    assert found.content["x"] == {"mid": {"a": 2, "b": 1}}
    assert found.content["top"] == {"a": 2, "b": 1, "c": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        ("yes", True),
        ("1.5", 1.5),
        ("0x10", 16),
        ("~", None),
    ],
)
def test_values_are_those_of_json(write, text: str, value: object) -> None:
    assert data(write, text) == value


def test_a_byte_order_mark_is_no_part_of_the_text(write) -> None:
    (found,) = read([write(b"\xef\xbb\xbf" + CONFIG.format(name="a").encode())])
    assert found.content["apiVersion"] == "v1"
    assert isinstance(found, Document)
