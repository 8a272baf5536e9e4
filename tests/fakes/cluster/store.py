"""Objects as an API server keeps them: versions, field managers, deletion with its dependents."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from tests.fakes.cluster import schemas

Object = dict[str, Any]
Key = tuple[str, str]  # kind, name
Path = tuple[str, ...]
# What a webhook says: None, or why not, and fields.
Webhook = Callable[[Object], tuple[str, list[dict[str, str]]] | None]
IDENTITY = ("apiVersion", "kind", "status")
FOREGROUND = "foregroundDeletion"


class RefusalError(Exception):
    """What the API server answers instead: a Status."""

    def __init__(
        self, code: int, reason: str, message: str, causes: list[dict[str, str]] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": reason,
            "message": message,
            "code": code,
            "details": {"causes": causes or []},
        }


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """The objects of one namespace."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.owners: dict[Key, dict[str, set[Path]]] = {}
        self.webhooks: dict[str, tuple[str, Webhook]] = {}  # by kind: its name, what it says
        self.version = 0  # of all together
        self._numbers = itertools.count(1)

    def get(self, kind: str, name: str) -> Object:
        """Return an object.

        Raises:
            RefusalError: it is not there.
        """
        try:
            return self.objects[kind, name]
        except KeyError:
            raise RefusalError(404, "NotFound", f'{kind.lower()}s "{name}" not found') from None

    def of(self, kind: str) -> Iterator[Object]:
        """Every object of a kind."""
        return iter([one for (of, _), one in self.objects.items() if of == kind])

    def apply(
        self, body: Object, manager: str, *, force: bool = False, dry_run: bool = False
    ) -> tuple[Object, bool]:
        """Apply an object server-side; return it, and whether it is new."""
        if "stringData" in body:
            body = copy.deepcopy(body)
        key: Key = body["kind"], body["metadata"]["name"]
        live = self.objects.get(key)
        wanted = dict(_leaves({k: v for k, v in body.items() if k not in IDENTITY}))
        owners = self.owners.get(key, {})
        if live is not None and not force:
            self._check_conflicts(live, wanted, owners, manager)
        new = copy.deepcopy(live) if live else {k: body[k] for k in ("apiVersion", "kind")}
        others = {path for one, paths in owners.items() if one != manager for path in paths}
        for path in owners.get(manager, set()) - wanted.keys() - others:
            _remove(new, path)
        for path, value in wanted.items():
            _set(new, path, copy.deepcopy(value))
        _default(new)
        self._check(new)
        if live is not None and _bare(new) == _bare(live):
            return live, False
        if dry_run:
            new["metadata"].setdefault("uid", "dry-run")
            return new, live is None
        self._stamp(new, live)
        fields = [
            one for one in new["metadata"].get("managedFields", []) if one["manager"] != manager
        ]
        new["metadata"]["managedFields"] = [
            *fields, {"manager": manager, "operation": "Apply", "time": now()}
        ]  # fmt: skip
        self.objects[key] = new
        taken = {one: paths - wanted.keys() for one, paths in owners.items() if one != manager}
        self.owners[key] = {**(taken if force else owners), manager: set(wanted)}
        return new, live is None

    def put(self, content: Object, manager: str = "controller") -> Object:
        """Write an object as a controller does: no checks, and no versions where nothing changed."""
        key: Key = content["kind"], content["metadata"]["name"]
        live = self.objects.get(key)
        if live is not None and _bare(live) == _bare(content):
            return live
        new = copy.deepcopy(content)
        self._stamp(new, live)
        self.objects[key] = new
        return new

    def edit(self, kind: str, name: str, path: Path, value: Any, manager: str) -> None:
        """Set one field as somebody else, who owns it from then on."""
        content = copy.deepcopy(self.get(kind, name))
        _set(content, path, value)
        self.put(content)
        for paths in self.owners.setdefault((kind, name), {}).values():
            paths.discard(path)
        self.owners[kind, name].setdefault(manager, set()).add(path)

    def delete(self, kind: str, name: str, options: Object) -> Object:
        """Delete an object, at once or once its dependents are gone."""
        content = self.get(kind, name)
        uid = (options.get("preconditions") or {}).get("uid")
        if uid is not None and uid != content["metadata"]["uid"]:
            raise RefusalError(409, "Conflict", f"Precondition failed: UID in precondition: {uid}")
        if options.get("propagationPolicy") == "Foreground" or kind == "Pod":
            new = copy.deepcopy(content)
            new["metadata"]["deletionTimestamp"] = now()
            new["metadata"]["finalizers"] = [FOREGROUND]
            return self.put(new)
        return self.remove(kind, name)

    def remove(self, kind: str, name: str) -> Object:
        """Take an object away."""
        self.version += 1
        self.owners.pop((kind, name), None)
        return self.objects.pop((kind, name))

    def _stamp(self, new: Object, live: Object | None) -> None:
        self.version += 1
        metadata = new["metadata"]
        metadata["namespace"] = "walkthrough"
        metadata["resourceVersion"] = str(next(self._numbers) + 1000)
        if live is None:
            metadata["uid"] = f"uid-{next(self._numbers)}"
            metadata["creationTimestamp"] = now()
            metadata["generation"] = 1
        else:
            changed = {k: v for k, v in new.items() if k not in ("metadata", "status")} != {
                k: v for k, v in live.items() if k not in ("metadata", "status")
            }
            metadata["generation"] = live["metadata"]["generation"] + changed

    def _check(self, content: Object) -> None:
        bare = copy.deepcopy(content)
        for field in ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"):
            bare["metadata"].pop(field, None)
        if found := schemas.causes(bare):
            told = "; ".join(f"{one['field']}: {one['message']}" for one in found)
            name = content["metadata"]["name"]
            if any(one.pop("typed", "") for one in found):
                of = f"walkthrough/{name}; {content['apiVersion']}, Kind={content['kind']}"
                told = f"failed to create typed patch object ({of}): .{told}"
                raise RefusalError(500, "", told)
            raise RefusalError(
                422, "Invalid", f'{content["kind"]} "{name}" is invalid: {told}', found
            )
        if content["kind"] in self.webhooks:
            name, says = self.webhooks[content["kind"]]
            if said := says(content):
                told = f'admission webhook "{name}" denied the request: {said[0]}'
                raise RefusalError(403, "Forbidden", told, said[1])

    def _check_conflicts(
        self, live: Object, wanted: dict[Path, Any], owners: dict[str, set[Path]], manager: str
    ) -> None:
        for other, paths in owners.items():
            for path in sorted(paths & wanted.keys()):
                if other != manager and _at(live, path) != wanted[path]:
                    told = (
                        f'Apply failed with 1 conflict: conflict with "{other}": .{".".join(path)}'
                    )
                    raise RefusalError(409, "Conflict", told)


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field below an object; a list is one field."""
    if isinstance(value, dict) and value:
        for key, inside in value.items():
            yield from _leaves(inside, (*path, key))
    else:
        yield path, value


def _set(content: Object, path: Path, value: Any) -> None:
    for key in path[:-1]:
        inside = content.get(key)
        content[key] = inside if isinstance(inside, dict) else {}
        content = content[key]
    content[path[-1]] = value


def _at(content: Any, path: Path) -> Any:
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _remove(content: Object, path: Path) -> None:
    for key in path[:-1]:
        content = content.get(key, {})
    content.pop(path[-1], None)


def _default(content: Object) -> None:
    if content["kind"] == "Deployment":
        content["spec"].setdefault("replicas", 1)


def _bare(content: Object) -> Object:
    metadata = {
        key: value
        for key, value in content["metadata"].items()
        if key not in ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")
    }
    metadata.pop("namespace", None)
    return {**content, "metadata": metadata}
