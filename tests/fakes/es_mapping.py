"""Elasticsearch's mappings, of the types that are used here: what a document may hold, and what is indexed."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

TERM_BYTES = 32_766  # Lucene's limit
_PARAMETERS = {
    "keyword": {"index", "doc_values", "ignore_above"},
    "flattened": {"ignore_above", "depth_limit"},
    "date": {"index", "ignore_malformed", "format"},
    "long": {"index", "ignore_malformed"},
    "integer": {"index", "ignore_malformed"},
    "double": {"index", "ignore_malformed"},
    "object": {"enabled", "dynamic", "properties"},
}
_LIMITS = {"long": 2**63, "integer": 2**31}


class RejectedError(Exception):
    """A document or a request that Elasticsearch answers with 400.

    Args:
        type: of the error.
        reason: as a sentence.
    """

    def __init__(self, type: str, reason: str) -> None:
        super().__init__(f"{type}: {reason}")
        self.type = type
        self.reason = reason


def check_mapping(mapping: dict[str, Any], root: bool = True) -> None:
    """Refuse a mapping that has what Elasticsearch does not know, or this fake does not."""
    if root:
        mapping = {"type": "object", **mapping}
    kind = mapping.get("type", "object")
    if kind not in _PARAMETERS:
        raise RejectedError("mapper_parsing_exception", f"No handler for type [{kind}]")
    unknown = set(mapping) - _PARAMETERS[kind] - {"type"}
    if unknown:
        raise RejectedError(
            "mapper_parsing_exception", f"unknown parameter {unknown} on a mapper of type [{kind}]"
        )
    for one in mapping.get("properties", {}).values():
        check_mapping(one, False)


def check(mapping: dict[str, Any], document: Any, path: str = "", inherited: Any = True) -> None:
    """Refuse a document that the mapping does not take.

    A field that would be mapped dynamically is an AssertionError: nothing here is to do so.
    """
    dynamic = str(mapping.get("dynamic", inherited)).lower()
    if not isinstance(document, dict):
        raise RejectedError(
            "document_parsing_exception",
            f"object mapping for [{path}] tried to parse field as object, but found a concrete value",
        )
    for name, value in document.items():
        place = f"{path}.{name}" if path else name
        if not name.strip():
            raise RejectedError(
                "document_parsing_exception", "field name cannot be an empty string"
            )
        field = mapping.get("properties", {}).get(name)
        if field is None:
            if dynamic == "strict":
                raise RejectedError(
                    "strict_dynamic_mapping_exception",
                    f"mapping set to strict, dynamic introduction of [{name}] within [{path}] is not allowed",
                )
            assert dynamic == "false", f"{place} would be mapped dynamically"
        elif field.get("type", "object") == "object":
            if field.get("enabled", True):
                for one in value if isinstance(value, list) else [value]:
                    if one is not None:
                        check(field, one, place, dynamic)
        else:
            list(terms(field, value, place))


def terms(field: dict[str, Any], value: Any, place: str) -> Iterator[Any]:
    """Yield what is indexed of a value; refuse what cannot be."""
    if value is None:
        return
    if field["type"] == "flattened":
        yield from _flattened(value, place)
        return
    if isinstance(value, list):
        for one in value:
            yield from terms(field, one, place)
        return
    if isinstance(value, dict):
        raise _unparsable(field, place, "START_OBJECT")
    try:
        yield _term(field["type"], value, place)
    except (ValueError, TypeError, OverflowError):
        if not field.get("ignore_malformed"):
            raise _unparsable(field, place, value) from None


def _term(kind: str, value: Any, place: str) -> Any:
    if kind == "keyword":
        written = str(value).lower() if isinstance(value, bool) else str(value)
        if len(written.encode()) > TERM_BYTES:
            raise RejectedError("illegal_argument_exception", f'immense term in field="{place}"')
        return written
    if kind == "date":
        return moment(value)
    if isinstance(value, bool):
        raise TypeError("boolean")
    if kind == "double":
        return float(value)
    number = int(float(value)) if isinstance(value, float | str) else int(value)
    if not -_LIMITS[kind] <= number < _LIMITS[kind]:
        raise ValueError("out of range")
    return number


def moment(value: Any) -> float:
    """Return milliseconds since 1970 of a date as strict_date_optional_time||epoch_millis reads it."""
    if isinstance(value, bool):
        raise TypeError("boolean")
    if isinstance(value, int):
        return float(value)
    if (len(value) > 10 and value[10] != "T") or value[4:5] != "-":
        raise ValueError(value)
    read = datetime.datetime.fromisoformat(value)
    if read.tzinfo is None:
        read = read.replace(tzinfo=datetime.UTC)
    return float(int(read.timestamp() * 1000))


def _flattened(value: Any, place: str, depth: int = 0) -> Iterator[str]:
    if depth > 20:
        raise RejectedError("illegal_argument_exception", f"{place} exceeds the maximum depth")
    if depth == 0 and not isinstance(value, dict):
        raise RejectedError("document_parsing_exception", f"[{place}] is no object")
    for name, one in value.items():
        for leaf in one if isinstance(one, list) else [one]:
            if isinstance(leaf, dict):
                yield from _flattened(leaf, f"{place}.{name}", depth + 1)
            elif leaf is not None:
                term = f"{name}\0{leaf}"
                if len(term.encode()) > TERM_BYTES:
                    raise RejectedError("illegal_argument_exception", f"immense term in {place}")
                yield term


def _unparsable(field: dict[str, Any], place: str, value: Any) -> RejectedError:
    return RejectedError(
        "document_parsing_exception",
        f"failed to parse field [{place}] of type [{field['type']}]: {str(value)[:80]}",
    )
