"""CloudEvents 1.0 over HTTP: read and written in binary and in structured mode.

In binary mode the attributes are `ce-*` headers and the body is the data, whose bytes are never
touched. In structured mode one JSON object holds both.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import quote, unquote

import orjson

from helpers.serving.common.body import parse_json
from helpers.serving.common.errors import RequestError

REQUEST_TYPE = "io.seldon.serving.inference.request"
RESPONSE_TYPE = "io.seldon.serving.inference.response"
FEEDBACK_TYPE = "io.seldon.serving.feedback"
OUTLIER_TYPE = "io.seldon.serving.inference.outlier"
DRIFT_TYPE = "io.seldon.serving.inference.drift"

JSON_TYPE = "application/json"
STRUCTURED_TYPE = "application/cloudevents+json"
ATTRIBUTE_LIMIT = 4096  # characters of one attribute's value
ATTRIBUTES_LIMIT = 16_384  # of all names and values: they become headers, and servers limit those

_REQUIRED = ("id", "source", "type")
_OPTIONAL = ("time", "subject", "dataschema", "datacontenttype")
_NAME = re.compile(r"[a-z0-9]{1,64}")
# What a header value may hold as it is; the HTTP binding percent-encodes the rest.
_HEADER_PLAIN = re.compile(r"[\x21\x23\x24\x26-\x7e]*")
_HEADER_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event: the attributes of CloudEvents 1.0, its extensions, and the data as bytes."""

    type: str
    source: str
    data: bytes = b""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    time: str | None = None
    subject: str | None = None
    dataschema: str | None = None
    datacontenttype: str | None = None
    extensions: Mapping[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        """Return the attribute or extension called `name` as text, None where it is not set."""
        if name == "specversion":
            return "1.0"
        if name in _REQUIRED or name in _OPTIONAL:
            return getattr(self, name)
        return self.extensions.get(name)

    def attributes(self) -> dict[str, str]:
        """Return all attributes that are set, extensions among them."""
        named = {"specversion": "1.0", "id": self.id, "source": self.source, "type": self.type}
        for name in _OPTIONAL:
            value = getattr(self, name)
            if value is not None:
                named[name] = value
        return named | dict(self.extensions)

    def with_extensions(self, **extensions: str) -> Self:
        """Return a copy with these extensions added or replaced."""
        return replace(self, extensions={**self.extensions, **extensions})

    def json(self) -> Any:
        """Return the data parsed as JSON.

        Raises:
            RequestError: 400, the data is not JSON.
        """
        return parse_json(self.data)

    def to_binary(self) -> tuple[dict[str, str], bytes]:
        """Return headers and body in binary mode."""
        headers = {}
        for name, value in self.attributes().items():
            if name == "datacontenttype":
                headers["content-type"] = value
            elif _HEADER_PLAIN.fullmatch(value):
                headers["ce-" + name] = value
            else:
                headers["ce-" + name] = quote(value, safe=_HEADER_SAFE)
        return headers, self.data

    def to_structured(self) -> tuple[dict[str, str], bytes]:
        """Return headers and body in structured mode; JSON data stays as it was written."""
        whole: dict[str, Any] = self.attributes()
        if self.data:
            if is_json_type(self.datacontenttype):
                whole["data"] = orjson.Fragment(self.data)
            else:
                whole["data_base64"] = base64.b64encode(self.data).decode()
        return {"content-type": STRUCTURED_TYPE}, orjson.dumps(whole)


def new_event(
    type: str, source: str, data: Any, *, time: str | None = None, **extensions: str
) -> CloudEvent:
    """Return an event with a new id, the present time, and `data` as JSON.

    Bytes are taken as JSON already written; anything else is written by orjson.
    """
    written = data if isinstance(data, bytes) else orjson.dumps(data)
    return CloudEvent(
        type=type,
        source=source,
        data=written,
        time=time or now(),
        datacontenttype=JSON_TYPE,
        extensions=extensions,
    )


def restore_event(attributes: bytes, data: bytes) -> CloudEvent:
    """Return the event whose `attributes()` were stored as JSON, beside its data."""
    named = orjson.loads(attributes)
    del named["specversion"]
    own = {name: named.pop(name, None) for name in (*_REQUIRED, *_OPTIONAL)}
    return CloudEvent(data=data, extensions=named, **own)


def now() -> str:
    """The present time as RFC 3339 in UTC, with microseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


def is_event(headers: Mapping[str, str]) -> bool:
    """Whether a message with these lower-case headers claims to be a CloudEvent of either mode."""
    content_type = headers.get("content-type", "").lower()
    return "ce-specversion" in headers or content_type.startswith("application/cloudevents")


def from_http(headers: Mapping[str, str] | Iterable[tuple[str, str]], body: bytes) -> CloudEvent:
    """Read an event from an HTTP message.

    Args:
        headers: names in lower case, as starlette and `{k.lower(): v}` of any client give them.
        body: kept as the data, untouched, in binary mode.

    Raises:
        RequestError: 400, what is missing or wrong; 415, a batch or another format.
    """
    named = dict(headers)
    content_type = named.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == STRUCTURED_TYPE:
        return _from_structured(body)
    if media_type.startswith("application/cloudevents"):
        raise RequestError(415, f"{media_type[:80]} is not supported: one event, as JSON, please.")
    attributes = {
        name[3:]: unquote(value) if "%" in value else value
        for name, value in named.items()
        if name.startswith("ce-")
    }
    if not attributes:
        raise RequestError(
            400, f"This is no CloudEvent: no ce-* headers, and not {STRUCTURED_TYPE}."
        )
    if content_type:
        attributes["datacontenttype"] = content_type
    return _from_attributes(attributes, body)


def _from_structured(body: bytes) -> CloudEvent:
    whole = parse_json(body)
    if not isinstance(whole, dict):
        raise RequestError(400, "A structured CloudEvent is one JSON object.")
    has_data = "data" in whole
    value, encoded = whole.pop("data", None), whole.pop("data_base64", None)
    attributes: dict[str, str] = {}
    for name, given in whole.items():
        if given is None:
            continue
        if isinstance(given, bool):
            attributes[name] = "true" if given else "false"
        elif isinstance(given, int | str):
            attributes[name] = str(given)
        else:
            raise RequestError(
                400, f"The attribute {name[:64]!r} is not text, a number or a truth value."
            )
    if encoded is not None:
        if has_data or not isinstance(encoded, str):
            raise RequestError(400, "A CloudEvent has `data` or, as text, `data_base64`.")
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as problem:
            raise RequestError(400, f"data_base64 is not base64: {problem}.") from problem
    elif not has_data:
        data = b""
    else:
        declared = attributes.setdefault("datacontenttype", JSON_TYPE)
        if is_json_type(declared):
            data = orjson.dumps(value)
        elif isinstance(value, str):
            data = value.encode()
        else:
            raise RequestError(400, f"data that is {declared[:80]} must be text or data_base64.")
    return _from_attributes(attributes, data)


def _from_attributes(attributes: dict[str, str], data: bytes) -> CloudEvent:
    version = attributes.pop("specversion", None)
    if version != "1.0":
        told = "is missing" if version is None else f"is {version[:20]!r}"
        raise RequestError(400, f"The attribute specversion {told}; CloudEvents 1.0 are taken.")
    for name in _REQUIRED:
        if not attributes.get(name):
            raise RequestError(400, f"The attribute {name} is missing or empty.")
    for name, value in attributes.items():
        if not _NAME.fullmatch(name) or name == "data":
            raise RequestError(
                400, f"{name[:64]!r} is no attribute name: lower-case letters and digits only."
            )
        if len(value) > ATTRIBUTE_LIMIT or not value.isprintable():
            raise RequestError(
                400,
                f"The attribute {name} has unprintable characters or over {ATTRIBUTE_LIMIT} of them.",
            )
    if sum(len(name) + len(value) for name, value in attributes.items()) > ATTRIBUTES_LIMIT:
        raise RequestError(400, f"The attributes have over {ATTRIBUTES_LIMIT} characters in all.")
    time = attributes.get("time")
    if time is not None:
        try:
            datetime.datetime.fromisoformat(time)
        except ValueError:
            raise RequestError(400, "The attribute time is not a time of RFC 3339.") from None
    named = {name: attributes.pop(name, None) for name in _OPTIONAL}
    return CloudEvent(
        type=attributes.pop("type"),
        source=attributes.pop("source"),
        id=attributes.pop("id"),
        data=data,
        extensions=attributes,
        **named,
    )


def is_json_type(content_type: str | None) -> bool:
    """Whether data of this content type is JSON; so it is where none is given."""
    if content_type is None:
        return True
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))
