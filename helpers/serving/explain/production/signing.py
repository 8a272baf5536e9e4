"""Signatures: HMAC-SHA256 over the canonical JSON form of RFC 8785.

A signed response is itself written in that form, and has

    "signatures": [{"algorithm": "HMAC-SHA256", "key_id": "2026-11", "value": "<64 hexadecimal digits>"}]

Signed is the whole response with the values of the signatures left out, so key ids and algorithms are signed
too. To change a key, give the server the new key and the old one as the previous: it signs with both, and
whoever knows one of them can verify. `helpers.verify` is the other side.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import rfc8785

from helpers.serving.common.errors import ServingError

ALGORITHM = "HMAC-SHA256"
FIELD = "signatures"


@dataclass(frozen=True, slots=True)
class Key:
    """A signing key.

    Args:
        id: stands in the response.
        secret: never does.
    """

    id: str
    secret: bytes = field(repr=False)


def key_id(secret: bytes) -> str:
    """Return an id for a key that was given none: it says nothing about the key."""
    return hashlib.sha256(b"key id\0" + secret).hexdigest()[:8]


class Signer:
    """Signs responses.

    Args:
        keys: all of them sign, the current one first.

    Raises:
        ServingError: two keys have one id.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = tuple(keys)
        if len({key.id for key in self.keys}) < len(self.keys):
            raise ServingError(
                f"Two signing keys have the id {self.keys[0].id!r}; give the new one another."
            )

    def sign(self, document: Mapping[str, Any]) -> bytes:
        """Return a JSON object with its signatures, in canonical form."""
        unsigned = {
            **document,
            FIELD: [{"algorithm": ALGORITHM, "key_id": key.id} for key in self.keys],
        }
        payload = rfc8785.dumps(unsigned)
        for entry, key in zip(unsigned[FIELD], self.keys, strict=True):
            entry["value"] = signature(key.secret, payload)
        return rfc8785.dumps(unsigned)


def payload(document: Mapping[str, Any]) -> bytes:
    """Return what the signatures of a signed response are over."""
    entries = [
        {name: value for name, value in entry.items() if name != "value"}
        for entry in document[FIELD]
    ]
    return rfc8785.dumps({**document, FIELD: entries})


def signature(secret: bytes, payload: bytes) -> str:
    """Return the HMAC as hexadecimal digits."""
    return hmac.new(secret, payload, hashlib.sha256).hexdigest()
