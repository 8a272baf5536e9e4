"""Applying and deleting the objects of manifests, and knowing afterwards which they were."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from helpers.errors import ManifestError, StackError
from helpers.serving.common.polling import WaitError, wait_for
from helpers.stack.documents import Document
from helpers.stack.interface import NAMESPACE, Applied
from helpers.stack.kind.connection import Api, Object
from helpers.stack.kind.kinds import KINDS, SECRET, Kind, kind_of

# On every object that was made here, not on one that was there before: that stays when ours go. Seldon's own
# labels, app.kubernetes.io/…, are left alone.
LABEL, LABEL_VALUE = "walkthrough.example/applied-by", "stack"
OURS = f"{LABEL}={LABEL_VALUE}"
GONE_SECONDS = 180.0  # pods have 30 s to end, explainers sleep 10 s of them
# Controllers write these; they say nothing about who changed the object.
_NOT_COMPARED = ("deployment.kubernetes.io/revision",)


@dataclass(frozen=True)
class Prepared:
    """A document as it is sent.

    Args:
        origin: file and document, for errors.
    """

    origin: str
    kind: Kind
    content: Object

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.content["metadata"]["name"]

    def __str__(self) -> str:
        return f"{self.kind.name}/{self.name}"


def apply(api: Api, documents: Sequence[Document]) -> list[Applied]:
    """Apply documents in order, after the API server has taken all of them in a dry run.

    Raises:
        ManifestError: a document is wrong; nothing was changed.
        StackError: the API server does not answer; says what was applied before it.
    """
    prepared = [prepare(one) for one in documents]
    for one in prepared:
        _mark(one, _let_go(api, one))
        api.apply(one.kind, one.content, one.origin, dry_run=True)
    done: list[Applied] = []
    for one in prepared:
        try:
            done.append(_apply(api, one))
        except StackError as problem:
            if not done:
                raise
            told = ", ".join(map(str, done))
            raise type(problem)(f"{problem} Before it: {told}.") from problem
    return done


def delete(api: Api, documents: Sequence[Document]) -> list[Applied]:
    """Delete the objects of documents that are there, and return once they are gone.

    With a SeldonDeployment or a Deployment goes what it owns, down to the pods, so that what is applied
    next does not meet them.

    Raises:
        StackError: something is not gone in time; says what.
    """
    prepared = [prepare(one) for one in documents]
    return remove(api, [(one.kind, one.name) for one in prepared])


def remove(api: Api, keys: Iterable[tuple[Kind, str]]) -> list[Applied]:
    """Delete objects by kind and name, as `delete` does."""
    going: dict[tuple[Kind, str], str] = {}
    for kind, name in keys:
        found = api.get(kind, name) if api.knows(kind) else None
        if found is None:
            continue
        uid = found["metadata"]["uid"]
        if api.delete(kind, name, uid):
            going[kind, name] = uid
    _wait_until_gone(api, going)
    return [Applied(kind.name, name, "deleted") for kind, name in going]


def applied(api: Api) -> list[tuple[Kind, Object]]:
    """Return every object that was made through this stack, in the order of KINDS.

    What an operator made of one, and gave its labels, is not among them: its owner is.
    """
    return [
        (kind, one)
        for kind in KINDS
        if api.knows(kind)
        for one in api.list(kind, labels=OURS)
        if not one["metadata"].get("ownerReferences")
    ]


def prepare(document: Document) -> Prepared:
    """Return a document as it is sent.

    Raises:
        ManifestError: of another namespace, or a kind that is not applied here.
    """
    content = copy.deepcopy(document.content)
    kind = kind_of(content, document.origin)
    metadata = content["metadata"]
    if metadata.setdefault("namespace", NAMESPACE) != NAMESPACE:
        raise ManifestError(
            f"{document.origin}: metadata.namespace: this stack applies to the namespace {NAMESPACE}, not "
            f"to {metadata['namespace']}: it deletes what it has applied."
        )
    if not isinstance(metadata.setdefault("labels", {}), dict):
        raise ManifestError(f"{document.origin}: metadata.labels: wanted a mapping.")
    if kind == SECRET and "stringData" in content:
        _encode(content, document.origin)
    return Prepared(document.origin, kind, content)


def _encode(secret: Object, origin: str) -> None:
    """Move `stringData` into `data`: of the former a server-side apply never removes a key again."""
    given = secret.pop("stringData")
    data = secret.setdefault("data", {})
    if not isinstance(given, dict) or not all(isinstance(one, str) for one in given.values()):
        raise ManifestError(f"{origin}: stringData: every value is text; write it in quotes.")
    data |= {key: base64.b64encode(text.encode()).decode() for key, text in given.items()}


def _apply(api: Api, one: Prepared) -> Applied:
    before = api.get(one.kind, one.name, one.origin)
    after = api.apply(one.kind, one.content, one.origin, dry_run=False)
    return Applied(one.kind.name, one.name, _action(before, after))


def _action(before: Object | None, after: Object) -> str:
    if before is None or before["metadata"]["uid"] != after["metadata"]["uid"]:
        return "created"
    if before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]:
        return "unchanged"
    # The version also moves with a status that was written in between.
    return "unchanged" if _declared(before) == _declared(after) else "configured"


def _declared(content: Object) -> dict[str, Any]:
    metadata = content["metadata"]
    notes = metadata.get("annotations") or {}
    return {
        **{key: value for key, value in content.items() if key not in ("metadata", "status")},
        "labels": metadata.get("labels") or {},
        "annotations": {key: value for key, value in notes.items() if key not in _NOT_COMPARED},
    }


def _mark(one: Prepared, live: Object | None) -> None:
    """Give what is made here its label; what is here keeps the one that it has, or none."""
    if live is None or LABEL in (live["metadata"].get("labels") or {}):
        one.content["metadata"]["labels"][LABEL] = LABEL_VALUE


def _let_go(api: Api, one: Prepared) -> Object | None:
    """Return the object as it is, once it is not being deleted: a manifest would be gone with it."""
    found = api.get(one.kind, one.name, one.origin)
    if found is not None and found["metadata"].get("deletionTimestamp"):
        _wait_until_gone(api, {(one.kind, one.name): found["metadata"]["uid"]})
        return None
    return found


def _wait_until_gone(api: Api, going: dict[tuple[Kind, str], str]) -> None:
    left = dict(going)

    def gone() -> bool:
        for (kind, name), uid in list(left.items()):
            found = api.get(kind, name)
            if found is None or found["metadata"]["uid"] != uid:
                del left[kind, name]
        return not left

    try:
        wait_for(
            gone, "objects to be deleted", seconds=GONE_SECONDS, first=0.1, every=1.0, errors=()
        )
    except WaitError as problem:
        told = ", ".join(f"{kind.name}/{name}" for kind, name in left)
        raise StackError(
            f"Not deleted after {GONE_SECONDS:g} s: {told}. Pods that do not end, or a finalizer whose "
            f"operator is not there; `kubectl --context {api.context} -n {NAMESPACE} describe` shows which."
        ) from problem
