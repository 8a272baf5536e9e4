"""Signatures of explanations: canonical form, every byte, rotation, keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.serving.common.errors import ServingError
from helpers.serving.explain.production.keys import read_key
from helpers.serving.explain.production.signing import Key, Signer, key_id
from helpers.verify import VerificationError, verify

OLD, NEW = Key("2026-10", b"old" * 11), Key("2026-11", b"new" * 11)
DOCUMENT = {
    "meta": {"name": "KernelShap", "params": {"seed": 2**32 - 1, "threshold": 1e-7}},
    "data": {"shap_values": [[0.1 + 0.2, -3.0, 12345.678]], "names": ["Größe", "a\u2028b"]},
}


def test_a_signed_response_is_verified_as_bytes_and_as_values() -> None:
    signed = Signer([NEW]).sign(DOCUMENT)
    body = json.loads(signed)
    assert {name: body[name] for name in DOCUMENT} == DOCUMENT
    keys = {NEW.id: NEW.secret}
    assert verify(signed, keys) == verify(body, keys) == verify(signed.decode(), keys) == NEW.id
    assert verify(json.loads(json.dumps(body, indent=3)), keys) == NEW.id
    assert NEW.secret not in signed


def test_every_changed_byte_fails() -> None:
    signed = Signer([NEW]).sign(DOCUMENT)
    for place in range(len(signed)):
        for flip in (0x01, 0x20):  # the second turns e into E and a letter's case
            changed = bytearray(signed)
            changed[place] ^= flip
            with pytest.raises(VerificationError):
                verify(bytes(changed), {NEW.id: NEW.secret})
    for changed in (signed + b" ", signed[:-1], b"", signed.replace(b'"data"', b'"data" ')):
        with pytest.raises(VerificationError):
            verify(changed, {NEW.id: NEW.secret})


def test_a_key_is_changed_without_an_unverifiable_response() -> None:
    before, between, after = (Signer(keys).sign(DOCUMENT) for keys in ([OLD], [NEW, OLD], [NEW]))
    old, new = {OLD.id: OLD.secret}, {NEW.id: NEW.secret}
    assert verify(between, old) == OLD.id
    assert verify(between, new) == verify(between, {**old, **new}) == NEW.id
    for signed in (before, between, after):
        verify(signed, {**old, **new})
    for signed, keys in ((before, new), (after, old)):
        with pytest.raises(VerificationError, match="no such key"):
            verify(signed, keys)
    changed = json.loads(between)
    changed["signatures"][1]["value"] = "0" * 64
    verify(changed, new)  # who knows one key cannot see it
    with pytest.raises(VerificationError, match="does not hold"):
        verify(changed, {**old, **new})


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["data"]["shap_values"][0].reverse(),
        lambda body: body.update(more=1),
        lambda body: body.pop("meta"),
        lambda body: body["signatures"][0].update(key_id="2026-12"),
        lambda body: body["signatures"].append(body["signatures"][0]),
        lambda body: body["signatures"].clear(),
        lambda body: body.pop("signatures"),
        lambda body: body["signatures"][0].update(algorithm="none"),
        lambda body: body["signatures"][0].update(value=None),
        lambda body: body.update(signatures="yes"),
    ],
)
def test_changed_values_fail(change: Any) -> None:
    body = json.loads(Signer([NEW]).sign(DOCUMENT))
    change(body)
    with pytest.raises(VerificationError):
        verify(body, {NEW.id: NEW.secret, "2026-12": OLD.secret})


def test_an_unsigned_response_says_what_to_set() -> None:
    for unsigned in (b'{"data":{},"meta":{}}', b'{ "data": {}}'):
        with pytest.raises(VerificationError, match="signing_key"):
            verify(unsigned, {NEW.id: NEW.secret})


def test_two_keys_need_two_ids() -> None:
    with pytest.raises(ServingError, match="2026-11"):
        Signer([NEW, Key(NEW.id, OLD.secret)])


def test_an_id_of_its_own() -> None:
    assert key_id(OLD.secret) != key_id(NEW.secret)
    assert repr(OLD.secret) not in repr(OLD)


def test_keys_come_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_bytes(NEW.secret + b"\n")
    monkeypatch.setenv("SIGNING_KEY", NEW.secret.decode() + "\n")
    assert read_key("signing_key", f"file:{file}") == NEW.secret
    assert read_key("signing_key", "env:SIGNING_KEY") == NEW.secret


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("file:/nowhere/key", "/nowhere/key cannot be read"),
        ("file:", "cannot be read"),
        ("env:NO_SUCH_NAME", "NO_SUCH_NAME"),
        ("0123456789abcdef0123456789abcdef", "not a key itself"),
    ],
)
def test_what_is_no_key_is_told(source: str, says: str) -> None:
    with pytest.raises(ServingError, match=says) as told:
        read_key("signing_key", source)
    assert "signing_key" in str(told.value)
    assert "0123456789abcdef" not in str(told.value)


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short\n")
    with pytest.raises(ServingError, match="5 bytes"):
        read_key("signing_key", f"file:{tmp_path / 'key'}")
