"""Manifest files as documents that remember where they stand, for both backends."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from helpers.errors import ManifestError

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = (".yaml", ".yml")
KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml")  # lists of files, no objects
DATASET = "cifar10"  # the one that manifests name
# Rows of a drift window where there are fewer images than manifests count on; helpers.train.settings
# calibrates for them.
DRIFT_WINDOWS = {"digits": 100}

LARGEST = 2**20  # bytes of a file; more than a cluster stores of one object
VALUES_LIMIT = 50_000  # of a document, an alias counted as often as it is used
DEPTH_LIMIT = 50  # the control API takes 64 levels

_STORED = re.compile(rf"(?P<bucket>s3:(?://)?walkthrough)/{DATASET}/")
_DRIFT_WINDOW = re.compile(r"(?<=^--drift_batch_size=)[0-9]+$")


@dataclass(frozen=True)
class Document:
    """One object of a manifest.

    Args:
        origin: for errors, `manifests/model/cifar10.yaml` and, where there are several, `, document 2`.
        content: the parsed YAML, a mapping with apiVersion, kind and metadata.
    """

    origin: str
    content: dict[str, Any]


def read(paths: Iterable[str | Path], dataset: str = DATASET) -> list[Document]:
    """Return the documents of files, and of every manifest that lies in folders, in order of their names.

    A relative path is looked for in the working directory, then in the repository. A folder's
    kustomization.yaml is left out: it is for kubectl.

    Args:
        paths: files and folders.
        dataset: the artefacts that storage URIs of CIFAR-10 are to mean, e.g. "digits"; its drift
            window replaces `--drift_batch_size` too.

    Raises:
        ManifestError: a path is missing or empty, is no YAML, is a kustomize overlay, or holds no
            Kubernetes object.
    """
    paths = list(paths)
    documents = [
        document for path in paths for file in _files(path) for document in _documents(file)
    ]
    if not documents:
        told = ", ".join(map(str, paths))
        raise ManifestError(
            f"{told}: there is no Kubernetes object in it."
            if told
            else "There is no manifest to apply: name a file or a folder of them."
        )
    if dataset == DATASET:
        return documents
    return [Document(one.origin, _for_dataset(one.content, dataset)) for one in documents]


def _files(path: str | Path) -> list[Path]:
    given = Path(path)
    try:
        found = given if given.is_absolute() or given.exists() else ROOT / given
        if found.is_dir():
            files = sorted(file for file in found.iterdir() if file.suffix in SUFFIXES)
            if any(_is_overlay(file) for file in files):
                raise ManifestError(
                    f"{shown(found)}: this is an overlay, which changes manifests of other folders; "
                    f"run `kubectl kustomize {shown(found)} > overlay.yaml` and apply overlay.yaml."
                )
            manifests = [file for file in files if file.name not in KUSTOMIZATIONS]
            if not manifests:
                raise ManifestError(f"{shown(found)}: the folder holds no .yaml file.")
            return manifests
        if not found.is_file():
            there = "is no file" if found.exists() else "no such file"
            raise ManifestError(f"{given}: {there}{_neighbours(found)}.")
    except (OSError, ValueError) as problem:  # may not be looked into; too long; a NUL
        reason = getattr(problem, "strerror", None) or problem
        raise ManifestError(f"{str(given)[:200]!r} cannot be read: {reason}.") from problem
    return [found]


def _is_overlay(file: Path) -> bool:
    """Whether it is a kustomization that builds on others."""
    return file.name in KUSTOMIZATIONS and any(
        line.startswith("bases:") for line in file.read_text(encoding="utf-8").splitlines()
    )


def _neighbours(path: Path) -> str:
    """What lies in the nearest folder that exists, for the error."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    names = sorted(one.name for one in folder.iterdir() if not one.name.startswith("."))
    return f"; in {shown(folder)} there are {', '.join(names[:12])}" if names else ""


def shown(path: Path) -> str:
    """Return the path as a reader of the repository knows it."""
    resolved = path.resolve()
    return str(resolved.relative_to(ROOT)) if resolved.is_relative_to(ROOT) else str(path)


def _documents(path: Path) -> list[Document]:
    where = shown(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ManifestError(f"{where} has more than {LARGEST} bytes: that is no manifest.")
        contents = list(yaml.load_all(path.read_text(encoding="utf-8"), _Loader))
    except (yaml.YAMLError, RecursionError) as problem:
        raise ManifestError(f"{where} is not YAML: {_reason(problem)}.") from None
    except UnicodeDecodeError as problem:
        raise ManifestError(f"{where} is not YAML: it is not text in UTF-8.") from problem
    except OSError as problem:
        raise ManifestError(f"{where} cannot be read: {problem.strerror}.") from problem
    documents = []
    for number, content in enumerate(contents, start=1):
        if content is None:  # an empty document, such as one after a last `---`
            continue
        origin = where if len(contents) == 1 else f"{where}, document {number}"
        documents.append(Document(origin, checked(content, origin)))
    return documents


def checked(content: Any, origin: str) -> dict[str, Any]:
    """Return the content of a document if it is a Kubernetes object at all.

    Raises:
        ManifestError: it is not; names what is missing.
    """
    if not isinstance(content, dict):
        raise ManifestError(
            f"{origin}: a Kubernetes object is a mapping, not a {type(content).__name__}."
        )
    for field in ("apiVersion", "kind"):
        if not isinstance(content.get(field), str):
            raise ManifestError(f"{origin}: {field} is missing; every Kubernetes object has one.")
    if content["kind"] == "List":
        raise ManifestError(
            f"{origin}: the kind List is not supported; write its items as documents, with a line "
            "`---` between two of them."
        )
    metadata = content.get("metadata")
    if not isinstance(metadata, dict) or "name" not in metadata:
        raise ManifestError(f"{origin}: metadata.name is missing.")
    for field in ("name", "namespace"):
        if not isinstance(metadata.get(field, ""), str):
            raise ManifestError(f"{origin}: metadata.{field} is not text; write it in quotes.")
    return content


def _for_dataset(value: Any, dataset: str) -> Any:
    if isinstance(value, str):
        if dataset in DRIFT_WINDOWS:
            value = _DRIFT_WINDOW.sub(str(DRIFT_WINDOWS[dataset]), value)
        return _STORED.sub(rf"\g<bucket>/{dataset}/", value)
    if isinstance(value, dict):
        return {key: _for_dataset(item, dataset) for key, item in value.items()}
    if isinstance(value, list):
        return [_for_dataset(item, dataset) for item in value]
    return value


def _reason(problem: BaseException) -> str:
    """What is wrong and where, on one line and without the text of the place: it may be a secret."""
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    mark = getattr(problem, "problem_mark", None)
    if mark is None:
        return " ".join(str(problem).replace('in "<unicode string>", ', "").split()).rstrip(".")
    parts = [getattr(problem, "context", None), getattr(problem, "problem", None)]
    told = ", ".join(part for part in parts if part)
    return f"line {mark.line + 1}, column {mark.column + 1}: {told}"


class _Loader(yaml.SafeLoader):
    """Takes what is JSON as well, as Kubernetes does, and no key that stands twice in one mapping."""

    def construct_document(self, node: yaml.Node) -> Any:
        self._check(node, {})
        try:
            return super().construct_document(node)
        except ValueError as problem:  # such as an integer of 5,000 digits
            raise _refused(node, f"a value is wrong: {problem}") from problem

    def _check(
        self, node: yaml.Node, known: dict[yaml.Node, tuple[int, int]], depth: int = 1
    ) -> tuple[int, int]:
        """Refuse what must not be; return how many values a node has, aliases written out, and levels."""
        size, levels = known.get(node, (1, 1))
        if depth + levels - 1 > DEPTH_LIMIT:  # also an alias inside its own anchor
            raise _refused(node, f"it is nested deeper than {DEPTH_LIMIT} levels")
        if node in known:
            return size, levels
        if node.tag.removeprefix(_STANDARD) not in _TAGS:
            raise _refused(node, f"the tag {node.tag.replace(_STANDARD, '!!')} is not supported")
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node)
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        else:
            inside = [one for pair in node.value for one in pair]
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = [key for key, many in Counter(key.value for key in keys).items() if many > 1]
            if twice:
                last = [key for key in keys if key.value == twice[0]][-1]
                raise _refused(last, f"the key {twice[0]!r} stands twice")
        for one in inside:
            more, below = self._check(one, known, depth + 1)
            size, levels = size + more, max(levels, below + 1)
        if size > VALUES_LIMIT:
            raise _refused(node, f"it holds more than {VALUES_LIMIT} values")
        known[node] = size, levels
        return size, levels

    def _check_scalar(self, node: yaml.ScalarNode) -> None:
        if any("\ud800" <= character <= "\udfff" or character == "\0" for character in node.value):
            raise _refused(node, "there is a character that no text has")
        if node.tag == f"{_STANDARD}float" and not math.isfinite(self.construct_yaml_float(node)):
            raise _refused(node, "infinity and NaN are no numbers here")


_STANDARD = "tag:yaml.org,2002:"
_TAGS = {"str", "int", "float", "bool", "null", "seq", "map", "merge"}
# A date that is not quoted is text, as for kubectl; so is `=`.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_STANDARD) in _TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _refused(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)
