"""A backup that was over before its bytes were asked for: a snapshot that its store keeps by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from recovery.domain.recovery_point import BackupKind, Source
from recovery.ports.postgres import ArtefactStream


@dataclass(frozen=True)
class TakenSnapshot:
    """``recovery.ports.postgres.BackupSource`` of a snapshot that has ended: nothing is to be read."""

    kind: BackupKind
    source: Source
    expected_bytes: int = 0

    async def artefacts(self) -> AsyncIterator[ArtefactStream]:
        nothing: list[ArtefactStream] = []
        for stream in nothing:
            yield stream

    async def finish(self) -> Source:
        return self.source
