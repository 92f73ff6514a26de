"""The age file format, version 1, for X25519 recipients: one file in memory becomes another.

Source of the format: https://age-encryption.org/v1 (C2SP, "age"), whose words are used here. Binary files only, no
passphrases, no plugins: stanzas of other recipients are left to those whom they are for.
"""

from __future__ import annotations

import binascii
import hmac
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from recovery.errors import Corrupt, WrongKey

VERSION_LINE = b"age-encryption.org/v1\n"
CHUNK_BYTES = 64 << 10
TAG_BYTES = 16
FILE_KEY_BYTES = 16
NONCE_BYTES = 16


class Digest(Protocol):
    """One of :mod:`hashlib`."""

    def update(self, data: bytes, /) -> None: ...


_X25519 = b"X25519"
_WRAP_INFO = b"age-encryption.org/v1/X25519"
_WRAP_NONCE = bytes(12)
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_CHECKSUM = 6  # characters
_STANZA = re.compile(rb"-> ([!-~]+(?: [!-~]+)*)\n((?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63})\n")
_END = re.compile(rb"--- ([A-Za-z0-9+/]{43})\n")


def public_key(recipient: str) -> X25519PublicKey:
    """Of a recipient (``age1...``) that was parsed before.

    Raises ValueError for one of small order, which is nobody's public key: no exchange with it succeeds.
    """
    key = X25519PublicKey.from_public_bytes(_bech32_data(recipient))
    X25519PrivateKey.generate().exchange(key)
    return key


def private_key(identity: str) -> X25519PrivateKey:
    """Of an identity (``AGE-SECRET-KEY-1...``) that was parsed before."""
    return X25519PrivateKey.from_private_bytes(_bech32_data(identity))


def _bech32_data(text: str) -> bytes:
    """32 bytes. The checksum is not looked at again."""
    number = 0
    for character in text.lower().rpartition("1")[2][:-_CHECKSUM]:
        number = number << 5 | _BECH32.index(character)
    return (number >> 4).to_bytes(32)  # 52 characters of 5 bits, the last 4 bits are padding


def seal(plain: bytes, recipients: Sequence[X25519PublicKey], digest: Digest | None = None) -> bytes:
    """A complete file that each of ``recipients`` opens alone. They are :func:`public_key`'s.

    ``digest`` is updated with the file chunk by chunk, while each is still in the processor's cache.
    """
    parts = []
    for part in _sealed(memoryview(plain), recipients):
        if digest is not None:
            digest.update(part)
        parts.append(part)
    return b"".join(parts)


def _sealed(plain: memoryview, recipients: Sequence[X25519PublicKey]) -> Iterator[bytes]:
    """Each chunk is a buffer of its own, in memory that was just used for another one. A buffer for the whole file is
    fresh memory each time, and the kernel takes longer to give that than the encryption into it.
    """
    file_key, nonce = os.urandom(FILE_KEY_BYTES), os.urandom(NONCE_BYTES)
    header = VERSION_LINE + b"".join(_stanza(file_key, recipient) for recipient in recipients) + b"---"
    yield header + b" " + _base64(_header_mac(file_key, header)) + b"\n" + nonce
    cipher = ChaCha20Poly1305(_hkdf(file_key, nonce, b"payload"))
    for index, chunk_nonce in enumerate(_chunk_nonces(max(1, -(-len(plain) // CHUNK_BYTES)))):
        yield cipher.encrypt(chunk_nonce, plain[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES], None)


def unseal(stored: bytes, identities: Sequence[X25519PrivateKey]) -> bytearray:
    """The plain bytes.

    Raises:
        Corrupt: it is no sound age file.
        WrongKey: its header is well-formed, and none of ``identities`` opens it.
    """
    stanzas, end = _parsed_header(stored)
    file_key = _file_key(stanzas, identities)
    if not hmac.compare_digest(_header_mac(file_key, stored[: end.start() + 3]), _decoded(end[1])):
        raise Corrupt("it is no sound age file: its header was changed")
    nonce = stored[end.end() : end.end() + NONCE_BYTES]
    if len(nonce) < NONCE_BYTES:
        raise Corrupt("it is no sound age file: it ends behind its header")
    cipher = ChaCha20Poly1305(_hkdf(file_key, nonce, b"payload"))
    return _payload(cipher, memoryview(stored)[end.end() + NONCE_BYTES :])


def _payload(cipher: ChaCha20Poly1305, sealed: memoryview) -> bytearray:
    whole = CHUNK_BYTES + TAG_BYTES
    count = max(1, -(-len(sealed) // whole))
    last = len(sealed) - (count - 1) * whole
    if last < TAG_BYTES or (last == TAG_BYTES and count > 1):
        raise Corrupt("it is no sound age file: it ends in mid-chunk")
    plain = bytearray(len(sealed) - count * TAG_BYTES)
    target = memoryview(plain)
    for index, chunk_nonce in enumerate(_chunk_nonces(count)):
        chunk = sealed[index * whole : (index + 1) * whole]
        place = target[index * CHUNK_BYTES :][: len(chunk) - TAG_BYTES]
        try:
            cipher.decrypt_into(chunk_nonce, chunk, None, place)
        except InvalidTag:
            raise Corrupt(
                f"it is no sound age file: chunk {index} of {count} was changed, or is not its last"
            ) from None
    return plain


def _chunk_nonces(count: int) -> Iterator[bytes]:
    for index in range(count):
        yield index.to_bytes(11) + (b"\1" if index == count - 1 else b"\0")


def _stanza(file_key: bytes, recipient: X25519PublicKey) -> bytes:
    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes_raw()
    salt = share + recipient.public_bytes_raw()
    wrap_key = _hkdf(ephemeral.exchange(recipient), salt, _WRAP_INFO)
    body = ChaCha20Poly1305(wrap_key).encrypt(_WRAP_NONCE, file_key, None)
    return b"-> X25519 " + _base64(share) + b"\n" + _base64(body) + b"\n"  # 43 columns: one short line


def _file_key(stanzas: Sequence[tuple[list[bytes], bytes]], identities: Sequence[X25519PrivateKey]) -> bytes:
    for arguments, body in stanzas:
        if arguments[0] != _X25519:
            continue
        share = _decoded(arguments[1]) if len(arguments) == 2 else b""
        if len(share) != 32 or len(body) != FILE_KEY_BYTES + TAG_BYTES:
            raise Corrupt("it is no sound age file: a stanza for X25519 is malformed")
        for identity in identities:
            try:
                secret = identity.exchange(X25519PublicKey.from_public_bytes(share))
            except ValueError:  # the shared secret would be all zero
                raise Corrupt("it is no sound age file: a stanza's share is of small order") from None
            wrap_key = _hkdf(secret, share + identity.public_key().public_bytes_raw(), _WRAP_INFO)
            try:
                return ChaCha20Poly1305(wrap_key).decrypt(_WRAP_NONCE, body, None)
            except InvalidTag:
                continue
    raise WrongKey("no identity at hand opens it")


def _parsed_header(stored: bytes) -> tuple[list[tuple[list[bytes], bytes]], re.Match[bytes]]:
    """Arguments and body of each stanza, and the line with the MAC."""
    if not stored.startswith(VERSION_LINE):
        raise Corrupt("it is no age file of version 1")
    stanzas, position = [], len(VERSION_LINE)
    while stanza := _STANZA.match(stored, position):
        stanzas.append((stanza[1].split(b" "), _decoded(stanza[2].replace(b"\n", b""))))
        position = stanza.end()
    end = _END.match(stored, position)
    if end is None or not stanzas:
        raise Corrupt("it is no sound age file: its header is malformed")
    return stanzas, end


def _header_mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(_hkdf(file_key, b"", b"header"), header, "sha256")


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


def _base64(raw: bytes) -> bytes:
    return b64encode(raw).rstrip(b"=")


def _decoded(text: bytes) -> bytes:
    """Canonical base64 without padding only."""
    try:
        raw = b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raw = b""
    if _base64(raw) != text:
        raise Corrupt("it is no sound age file: its header is not in canonical base64")
    return raw
