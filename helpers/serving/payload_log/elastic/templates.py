"""The index templates: what is searched is mapped, whatever else comes is kept and not looked into.

    python -m helpers.serving.payload_log.elastic.templates manifests/logging/elasticsearch

writes them as the files to PUT by hand where the payload log itself may not. It leaves a template
of its own version or a later one as it is: change replicas or shards there, and raise the version.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import orjson

from helpers.serving.payload_log.elastic.client import Client, UnavailableError

log = logging.getLogger(__name__)

VERSION = 2  # raise it with every change of a template
EVENTS = "inference-events-"
BROKER_EVENTS = "broker-events-"  # of an events-only payload log
LEAST = 8  # major version of Elasticsearch

_KEYWORD = {"type": "keyword"}
_SHOWN = {"type": "keyword", "index": False, "doc_values": False}
_KEPT = {"type": "object", "enabled": False}
# Times are as senders wrote them; one that Elasticsearch cannot read must not cost the event.
_DATE = {"type": "date", "ignore_malformed": True}
_NUMBER = {"type": "double", "ignore_malformed": True}
_SETTINGS = {
    "number_of_shards": 1,
    "auto_expand_replicas": "0-1",  # none on a single node
    "codec": "best_compression",
    "translog": {"durability": "request"},  # acknowledged is on disk; Elasticsearch's own default
}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "dynamic": False, "properties": properties}


def _part(**properties: Any) -> dict[str, Any]:
    described = {"ce-time": _DATE | {"index": False}, "ce-source": _KEYWORD}
    return _object(**described, **properties)


_MESSAGE = _part(dataType=_KEYWORD, instance=_KEPT, elements=_KEPT, payload=_KEPT)

TEMPLATES: dict[str, dict[str, Any]] = {
    "payload-log": {
        "index_patterns": ["inference-log-seldon-*", "inference-log-inferenceservice-*"],
        "priority": 200,
        "version": VERSION,
        "template": {
            "settings": _SETTINGS,
            "mappings": {
                "dynamic": False,
                "properties": {
                    "@timestamp": _DATE,
                    "RequestId": _KEYWORD,
                    "ServingEngine": _KEYWORD,
                    "Ce-Namespace": _KEYWORD,
                    "Ce-Inferenceservicename": _KEYWORD,
                    "Ce-Endpoint": _KEYWORD,
                    "Ce-Modelid": _KEYWORD,
                    "request": _MESSAGE,
                    "response": _MESSAGE,
                    "outlier": _part(
                        data=_object(
                            is_outlier=_KEYWORD, instance_score=_NUMBER, feature_score=_KEPT
                        )
                    ),
                    "drift": _part(
                        data=_object(
                            is_drift=_KEYWORD, p_val=_NUMBER, distance=_NUMBER, threshold=_NUMBER
                        )
                    ),
                    "feedback": _part(reward=_NUMBER, request=_KEPT, response=_KEPT, truth=_KEPT),
                },
            },
        },
        "_meta": {
            "description": "Seldon's log documents, as helpers.serving.payload_log has them."
        },
    },
    "payload-log-events": {
        "index_patterns": [f"{EVENTS}*", f"{BROKER_EVENTS}*"],
        "priority": 200,
        "version": VERSION,
        "template": {
            "settings": _SETTINGS,
            "mappings": {
                "dynamic": "strict",
                "properties": {
                    "seq": {"type": "long"},
                    "arrived": {"type": "date"},
                    "attributes": {"type": "flattened"},
                    "bytes": {"type": "long"},
                    "data": _KEPT,
                    "part": {
                        "type": "object",
                        "dynamic": "strict",
                        "properties": {
                            "index": _KEYWORD,
                            "request_id": _KEYWORD,
                            "kind": _KEYWORD,
                            "at": {"type": "double"},
                            "time": _SHOWN,
                            "namespace": _KEYWORD,
                            "deployment": _KEYWORD,
                            "endpoint": _KEYWORD,
                            "model": _KEYWORD,
                            "items": {"type": "integer"},
                            "flagged": {"type": "integer"},
                            "flags": {"type": "integer"},
                        },
                    },
                },
            },
        },
        "_meta": {"description": "Every event that helpers.serving.payload_log took."},
    },
}


async def install(client: Client, events: str = f"{EVENTS}*") -> None:
    """Install what is missing or older; what is there already stays.

    Args:
        client: of Elasticsearch.
        events: the indices of events that are looked into, or written.

    Raises:
        UnavailableError: Elasticsearch does not answer, is another program or too old, does not
            allow it, or has an index of events that was made without its template.
    """
    _, told = await client.call("GET", "/")
    _check_version(told)
    for name, template in TEMPLATES.items():
        status, found = await client.call("GET", f"/_index_template/{name}", expected=(200, 404))
        if status == 200 and _version(found, name) >= VERSION:
            continue
        await client.call("PUT", f"/_index_template/{name}", template)
        log.info("index template %s installed, version %d", name, VERSION)
    path = f"/{events}/_mapping?ignore_unavailable=true&allow_no_indices=true"
    _, made = await client.call("GET", path)
    for index, one in made.items():
        fields = one["mappings"].get("properties", {})
        if fields.get("attributes", {}).get("type") != "flattened":
            raise UnavailableError(
                f"has an index {index} that was made without the template payload-log-events: "
                "delete it, or reindex it under another name"
            )


def _check_version(told: Any) -> None:
    try:
        version = told["version"]
        major = int(version["number"].partition(".")[0])
        other = version.get("distribution")
    except (LookupError, TypeError, ValueError, AttributeError) as problem:
        raise UnavailableError("is not Elasticsearch") from problem
    if other or major < LEAST:
        raise UnavailableError(
            f"is {other or 'Elasticsearch'} {version['number']}, where {LEAST} or later is needed"
        )


def _version(found: Any, name: str) -> int:
    for one in found.get("index_templates", ()):
        if one["name"] == name:
            return one["index_template"].get("version", 0)
    return 0


def write(folder: Path) -> None:
    """Write each template as `<name>-index-template.json`, what `PUT /_index_template/<name>` takes."""
    for name, template in TEMPLATES.items():
        text = orjson.dumps(template, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        (folder / f"{name}-index-template.json").write_bytes(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
