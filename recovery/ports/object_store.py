"""Where objects are kept: an S3 bucket or a folder, each under a root prefix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True)
class ObjectInfo:
    """``key`` relative to the location's root, ``size`` in bytes, ``etag`` opaque and equal while the content is.

    ``replication``: of a bucket that replicates by itself, S3's word for how far this object is; of ``head`` only.
    """

    key: str
    size: int
    etag: str
    modified: datetime
    replication: str | None = None


class ObjectStore(Protocol):
    """Keys are relative, use ``/``, and never start with it.

    All methods raise ``Unreachable`` for what another attempt may mend, ``Refused`` for denied access,
    ``NotFound`` for a missing key or bucket.
    """

    @property
    def name(self) -> str:
        """The location's name in the configuration."""
        ...

    async def put(
        self,
        key: str,
        body: bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        sha256: str | None = None,
    ) -> str:
        """Stores one object whole or not at all and returns its ETag.

        ``if_absent`` and ``if_match`` make it conditional; a condition that does not hold raises ``Contended``.
        ``sha256`` (hex) is the body's, where the caller knows it already: it saves hashing the body again.
        """
        ...

    async def get(self, key: str) -> tuple[bytes, str]:
        """Body and ETag."""
        ...

    async def head(self, key: str) -> ObjectInfo | None: ...

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """All objects below a prefix in the order of their keys."""
        ...

    async def folders(self, prefix: str) -> Sequence[str]:
        """Names of the folders directly below a prefix that ends with ``/``, sorted, without listing what they hold."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes; a key that does not exist is no error."""
        ...

    async def shortcomings(self) -> Sequence[str]:
        """What the location lacks against its configuration (versioning off, say), each with what mends it."""
        ...

    async def close(self) -> None: ...
