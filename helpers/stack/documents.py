"""Manifest files as documents that remember where they stand, for both backends."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from helpers.errors import ManifestError

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = (".yaml", ".yml")
DATASET = "cifar10"  # the one that manifests name

_STORED = re.compile(rf"(?P<bucket>s3:(?://)?walkthrough)/{DATASET}/")


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

    A relative path is looked for in the working directory, then in the repository.

    Args:
        paths: files and folders.
        dataset: the artefacts that storage URIs of CIFAR-10 are to mean, e.g. "digits".

    Raises:
        ManifestError: a path is missing or empty, is no YAML, or holds no Kubernetes object.
    """
    documents = [
        document for path in paths for file in _files(path) for document in _documents(file)
    ]
    if not documents:
        raise ManifestError("There is no manifest to apply: name a file or a folder of them.")
    if dataset == DATASET:
        return documents
    return [Document(one.origin, _for_dataset(one.content, dataset)) for one in documents]


def _files(path: str | Path) -> list[Path]:
    given = Path(path)
    found = given if given.is_absolute() or given.exists() else ROOT / given
    if found.is_dir():
        files = sorted(file for file in found.iterdir() if file.suffix in SUFFIXES)
        if not files:
            raise ManifestError(f"{shown(found)}: the folder holds no .yaml file.")
        return files
    if not found.is_file():
        raise ManifestError(f"{given}: no such file{_neighbours(found)}.")
    return [found]


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
        contents = list(yaml.load_all(path.read_text(encoding="utf-8"), _Loader))
    except (yaml.YAMLError, RecursionError) as problem:
        raise ManifestError(f"{where} is not YAML: {_on_one_line(problem)}.") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise ManifestError(f"{where} cannot be read: {problem}.") from problem
    documents = []
    for number, content in enumerate(contents, start=1):
        if content is None:  # an empty document, such as one after a last `---`
            continue
        origin = where if len(contents) == 1 else f"{where}, document {number}"
        documents.append(Document(origin, _checked(content, origin)))
    return documents


def _checked(content: Any, origin: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ManifestError(f"{origin}: a Kubernetes object is a mapping, not {content!r:.60}.")
    for field in ("apiVersion", "kind"):
        if not isinstance(content.get(field), str):
            raise ManifestError(f"{origin}: {field} is missing; every Kubernetes object has one.")
    metadata = content.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise ManifestError(f"{origin}: metadata.name is missing.")
    return content


def _for_dataset(value: Any, dataset: str) -> Any:
    if isinstance(value, str):
        return _STORED.sub(rf"\g<bucket>/{dataset}/", value)
    if isinstance(value, dict):
        return {key: _for_dataset(item, dataset) for key, item in value.items()}
    if isinstance(value, list):
        return [_for_dataset(item, dataset) for item in value]
    return value


def _on_one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split()).rstrip(".")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)
