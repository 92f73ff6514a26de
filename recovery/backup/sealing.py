"""Chunks become objects and objects become chunks again.

An object is a complete age file (https://age-encryption.org/v1, binary, X25519 recipients) around one zstd frame: by
hand ``age -d -i key object | zstd -d``. The work is done in threads, several chunks at a time: zstd and SHA-256 let go
of the interpreter lock, and encryption holds it for microseconds at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import pyrage
import zstandard

from recovery.backup import age
from recovery.domain.recovery_point import StoredObject
from recovery.errors import BadInput, Corrupt, Unreachable, WrongKey

CHUNK_BYTES = 8 << 20
CLOSE_SECONDS = 30.0  # for chunks in work; one takes 0.05 s at level 1, and seconds at the highest levels
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class SealedChunk:
    """``body`` is what is stored; ``sha256`` (hex) and ``size`` are of these bytes, ``plain_size`` of the chunk."""

    body: bytes
    sha256: str
    size: int
    plain_size: int


class _Threads:
    """A few chunks at a time. Who stops waiting for one leaves its thread to end it; one that waits is not begun."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="sealing")
        self._closed = False

    async def _run(
        self, work: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
    ) -> Result:
        self._require_open()

        def act() -> Result:
            self._require_open()
            return work(*arguments, **options)

        return await asyncio.get_running_loop().run_in_executor(self._threads, act)

    def _require_open(self) -> None:
        if self._closed:
            raise Unreachable(f"this {type(self).__name__.lower()} was closed: nothing is sealed or opened any more")

    async def close(self) -> None:
        """Waits for the chunks in work; those that wait for a thread fail with Unreachable."""
        self._closed = True
        ended = asyncio.ensure_future(asyncio.to_thread(self._threads.shutdown))
        await asyncio.wait({ended}, timeout=CLOSE_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Sealer(_Threads):
    """Compresses and encrypts for ``recipients``. Knows public keys only.

    Args:
        recipients: age public keys, ``age1...``; each of them alone opens every object.
        threads: chunks in work at once.

    Raises:
        BadInput: no recipient, or one that is no X25519 public key.
    """

    def __init__(self, recipients: list[str], threads: int = 2) -> None:
        self.recipients = [_recipient(text) for text in recipients]
        if not self.recipients:
            raise BadInput("no age recipient is configured: give at least one public key, e.g. age1qx...")
        try:
            self._keys = [age.public_key(text) for text in self.recipients]
        except ValueError as error:
            raise BadInput(
                "a recipient is nobody's public key (a point of small order): take what age-keygen printed"
            ) from error
        super().__init__(threads)

    async def seal(self, chunk: bytes, level: int = 1) -> SealedChunk:
        """``level`` is zstd's. Raises Unreachable when the sealer is closed meanwhile."""
        return await self._run(self._sealed, chunk, level)

    def _sealed(self, chunk: bytes, level: int) -> SealedChunk:
        digest = hashlib.sha256()
        body = age.seal(packed(chunk, level), self._keys, digest)
        return SealedChunk(body, digest.hexdigest(), len(body), len(chunk))


class Opener(_Threads):
    """Checks, decrypts and decompresses with ``identities``, which appear in no error and no ``repr``.

    Args:
        identities: ``AGE-SECRET-KEY-1...`` each, or whole key files with their comment lines.
        threads: objects in work at once.

    Raises:
        BadInput: nothing that is an identity. The message never repeats what was given.
    """

    def __init__(self, identities: list[str], threads: int = 2) -> None:
        lines = [line.strip() for text in identities for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        self.recipients = [_public_key(text) for text in lines]
        if not lines:
            raise BadInput("no age identity was given: it is a line that begins with AGE-SECRET-KEY-1")
        self._keys = [age.private_key(text) for text in lines]
        super().__init__(threads)

    async def open(self, entry: StoredObject, body: bytes) -> bytes:
        """The plain bytes of one object.

        Raises:
            Corrupt: size, SHA-256, encryption, compression or plain size are not those of the manifest's entry.
            WrongKey: the object is sound as far as can be seen, and no identity opens it.
            Unreachable: the opener was closed meanwhile.
        """
        try:
            return await self._run(self._opened, entry, body)
        except (Corrupt, WrongKey) as error:
            raise type(error)(f"object {entry.key}: {error}") from error

    def _opened(self, entry: StoredObject, body: bytes) -> bytes:
        check_stored(entry, body)
        return unpacked(age.unseal(body, self._keys), entry.plain_size)


def packed(chunk: bytes, level: int) -> bytes:
    """One zstd frame that says its size."""
    return zstandard.ZstdCompressor(level=level).compress(chunk)


def unpacked(frame: bytes | bytearray, plain_size: int) -> bytes:
    """Decompresses exactly one frame of exactly the promised size: a forged size cannot exhaust the memory.

    Raises Corrupt.
    """
    try:
        size = zstandard.frame_content_size(frame)
        if size != plain_size:
            raise Corrupt(f"it holds {size} bytes, the manifest says {plain_size}")
        plain = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(f"it does not decompress: {error}") from error
    if len(plain) != plain_size:
        raise Corrupt(f"it decompresses to {len(plain)} bytes, the manifest says {plain_size}")
    return plain


def described(body: bytes, plain_size: int) -> SealedChunk:
    """``body`` as it is stored."""
    return SealedChunk(body, hashlib.sha256(body).hexdigest(), len(body), plain_size)


def check_stored(entry: StoredObject, body: bytes) -> None:
    """Before anything is decrypted. Raises Corrupt: size or SHA-256 are not those of the manifest's entry."""
    if len(body) != entry.size:
        raise Corrupt(f"it has {len(body)} bytes, the manifest says {entry.size}")
    digest = hashlib.sha256(body).hexdigest()
    if digest != entry.sha256:
        raise Corrupt(f"its SHA-256 is {digest}, the manifest says {entry.sha256}")


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
