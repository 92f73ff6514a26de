"""Chunks become age files that the standard tools open, and nothing else than these bytes is ever accepted back."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator

import pyrage
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.backup.chunking import fixed_chunks
from recovery.backup.sealing import Opener, SealedChunk, Sealer, generate_age_key
from recovery.domain.recovery_point import StoredObject
from recovery.errors import BadInput, Corrupt, Unreachable, WrongKey
from tests.fakes.points import AGE


def _entry(sealed: SealedChunk) -> StoredObject:
    return StoredObject(key="k", size=sealed.size, sha256=sealed.sha256, plain_size=sealed.plain_size)


def _entry_for(body: bytes, plain_size: int) -> StoredObject:
    return StoredObject(key="k", size=len(body), sha256=hashlib.sha256(body).hexdigest(), plain_size=plain_size)


async def test_an_object_opens_by_hand_with_age_and_zstd(sealer: Sealer) -> None:
    sealed = await sealer.seal(b"select 1;\n" * 1000)
    assert sealed.body.startswith(b"age-encryption.org/v1\n-> X25519 ")
    assert sealed.size == len(sealed.body) < sealed.plain_size
    assert sealed.sha256 == hashlib.sha256(sealed.body).hexdigest()
    packed = pyrage.decrypt(sealed.body, [pyrage.x25519.Identity.from_str(AGE.secret)])
    assert zstandard.ZstdDecompressor().decompress(packed) == b"select 1;\n" * 1000


@given(st.binary(max_size=4096))
@settings(max_examples=40, deadline=None)
async def test_what_was_sealed_opens_again(sealer: Sealer, opener: Opener, plain: bytes) -> None:
    sealed = await sealer.seal(plain)
    assert await opener.open(_entry(sealed), sealed.body) == plain


@given(st.lists(st.binary(max_size=700), max_size=12), st.integers(1, 400))
@settings(max_examples=60, deadline=None)
async def test_chunking_keeps_every_byte_in_order(buffers: list[bytes], size: int) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for buffer in buffers:
            yield buffer

    chunks = [chunk async for chunk in fixed_chunks(stream(), size)]
    assert b"".join(chunks) == b"".join(buffers)
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert len(chunks) == max(1, -(-sum(map(len, buffers)) // size))


# The header of an age file has a random length: positions are drawn independently of it.
ANYWHERE = st.integers(0, 1_000_000)


@given(st.sampled_from(["flip", "miss", "add", "truncate"]), ANYWHERE, st.integers(1, 255))
@settings(max_examples=150, deadline=None)
async def test_no_flipped_or_missing_byte_is_ever_accepted(
    sealer: Sealer, opener: Opener, how: str, where: int, value: int
) -> None:
    sealed = await sealer.seal(b"a payment of 12 euros" * 40)
    body = bytearray(sealed.body)
    position = where % len(body)
    match how:
        case "flip":
            body[position] ^= value
        case "miss":
            del body[position]
        case "add":
            body.insert(position, value)
        case _:
            del body[position:]
    with pytest.raises(Corrupt):
        await opener.open(_entry(sealed), bytes(body))


@given(ANYWHERE, st.integers(1, 255))
@settings(max_examples=100, deadline=None)
async def test_encryption_alone_catches_a_change_when_somebody_recomputed_the_hash(
    sealer: Sealer, opener: Opener, where: int, value: int
) -> None:
    sealed = await sealer.seal(b"a payment of 12 euros" * 40)
    body = bytearray(sealed.body)
    body[where % len(body)] ^= value
    with pytest.raises((Corrupt, WrongKey)):
        await opener.open(_entry_for(bytes(body), sealed.plain_size), bytes(body))


@pytest.mark.parametrize("change", ["size", "sha256", "plain_size"])
async def test_every_number_of_the_manifest_is_checked(sealer: Sealer, opener: Opener, change: str) -> None:
    sealed = await sealer.seal(b"x" * 100)
    wrong = {"size": sealed.size + 1, "sha256": "0" * 64, "plain_size": 99}[change]
    entry = _entry(sealed).model_copy(update={change: wrong})
    with pytest.raises(Corrupt, match="manifest says"):
        await opener.open(entry, sealed.body)


async def test_a_forged_size_does_not_exhaust_memory(opener: Opener) -> None:
    """A frame that claims a terabyte is refused before anything is allocated for it."""
    recipient = pyrage.x25519.Recipient.from_str(AGE.public)
    frame = zstandard.ZstdCompressor().compress(b"\0" * (64 << 20))
    body = pyrage.encrypt(frame, [recipient])
    with pytest.raises(Corrupt, match="holds 67108864 bytes"):
        await opener.open(_entry_for(body, 10), body)


async def test_trailing_bytes_behind_the_frame_are_corrupt(opener: Opener) -> None:
    recipient = pyrage.x25519.Recipient.from_str(AGE.public)
    body = pyrage.encrypt(zstandard.ZstdCompressor().compress(b"x") + b"more", [recipient])
    with pytest.raises(Corrupt):
        await opener.open(_entry_for(body, 1), body)


async def test_another_key_is_the_wrong_key_not_corruption(sealer: Sealer) -> None:
    sealed = await sealer.seal(b"x" * 100)
    async with Opener([generate_age_key().secret], threads=1) as other:
        with pytest.raises(WrongKey):
            await other.open(_entry(sealed), sealed.body)


async def test_each_of_several_recipients_opens_it_alone() -> None:
    keys = [generate_age_key() for _ in range(3)]
    async with Sealer([key.public for key in keys], threads=1) as sealer:
        sealed = await sealer.seal(b"x" * 100)
    for key in keys:
        async with Opener([f"# created: today\n# public key: {key.public}\n{key.secret}\n"], threads=1) as opener:
            assert await opener.open(_entry(sealed), sealed.body) == b"x" * 100


async def test_secrets_are_in_no_repr_and_no_error(opener: Opener) -> None:
    with pytest.raises(Corrupt) as caught:
        await opener.open(_entry_for(b"no age file", 1), b"no age file")
    errors = caught.value, caught.value.__cause__
    for shown in (repr(AGE), repr(opener), repr(vars(opener)), *map(repr, errors)):
        assert AGE.secret[16:40] not in shown


@pytest.mark.parametrize("texts", [[], ["age1nonsense"], ["ssh-ed25519 AAAA"], [AGE.public, ""]])
def test_a_bad_recipient_is_said_at_once(texts: list[str]) -> None:
    with pytest.raises(BadInput, match="age"):
        Sealer(texts)


def test_a_recipient_that_is_nobodys_key_is_said_before_the_first_backup() -> None:
    with pytest.raises(BadInput, match="nobody's public key"):
        Sealer([AGE.public, "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z"])  # the point 0


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    damaged = AGE.secret[:-1] + ("Q" if AGE.secret[-1] != "Q" else "P")
    for make in (lambda: Sealer([AGE.secret]), lambda: Opener([damaged])):
        with pytest.raises(BadInput) as caught:
            make()
        assert AGE.secret[16:40] not in str(caught.value)


class Held:
    """Compression that waits until ``let_go`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.begins = 0
        monkeypatch.setattr("recovery.backup.sealing.packed", self._packed)

    def _packed(self, chunk: bytes, level: int) -> bytes:
        self.begins += 1
        self.begun.set()
        assert self.let_go.wait(10)
        return zstandard.ZstdCompressor(level=level).compress(chunk)


async def test_closing_waits_for_chunks_in_work_and_begins_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    sealer = Sealer([AGE.public], threads=1)
    first, second = (asyncio.ensure_future(sealer.seal(b"x")) for _ in range(2))
    await asyncio.to_thread(held.begun.wait, 10)
    closing = asyncio.ensure_future(sealer.close())
    await asyncio.sleep(0)
    assert not closing.done()
    held.let_go.set()
    await closing
    assert (await first).plain_size == 1
    with pytest.raises(Unreachable, match="was closed"):
        await second
    with pytest.raises(Unreachable, match="was closed"):
        await sealer.seal(b"y")
    assert held.begins == 1


async def test_closing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recovery.backup.sealing.CLOSE_SECONDS", 0.01)
    held = Held(monkeypatch)
    sealer = Sealer([AGE.public], threads=1)
    work = asyncio.ensure_future(sealer.seal(b"x"))
    await asyncio.to_thread(held.begun.wait, 10)
    await asyncio.wait_for(sealer.close(), 5)
    assert not work.done()
    held.let_go.set()
    await work


async def test_who_stops_waiting_for_a_chunk_does_not_wait_for_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    async with Sealer([AGE.public], threads=1) as sealer:
        first, second = (asyncio.ensure_future(sealer.seal(b"x")) for _ in range(2))
        await asyncio.to_thread(held.begun.wait, 10)
        for work in (first, second):
            work.cancel()
        await asyncio.wait({first, second}, timeout=5)
        assert first.cancelled()
        assert second.cancelled()
        held.let_go.set()
        assert (await sealer.seal(b"yz")).plain_size == 2
    assert held.begins == 2  # what nobody waited for was not begun
