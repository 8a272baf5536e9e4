"""Whether an explanation is what the server signed: the other side of `signing_key`.

from helpers.verify import verify

answer = httpx.post(url, json=request)
verify(answer.content, {"2026-11": key})       # a changed byte is a VerificationError
verify(answer.content, {"2026-11": new, "2026-10": old})  # while the key is changed
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import Any

import rfc8785

from helpers.errors import ClientError
from helpers.serving.explain.production.signing import ALGORITHM, FIELD, payload, signature


class VerificationError(ClientError):
    """An explanation is not signed, was changed, or is signed with other keys."""


def verify(response: bytes | str | Mapping[str, Any], keys: Mapping[str, bytes]) -> str:
    """Return the id of the key that signed a response.

    Bytes, or the text that they are, are verified byte for byte. A parsed response is verified as the
    values it holds, for whoever gets it from something that writes JSON in another form.

    Args:
        response: of an explain server.
        keys: by id; every signature by one of them must hold, and one must be there.

    Raises:
        VerificationError: which of these it is.
    """
    if isinstance(response, str):
        response = response.encode(errors="replace")
    document = _parse(response) if isinstance(response, bytes) else response
    entries = document.get(FIELD) if isinstance(document, Mapping) else None
    if not isinstance(entries, list) or not entries:
        raise VerificationError(
            "The explanation has no signatures: set `signing_key` in explainer.config."
        )
    if not all(_is_signature(entry) for entry in entries):
        raise VerificationError(f"The explanation's {FIELD} are not those of an explain server.")
    known = [entry for entry in entries if entry["key_id"] in keys]
    if not known:
        ids = ", ".join(repr(entry["key_id"][:40]) for entry in entries[:4])
        raise VerificationError(f"The explanation is signed with {ids}; no such key was given.")
    try:
        signed = payload(document)
    except rfc8785.CanonicalizationError as problem:
        raise VerificationError(f"The explanation was never signed: {problem}.") from problem
    for entry in known:
        secret = keys[entry["key_id"]].strip()
        if not hmac.compare_digest(signature(secret, signed), entry["value"]):
            raise VerificationError(
                f"The signature with the key {entry['key_id'][:40]!r} does not hold: the explanation was "
                "changed, or the key is another."
            )
    return known[0]["key_id"]


def _parse(response: bytes) -> Any:
    try:
        document = json.loads(response)
        same = isinstance(document, dict) and rfc8785.dumps(document) == response
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as problem:
        raise VerificationError("The explanation is no JSON that was signed.") from problem
    if not same:
        unsigned = isinstance(document, dict) and FIELD not in document
        raise VerificationError(
            "The explanation has no signatures: set `signing_key` in explainer.config."
            if unsigned
            else "The explanation's bytes are not those that were signed; if a proxy writes JSON anew, verify "
            "the parsed response."
        )
    return document


def _is_signature(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and set(entry) == {"algorithm", "key_id", "value"}
        and entry["algorithm"] == ALGORITHM
        and all(isinstance(value, str) and value.isascii() for value in entry.values())
    )
