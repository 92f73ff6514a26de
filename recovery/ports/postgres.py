"""What backup, validation and restore need of PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from recovery.domain.recovery_point import BackupKind, CheckResult, Manifest, PostgresSource

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes expected; 0 when unknown)."""


class ArtefactStream(Protocol):
    """One named byte stream of a backup, read once."""

    @property
    def name(self) -> str: ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Buffers of any size. Closing the iterator early releases the source."""
        ...


class BackupSource(Protocol):
    """One running backup of one PostgreSQL. An async context manager: leaving it releases slot, snapshot, sessions."""

    kind: BackupKind

    @property
    def expected_bytes(self) -> int:
        """Size before compression as far as it is known beforehand, 0 when it is not."""
        ...

    def artefacts(self) -> AsyncIterator[ArtefactStream]:
        """The streams, one after the other: each must be read to its end before the next is asked for."""
        ...

    async def finish(self) -> PostgresSource:
        """Identity, LSN range, fingerprints. Only after all streams were read."""
        ...


@dataclass(frozen=True)
class PostgresPlace:
    """Where a PostgreSQL lives or is to live on this host (host names, paths, TCP ports; never a password)."""

    host: str
    port: int
    data_directory: Path
    run_as: str | None = None


class PostgresHost(Protocol):
    """PostgreSQL binaries and processes of the machine on which the worker runs."""

    async def majors(self) -> dict[int, str]:
        """Installed major versions and their full version: ``{16: "16.14"}``."""
        ...

    async def free_bytes(self, path: Path) -> int: ...

    async def is_empty(self, place: PostgresPlace) -> bool:
        """True when the data directory does not exist or holds nothing and nothing listens at the address."""
        ...


class PointReader(Protocol):
    """A recovery point opened for reading: objects fetched in parallel, checked, decrypted, decompressed, in order."""

    manifest: Manifest

    def stream(self, artefact: str, progress: Progress | None = None) -> AsyncIterator[bytes]:
        """The artefact's bytes.

        Raises:
            Corrupt: an object is missing or differs from the manifest in size, SHA-256, encryption or compression.
            WrongKey: no identity at hand opens it.
        """
        ...


class ScratchServer(Protocol):
    """A throw-away server started on restored data; removed with everything it wrote on exit of its context."""

    place: PostgresPlace

    async def checks(self) -> list[CheckResult]: ...
