"""The age file format: what we write another implementation reads and the other way round, and nothing else opens."""

from __future__ import annotations

import os
from base64 import b64encode
from types import SimpleNamespace

import pyrage
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recovery.backup import age
from recovery.errors import Corrupt, WrongKey

KEYS = [pyrage.x25519.Identity.generate() for _ in range(3)]
PUBLIC = [age.public_key(str(key.to_public())) for key in KEYS]
PRIVATE = [age.private_key(str(key)) for key in KEYS]
CHUNK = age.CHUNK_BYTES
BORDERS = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, 5 * CHUNK)
SIZES = st.one_of(st.integers(0, 3 * CHUNK), st.sampled_from(BORDERS))
RECIPIENTS = st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)
RANDOM = os.urandom(5 * CHUNK)


@given(SIZES, RECIPIENTS)
@settings(max_examples=40, deadline=None)
@example(0, [0])
@example(CHUNK, [0, 1, 2])
@example(2 * CHUNK, [1])
def test_another_implementation_opens_what_was_sealed(size: int, chosen: list[int]) -> None:
    stored = age.seal(RANDOM[:size], [PUBLIC[number] for number in chosen])
    for number in chosen:
        assert pyrage.decrypt(stored, [KEYS[number]]) == RANDOM[:size]
        assert age.unseal(stored, [PRIVATE[number]]) == RANDOM[:size]


@given(SIZES, RECIPIENTS)
@settings(max_examples=40, deadline=None)
@example(0, [0])
@example(CHUNK, [0, 1, 2])
@example(2 * CHUNK, [1])
def test_what_another_implementation_sealed_opens(size: int, chosen: list[int]) -> None:
    stored = pyrage.encrypt(RANDOM[:size], [KEYS[number].to_public() for number in chosen])
    for number in chosen:
        assert age.unseal(stored, [PRIVATE[number]]) == RANDOM[:size]
    others = [PRIVATE[number] for number in range(3) if number not in chosen]
    with pytest.raises(WrongKey):
        age.unseal(stored, others)
    assert age.unseal(stored, [*others, PRIVATE[chosen[0]]]) == RANDOM[:size]


def test_keys_are_those_of_their_texts() -> None:
    for _ in range(200):
        key = pyrage.x25519.Identity.generate()
        derived = age.private_key(str(key)).public_key().public_bytes_raw()
        assert age.public_key(str(key.to_public())).public_bytes_raw() == derived
    # The examples of the format's own text.
    secret = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
    public = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"
    assert age.private_key(secret).private_bytes_raw() == b"B" * 32
    assert age.private_key(secret).public_key().public_bytes_raw() == age.public_key(public).public_bytes_raw()


def test_two_files_of_equal_bytes_have_nothing_in_common() -> None:
    one, other = (age.seal(b"x" * 100, PUBLIC[:1]) for _ in range(2))
    assert one[len(age.VERSION_LINE) + len("-> X25519 ") :][:43] not in other
    assert one[-116:] != other[-116:]


@pytest.mark.parametrize("write", [age.seal, lambda plain, keys: pyrage.encrypt(plain, [KEYS[0].to_public()])])
def test_no_flipped_bit_ever_opens(write) -> None:
    stored = write(b"a payment of 12 euros", PUBLIC[:1])
    for position in range(len(stored)):
        for bit in (1, 0x20, 0x80):
            changed = bytearray(stored)
            changed[position] ^= bit
            with pytest.raises((Corrupt, WrongKey)):
                age.unseal(bytes(changed), PRIVATE[:1])


def test_no_beginning_of_a_file_opens() -> None:
    stored = age.seal(b"a payment of 12 euros", PUBLIC[:2])
    for length in range(len(stored)):
        with pytest.raises(Corrupt):
            age.unseal(stored[:length], PRIVATE[:1])


@pytest.mark.parametrize("size", [CHUNK, 2 * CHUNK, 3 * CHUNK + 7])
def test_a_file_cut_at_a_border_of_chunks_is_refused(size: int) -> None:
    stored = age.seal(RANDOM[:size], PUBLIC[:1])
    whole = CHUNK + age.TAG_BYTES
    start = len(stored) - size - -(-size // CHUNK) * age.TAG_BYTES
    for end in range(start, len(stored), whole):
        for length in (end, end + age.TAG_BYTES, end + age.TAG_BYTES - 1):
            with pytest.raises(Corrupt):
                age.unseal(stored[: min(length, len(stored) - 1)], PRIVATE[:1])


@pytest.mark.parametrize("size", [0, 5, CHUNK, 2 * CHUNK])
def test_appended_swapped_and_repeated_bytes_are_refused(size: int) -> None:
    stored = age.seal(RANDOM[:size], PUBLIC[:1])
    last = stored[-((size - 1) % CHUNK + 1 if size else 0) - age.TAG_BYTES :]
    for more in (b"\0", last, b"\0" * age.TAG_BYTES, stored):
        with pytest.raises(Corrupt):
            age.unseal(stored + more, PRIVATE[:1])
    if size == 2 * CHUNK:
        whole = CHUNK + age.TAG_BYTES
        with pytest.raises(Corrupt):
            age.unseal(stored[: -2 * whole] + stored[-whole:] + stored[-2 * whole : -whole], PRIVATE[:1])


def test_an_empty_last_chunk_behind_a_full_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format forbids it: a payload has one form only."""
    monkeypatch.setattr(age, "os", SimpleNamespace(urandom=bytes))  # file key and nonce are zero bytes
    start = age.seal(b"", PUBLIC[:1])[: -age.TAG_BYTES]
    cipher = ChaCha20Poly1305(age._hkdf(bytes(16), bytes(16), b"payload"))
    last, not_last = bytes(11) + b"\1", bytes(12)
    assert age.unseal(start + cipher.encrypt(last, RANDOM[:CHUNK], None), PRIVATE[:1]) == RANDOM[:CHUNK]
    full = cipher.encrypt(not_last, RANDOM[:CHUNK], None)
    assert age.unseal(start + full + cipher.encrypt(bytes(10) + b"\1\1", b"x", None), PRIVATE[:1])[CHUNK:] == b"x"
    with pytest.raises(Corrupt, match="mid-chunk"):
        age.unseal(start + full + cipher.encrypt(bytes(10) + b"\1\1", b"", None), PRIVATE[:1])


def stanza_by(kind: str, *, body: bytes = b"") -> bytes:
    text = b64encode(body).rstrip(b"=")
    lines = [text[at : at + 64] for at in range(0, len(text) + 1, 64)]
    return b"-> " + kind.encode() + b"\n" + b"\n".join(lines) + b"\n"


def with_stanza(monkeypatch: pytest.MonkeyPatch, stanza: bytes, *, first: bool) -> bytes:
    """A file whose header has one more stanza, under its MAC."""
    ours = age._stanza
    monkeypatch.setattr(age, "_stanza", lambda *args: stanza + ours(*args) if first else ours(*args) + stanza)
    stored = age.seal(b"hello", PUBLIC[:1])
    monkeypatch.setattr(age, "_stanza", ours)
    return stored


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("size", [0, 32, 48, 47, 100])
def test_a_stanza_for_somebody_else_is_passed_over(monkeypatch: pytest.MonkeyPatch, first: bool, size: int) -> None:
    stored = with_stanza(monkeypatch, stanza_by("example.com/enigma one ~!", body=b"e" * size), first=first)
    assert pyrage.decrypt(stored, [KEYS[0]]) == b"hello"
    assert age.unseal(stored, PRIVATE[:1]) == b"hello"


SHARE = b64encode(b"\x09" + bytes(31)).rstrip(b"=").decode()  # the base point


@pytest.mark.parametrize(
    "stanza",
    [
        stanza_by("X25519", body=bytes(32)),
        stanza_by(f"X25519 {SHARE} more", body=bytes(32)),
        stanza_by(f"X25519 {SHARE}", body=bytes(31)),
        stanza_by(f"X25519 {SHARE}", body=bytes(48)),
        stanza_by("X25519 " + SHARE[:-1], body=bytes(32)),
        stanza_by("X25519 " + SHARE + "=", body=bytes(32)),
        stanza_by("X25519 " + "A" * 43, body=bytes(32)),  # the shared secret would be all zero
        stanza_by("other", body=bytes(31))[:-2] + b"B\n",  # not canonical
        b"-> other  two-spaces\n\n",
        b"-> \n\n",
        b"->other\n\n",
        b"-> other\r\n\r\n",
    ],
)
def test_a_malformed_stanza_is_refused(monkeypatch: pytest.MonkeyPatch, stanza: bytes) -> None:
    stored = with_stanza(monkeypatch, stanza, first=True)
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(stored, [KEYS[0]])
    with pytest.raises(Corrupt):
        age.unseal(stored, PRIVATE[:1])


def test_a_stanza_without_a_short_line_at_its_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = with_stanza(monkeypatch, b"-> other\n" + b"A" * 64 + b"\n", first=True)
    with pytest.raises(Corrupt):
        age.unseal(stored, PRIVATE[:1])


def test_a_header_under_another_mac_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = age.seal(b"hello", PUBLIC[:1])
    start = one.index(b"--- ")
    changed = one[:start] + stanza_by("example.com/enigma one") + one[start:]
    with pytest.raises(Corrupt, match="header was changed"):
        age.unseal(changed, PRIVATE[:1])


@pytest.mark.parametrize("version", [b"age-encryption.org/v2\n", b"age-encryption.org/v1\r\n", b"", b"\n"])
def test_another_version_is_refused(version: bytes) -> None:
    stored = age.seal(b"hello", PUBLIC[:1])
    with pytest.raises(Corrupt):
        age.unseal(version + stored[len(age.VERSION_LINE) :], PRIVATE[:1])


def test_a_header_without_stanzas_is_refused() -> None:
    with pytest.raises(Corrupt, match="malformed"):
        age.unseal(age.VERSION_LINE + b"--- " + b"A" * 43 + b"\n" + bytes(48), PRIVATE[:1])
