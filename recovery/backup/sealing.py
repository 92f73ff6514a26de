"""Chunks become objects and objects become chunks again.

An object is a complete age file (https://age-encryption.org/v1, binary, X25519 recipients) around one zstd frame: by
hand ``age -d -i key object | zstd -d``. The work is done in processes, several chunks at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

import pyrage

from recovery.backup.process_pool import ProcessPool
from recovery.domain.recovery_point import StoredObject
from recovery.errors import BadInput, Corrupt, WrongKey

CHUNK_BYTES = 8 << 20
CHUNK_SECONDS = 120.0  # a chunk takes about 0.1 s; a process that needs this long hangs


@dataclass(frozen=True)
class SealedChunk:
    """``body`` is what is stored; ``sha256`` (hex) and ``size`` are of these bytes, ``plain_size`` of the chunk."""

    body: bytes
    sha256: str
    size: int
    plain_size: int


class _Pooled:
    _pool: ProcessPool

    @property
    def pids(self) -> list[int]:
        """Process ids of the processes that were started so far."""
        return self._pool.pids

    async def close(self) -> None:
        """Ends the processes. Chunks in work fail with Unreachable."""
        await self._pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Sealer(_Pooled):
    """Compresses and encrypts for ``recipients``. Knows public keys only.

    Args:
        recipients: age public keys, ``age1...``; each of them alone opens every object.
        processes: chunks in work at once, each in a process of about 50 MB.

    Raises:
        BadInput: no recipient, or one that is no X25519 public key.
    """

    def __init__(self, recipients: list[str], processes: int = 2) -> None:
        self.recipients = [_recipient(text) for text in recipients]
        if not self.recipients:
            raise BadInput("no age recipient is configured: give at least one public key, e.g. age1qx...")
        self._pool = ProcessPool({"recipients": self.recipients}, processes=processes, timeout=CHUNK_SECONDS)

    async def seal(self, chunk: bytes, level: int = 1) -> SealedChunk:
        """``level`` is zstd's. Raises Unreachable when the process dies; the chunk may be given again."""
        answer, body = await self._pool.ask({"level": level}, chunk)
        return SealedChunk(body=body, sha256=answer["sha256"], size=len(body), plain_size=len(chunk))


class Opener(_Pooled):
    """Checks, decrypts and decompresses with ``identities``, which go to the processes through a pipe only.

    Args:
        identities: ``AGE-SECRET-KEY-1...`` each, or whole key files with their comment lines.

    Raises:
        BadInput: nothing that is an identity. The message never repeats what was given.
    """

    def __init__(self, identities: list[str], processes: int = 2) -> None:
        keys = [line.strip() for text in identities for line in text.splitlines()]
        keys = [line for line in keys if line and not line.startswith("#")]
        self.recipients = [_public_key(text) for text in keys]
        if not keys:
            raise BadInput("no age identity was given: it is a line that begins with AGE-SECRET-KEY-1")
        self._pool = ProcessPool({"identities": keys}, processes=processes, timeout=CHUNK_SECONDS)

    async def open(self, entry: StoredObject, body: bytes) -> bytes:
        """The plain bytes of one object.

        Raises:
            Corrupt: size, SHA-256, encryption, compression or plain size are not those of the manifest's entry.
            WrongKey: the object is sound as far as can be seen, and no identity opens it.
            Unreachable: the process died; the object may be given again.
        """
        expected = {"size": entry.size, "sha256": entry.sha256, "plain_size": entry.plain_size}
        answer, plain = await self._pool.ask(expected, body)
        if "error" in answer:
            kind = WrongKey if answer["error"] == "WrongKey" else Corrupt
            raise kind(f"object {entry.key}: {answer['message']}")
        return plain


@dataclass(frozen=True)
class AgeKey:
    """``secret`` is the identity (``AGE-SECRET-KEY-1...``), ``public`` the recipient (``age1...``)."""

    secret: str
    public: str

    def __repr__(self) -> str:
        return f"AgeKey(public={self.public!r})"


def generate_age_key() -> AgeKey:
    identity = pyrage.x25519.Identity.generate()
    return AgeKey(secret=str(identity), public=str(identity.to_public()))


def _recipient(text: str) -> str:
    try:
        return str(pyrage.x25519.Recipient.from_str(text.strip()))
    except pyrage.RecipientError as error:
        # Not repeated here: somebody may have put the secret key in the public key's place.
        raise BadInput("a recipient is no age public key: it begins with age1 and has 62 characters") from error


def _public_key(text: str) -> str:
    try:
        return str(pyrage.x25519.Identity.from_str(text).to_public())
    except pyrage.IdentityError as error:
        raise BadInput("an age identity cannot be read: it is a line that begins with AGE-SECRET-KEY-1") from error
