"""Manifests and verdicts: signed, and believed only byte for byte."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.backup.documents import read_manifest, read_verdict, sign_manifest, sign_verdict
from recovery.backup.layout import object_key, point_prefix, safe_name, verdict_key
from recovery.backup.signing import Signer, Verifier, canonical_json, generate_signing_key
from recovery.domain.recovery_point import CheckResult, Manifest, Verdict
from recovery.errors import BadInput, Corrupt, WrongKey
from tests.fakes.points import SIGNING, identity, point, signer, verdict_on, verifier

MANIFEST = point(1).manifest
SIGNED = sign_manifest(MANIFEST, signer())
VERDICT = verdict_on(MANIFEST, SIGNED.digest).model_copy(
    update={"checks": [CheckResult(name="tables", passed=True, detail="ü 12 €", seconds=0.1)]}
)
BODIES = {"manifest": SIGNED.body, "verdict": sign_verdict(VERDICT, signer())}


def _read(what: str, body: bytes, trusted: Verifier | None = None) -> Manifest | Verdict:
    known = trusted or verifier()
    if what == "manifest":
        return read_manifest(body, known, group="shop", point_id="point-1").manifest
    return read_verdict(body, known, group="shop", point_id="point-1")


def test_documents_read_back_as_they_were_written() -> None:
    assert _read("manifest", BODIES["manifest"]) == MANIFEST
    assert _read("verdict", BODIES["verdict"]) == VERDICT
    again = read_manifest(SIGNED.body, verifier(), group="shop", point_id="point-1")
    assert again.digest == SIGNED.digest


@pytest.mark.parametrize("what", ["manifest", "verdict"])
def test_no_single_flipped_byte_is_accepted(what: str) -> None:
    """Every byte, with several values each: in the payload, the signature, the key's id and the punctuation."""
    body = BODIES[what]
    for position in range(len(body)):
        for change in (1, 2, 0x20, 0x80):
            altered = bytearray(body)
            altered[position] ^= change
            with pytest.raises((Corrupt, WrongKey)):
                _read(what, bytes(altered))


@pytest.mark.parametrize("what", ["manifest", "verdict"])
def test_no_missing_doubled_or_added_byte_is_accepted(what: str) -> None:
    body = BODIES[what]
    for position in range(len(body)):
        for altered in (
            body[:position] + body[position + 1 :],
            body[:position],
            body[:position] + b" " + body[position:],
            body[: position + 1] + body[position:],
        ):
            with pytest.raises((Corrupt, WrongKey)):
                _read(what, altered)


def test_the_signature_has_one_spelling_only() -> None:
    """The last base64 character of 64 bytes has four unused bits: fifteen other characters decode to the same."""
    value = json.loads(SIGNED.body)["signature"]["value"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    others = [f"{value[:85]}{letter}==" for letter in alphabet if letter != value[85]]
    same = [text for text in others if base64.b64decode(text) == base64.b64decode(value)]
    assert len(same) == 15
    for text in same:
        with pytest.raises(Corrupt, match="canonical base64"):
            _read("manifest", _resigned({"value": text}))


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_other_bytes_are_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        _read("manifest", body)


def _resigned(change: dict[str, object], drop: str = "") -> bytes:
    envelope = json.loads(SIGNED.body)
    envelope["signature"].update(change)
    envelope["signature"].pop(drop, None)
    return canonical_json(envelope)


@pytest.mark.parametrize(
    "body",
    [
        canonical_json({"payload": json.loads(SIGNED.body)["payload"]}),
        canonical_json({**json.loads(SIGNED.body), "signature": None}),
        canonical_json({**json.loads(SIGNED.body), "more": 1}),
        _resigned({"algorithm": "none"}),
        _resigned({"value": ""}),
        _resigned({"value": base64.b64encode(b"\0" * 64).decode()}),
        _resigned({"value": 7}),
        _resigned({}, drop="key_id"),
        json.dumps(json.loads(SIGNED.body), indent=1).encode(),
        b'{"payload":{"a":NaN},"signature":{}}',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_an_unsigned_or_odd_document_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        _read("manifest", body)


def test_an_unknown_signer_is_the_wrong_key_and_both_are_named() -> None:
    forger = Signer(generate_signing_key().secret)
    with pytest.raises(WrongKey, match=forger.key_id) as caught:
        _read("manifest", sign_manifest(MANIFEST, forger).body)
    assert signer().key_id in str(caught.value)


def test_a_forger_cannot_borrow_the_trusted_keys_id() -> None:
    forged = json.loads(sign_manifest(MANIFEST, Signer(generate_signing_key().secret)).body)
    forged["signature"]["key_id"] = signer().key_id
    with pytest.raises(Corrupt, match="signature"):
        _read("manifest", canonical_json(forged))


def test_one_of_several_trusted_keys_is_enough() -> None:
    other = generate_signing_key()
    known = Verifier([other.public, SIGNING.public])
    assert _read("manifest", sign_manifest(MANIFEST, Signer(other.secret)).body, known) == MANIFEST
    assert _read("manifest", SIGNED.body, known) == MANIFEST


def test_a_manifest_speaks_only_for_its_own_place() -> None:
    with pytest.raises(Corrupt, match="belongs to shop/point-1"):
        read_manifest(SIGNED.body, verifier(), group="shop", point_id="point-2")
    with pytest.raises(Corrupt, match="belongs to"):
        read_manifest(SIGNED.body, verifier(), group="pay", point_id="point-1")
    with pytest.raises(Corrupt, match="belongs to"):
        read_verdict(BODIES["verdict"], verifier(), group="shop", point_id="point-2")


@pytest.mark.parametrize("key", ["shop/postgres/point-2/a/x", "ownership/shop.json", "shop/postgres/point-1/../x"])
def test_a_manifest_names_no_object_of_another_place(key: str) -> None:
    artefact = MANIFEST.artefacts[0]
    foreign = artefact.model_copy(update={"objects": [artefact.objects[0].model_copy(update={"key": key})]})
    body = sign_manifest(MANIFEST.model_copy(update={"artefacts": [foreign]}), signer()).body
    with pytest.raises(Corrupt, match="outside its point"):
        _read("manifest", body)


def test_a_document_of_another_kind_is_not_believed() -> None:
    with pytest.raises(Corrupt):
        _read("manifest", BODIES["verdict"])
    with pytest.raises(Corrupt):
        _read("verdict", BODIES["manifest"])


def test_a_newer_format_is_said_and_newer_fields_of_this_one_are_ignored() -> None:
    payload = MANIFEST.model_dump(mode="json")
    with pytest.raises(Corrupt, match="format is 2"):
        _read("manifest", signer().sign({**payload, "format": 2}))
    assert _read("manifest", signer().sign({**payload, "future": {"x": 1}})) == MANIFEST


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519-secret:AAAA", "AGE-SECRET-KEY-1XYZ", "ed25519-secret:!!"])
def test_a_bad_key_is_said_and_never_repeated(text: str) -> None:
    for make in (lambda: Signer(text), lambda: Verifier([text])):
        with pytest.raises(BadInput, match="44 base64 characters") as caught:
            make()
        assert "XYZ" not in str(caught.value)


def test_a_secret_key_is_not_shown() -> None:
    key = generate_signing_key()
    assert key.secret not in repr(key) + repr(Signer(key.secret))
    assert Signer(key.secret).public_key == key.public
    with pytest.raises(BadInput):
        Verifier([key.secret])
    with pytest.raises(BadInput, match="no trusted"):
        Verifier([])


def test_keys_hold_what_people_name_their_databases() -> None:
    assert object_key(identity(), "my shop/ü.dump", 3).endswith("/my%20shop%2F%C3%BC.dump.000003.zst.age")
    for bad in ("", "../x", ".hidden", "a/b", "a b"):
        with pytest.raises(BadInput):
            safe_name(bad, "group")
        with pytest.raises(BadInput):
            point_prefix("shop", bad)


def test_two_validations_of_one_moment_have_two_places() -> None:
    assert verdict_key(VERDICT) != verdict_key(VERDICT.model_copy(update={"location": "b"}))
    assert verdict_key(VERDICT).startswith("shop/postgres/point-1/verdicts/20261122T101500")
