"""What the API server says of an object that is wrong."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[3]
CRDS = Path(os.environ.get("CRDS_DIR") or ROOT.parent / "shared" / "crds")
KUBERNETES = "1.34"


# What server-side apply finds before anything else looks at the object.
TYPED = ("additionalProperties", "type", "anyOf")


def causes(content: dict[str, Any]) -> list[dict[str, str]]:
    """Return what is wrong with an object, as `details.causes` of a Status; `typed` marks fields and types."""
    if "/" not in content["apiVersion"] or content["apiVersion"].startswith("apps/"):
        return _core(content)
    group = content["apiVersion"].partition("/")[0]
    validator = _custom(group, content["kind"])
    if validator is None:
        return []
    rest = {
        k: v for k, v in content.items() if k not in ("apiVersion", "kind", "metadata", "status")
    }
    return [
        _cause(list(one.absolute_path), one.message, one.validator)
        for one in validator.iter_errors(rest)
    ]


def _core(content: dict[str, Any]) -> list[dict[str, str]]:
    plain = {key: value for key, value in content.items() if key != "status"}
    try:
        kubernetes_validate.validate(plain, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as problem:
        return [_cause(list(problem.path), problem.message, problem.validator)]
    return []


def _cause(path: list[Any], message: str, validator: str) -> dict[str, str]:
    field = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in path).lstrip(".")
    cause = {"reason": "FieldValueInvalid", "message": message[:300], "field": field or "<root>"}
    return cause | ({"typed": "yes"} if validator in TYPED else {})


@functools.cache
def _custom(group: str, kind: str) -> jsonschema.Draft202012Validator | None:
    for path in sorted(CRDS.glob(f"{kind.lower()}*.yaml")):
        spec = yaml.load(path.read_bytes(), yaml.CSafeLoader)["spec"]
        if (spec["group"], spec["names"]["kind"]) == (group, kind):
            version = next(one for one in spec["versions"] if one.get("storage"))
            return jsonschema.Draft202012Validator(_strict(version["schema"]["openAPIV3Schema"]))
    return None


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A copy that refuses what the API server would prune."""
    strict = dict(schema)
    if "properties" in schema:
        strict["properties"] = {name: _strict(one) for name, one in schema["properties"].items()}
    if "items" in schema:
        strict["items"] = _strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        strict["additionalProperties"] = _strict(schema["additionalProperties"])
    elif schema.get("x-kubernetes-preserve-unknown-fields"):
        strict["additionalProperties"] = True
    elif schema.get("type") == "object":
        strict.setdefault("additionalProperties", False)
    return {"anyOf": [{"type": "null"}, strict]} if schema.get("nullable") else strict
