"""What Temporal stores is unreadable without the key, and a changed byte is noticed."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload

from recovery.errors import BadInput, WrongKey
from workers.codec import EncryptionCodec

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(range(1, 33))).decode()


def payload(data: bytes) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=data)


async def test_round_trip_and_nothing_readable():
    codec = EncryptionCodec(KEY)
    sealed = await codec.encode([payload(b"the shop's secret")])
    assert b"secret" not in sealed[0].SerializeToString()
    assert b"json/plain" not in sealed[0].SerializeToString()
    assert await codec.decode(sealed) == [payload(b"the shop's secret")]


async def test_same_payload_is_never_encrypted_alike():
    codec = EncryptionCodec(KEY)
    first, second = await codec.encode([payload(b"x"), payload(b"x")])
    assert first.data != second.data


async def test_another_key_is_said_and_not_guessed():
    sealed = await EncryptionCodec(KEY).encode([payload(b"x")])
    with pytest.raises(WrongKey, match="payload_key"):
        await EncryptionCodec(OTHER).decode(sealed)


@given(position=st.integers(0, 60), flip=st.integers(1, 255))
async def test_any_changed_byte_is_noticed(position: int, flip: int):
    codec = EncryptionCodec(KEY)
    (sealed,) = await codec.encode([payload(b"forty bytes of something that matters...")])
    data = bytearray(sealed.data)
    data[position % len(data)] ^= flip
    sealed.data = bytes(data)
    with pytest.raises(WrongKey):
        await codec.decode([sealed])


async def test_histories_from_before_encryption_stay_readable():
    plain = payload(b"old")
    assert await EncryptionCodec(KEY).decode([plain]) == [plain]


@pytest.mark.parametrize(
    "key", ["", "short", "not base64!", base64.b64encode(b"31 bytes are not enough at all").decode()]
)
def test_a_key_that_is_none_is_refused_without_echoing_it(key: str):
    with pytest.raises(BadInput) as caught:
        EncryptionCodec(key)
    assert "32 random bytes" in str(caught.value)
    assert not key or key not in str(caught.value)
