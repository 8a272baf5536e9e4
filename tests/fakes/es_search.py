"""Elasticsearch's query language, as far as it is used here; anything else is an AssertionError."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.fakes.es_mapping import RejectedError, moment, terms

WINDOW = 10_000  # index.max_result_window

Row = tuple[str, str, dict[str, Any], dict[str, Any]]  # index, id, source, mapping


def search(rows: Iterable[Row], body: dict[str, Any]) -> dict[str, Any]:
    """Return `hits` and `aggregations` as `_search` does."""
    known = {"size", "query", "sort", "search_after", "collapse", "_source", "aggs"}
    assert set(body) <= known | {"track_total_hits"}, body
    size = body.get("size", 10)
    if size > WINDOW:
        raise RejectedError("illegal_argument_exception", "Result window is too large")
    found = [row for row in rows if matches(body.get("query", {"match_all": {}}), row)]
    answer: dict[str, Any] = {}
    if "aggs" in body and found:
        answer["aggregations"] = _aggregate(found, body["aggs"])
    hits = [(row, [_sort_value(row, one) for one in body.get("sort", [])]) for row in found]
    for number, one in reversed(list(enumerate(body.get("sort", [])))):
        ((_, order),) = one.items()
        hits.sort(key=lambda hit: hit[1][number], reverse=order["order"] == "desc")
    if "search_after" in body:
        falling = next(iter(body["sort"][0].values()))["order"] == "desc"
        after = body["search_after"]
        hits = [hit for hit in hits if (hit[1] < after if falling else hit[1] > after)]
    if "collapse" in body:
        first: dict[Any, Any] = {}
        for row, values in hits:
            (key,) = values_of(row, body["collapse"]["field"])
            first.setdefault(key, (row, values))
        hits = list(first.values())
    answer["hits"] = {
        "hits": [
            {
                "_index": row[0],
                "_id": row[1],
                "_source": _narrowed(row[2], body.get("_source")),
                "sort": values,
            }
            for row, values in hits[:size]
        ]
    }
    return answer


def matches(query: dict[str, Any], row: Row) -> bool:
    """Whether a document is found by a query."""
    ((kind, given),) = query.items()
    if kind == "match_all":
        return True
    if kind == "bool":
        assert set(given) <= {"filter", "must_not"}, given
        return all(matches(one, row) for one in given.get("filter", [])) and not any(
            matches(one, row) for one in given.get("must_not", [])
        )
    if kind == "exists":
        return bool(values_of(row, given["field"]))
    ((name, wanted),) = given.items()
    values = values_of(row, name)
    if kind == "term":
        wanted = wanted["value"] if isinstance(wanted, dict) else wanted
        return wanted in values
    if kind == "terms":
        assert isinstance(wanted, list)
        return any(one in values for one in wanted)
    assert kind == "range", kind
    return any(_within(value, wanted, field_of(row[3], name)["type"]) for value in values)


def field_of(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the mapping of a field, which must be there: real ones find nothing and say nothing."""
    field = mapping
    parts = name.split(".")
    for number, part in enumerate(parts):
        if field.get("type") == "flattened":
            return {"type": "flattened", "key": ".".join(parts[number:])}
        assert field.get("enabled", True), f"{name} is not indexed"
        assert part in field.get("properties", {}), f"{name} is not mapped"
        field = field["properties"][part]
    assert field.get("index", True), f"{name} is not indexed"
    return field


def values_of(row: Row, name: str) -> list[Any]:
    """Return what is indexed of a field of a document."""
    field = field_of(row[3], name)
    found: list[Any] = [row[2]]
    for part in name.split("."):
        lists = [one if isinstance(one, list) else [one] for one in found]
        found = [
            inner[part]
            for one in lists
            for inner in one
            if isinstance(inner, dict) and inner.get(part) is not None
        ]
    if field["type"] == "flattened":
        return [str(value) for value in found]
    return [term for value in found for term in terms(field, value, name)]


def _within(value: Any, bounds: dict[str, Any], kind: str) -> bool:
    assert set(bounds) <= {"gt", "gte", "lt", "lte"}, bounds
    read = moment if kind == "date" else float
    return (
        ("gt" not in bounds or value > read(bounds["gt"]))
        and ("gte" not in bounds or value >= read(bounds["gte"]))
        and ("lt" not in bounds or value < read(bounds["lt"]))
        and ("lte" not in bounds or value <= read(bounds["lte"]))
    )


def _sort_value(row: Row, one: dict[str, Any]) -> Any:
    ((name, order),) = one.items()
    assert set(order) <= {"order", "unmapped_type"}, order
    (value,) = values_of(row, name)
    return value


def _narrowed(source: dict[str, Any], wanted: list[str] | None) -> dict[str, Any]:
    if wanted is None:
        return source
    narrow: dict[str, Any] = {}
    for path in wanted:
        place, part, inner = narrow, source, path.split(".")
        for name in inner[:-1]:
            place, part = place.setdefault(name, {}), part[name]
        place[inner[-1]] = part[inner[-1]]
    return narrow


def _aggregate(rows: list[Row], wanted: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for name, given in wanted.items():
        inner = given.get("aggs", {})
        ((kind, how),) = [(key, value) for key, value in given.items() if key != "aggs"]
        if kind == "sum":
            answer[name] = {"value": float(sum(sum(values_of(row, how["field"])) for row in rows))}
        elif kind == "cardinality":
            assert how["precision_threshold"] <= 40_000
            distinct = {value for row in rows for value in values_of(row, how["field"])}
            answer[name] = {"value": len(distinct)}
        else:
            assert kind == "terms", kind
            groups: dict[Any, list[Row]] = {}
            for row in rows:
                for value in values_of(row, how["field"]):
                    groups.setdefault(value, []).append(row)
            largest = sorted(groups.items(), key=lambda one: -len(one[1]))
            answer[name] = {
                "sum_other_doc_count": sum(len(own) for _, own in largest[how["size"] :]),
                "buckets": [
                    {"key": key, "doc_count": len(own), **_aggregate(own, inner)}
                    for key, own in largest[: how["size"]]
                ],
            }
    return answer
