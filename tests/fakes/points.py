"""Backup sources, manifests and recovery points for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from recovery.backup.layout import PointIdentity
from recovery.backup.sealing import AgeKey, generate_age_key
from recovery.backup.signing import Signer, SigningKey, Verifier, generate_signing_key
from recovery.domain.recovery_point import (
    Artefact,
    BackupKind,
    Manifest,
    PostgresSource,
    RecoveryPoint,
    StoredObject,
    Verdict,
    VerdictState,
)

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
AGE: AgeKey = generate_age_key()
SIGNING: SigningKey = generate_signing_key()


def signer() -> Signer:
    return Signer(SIGNING.secret)


def verifier() -> Verifier:
    return Verifier([SIGNING.public])


def pg_source(system_identifier: str = "7300000000000000001", **fields: object) -> PostgresSource:
    return PostgresSource.model_validate(
        {
            "system_identifier": system_identifier, "server_version": "16.14", "major": 16, "timeline": 1,
            "stop_lsn": "0/3000100", **fields,
        }
    )  # fmt: skip


def identity(attempt: int = 1, point_id: str = "20261122T101500Z-physical-1a2b3c") -> PointIdentity:
    return PointIdentity(
        point_id=point_id, group="shop", attempt=attempt, run_id=f"run-{attempt}", region="region-a",
        started_at=NOW, epoch=3,
    )  # fmt: skip


@dataclass
class FakeStream:
    """Gives ``buffers``; ``closed`` is set when the source was released, ``failure`` is raised after the last one."""

    name: str
    buffers: Iterable[bytes]
    failure: Exception | None = None
    closed: bool = False
    stall: asyncio.Event | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            for buffer in self.buffers:
                await asyncio.sleep(0)
                yield buffer
            if self.failure is not None:
                raise self.failure
            if self.stall is not None:
                await self.stall.wait()
        finally:
            self.closed = True


@dataclass
class FakeSource:
    """A backup source that gives ``contents``: artefact name to buffers."""

    contents: Mapping[str, Iterable[bytes]]
    kind: BackupKind = BackupKind.PHYSICAL
    expected_bytes: int = 0
    failure: Exception | None = None
    stall: asyncio.Event | None = None
    finished: bool = False
    streams: list[FakeStream] = field(default_factory=list)
    source: PostgresSource = field(default_factory=pg_source)

    async def artefacts(self) -> AsyncIterator[FakeStream]:
        for name, buffers in self.contents.items():
            stream = FakeStream(name, buffers, self.failure, stall=self.stall)
            self.streams.append(stream)
            yield stream

    async def finish(self) -> PostgresSource:
        self.finished = True
        return self.source


def point(
    number: int = 1,
    *,
    age: timedelta = timedelta(),
    kind: BackupKind = BackupKind.PHYSICAL,
    system_identifier: str = "7300000000000000001",
    state: VerdictState | None = None,
    lsn: str | None = "0/3000100",
    timeline: int = 1,
) -> RecoveryPoint:
    """A listed point, ``age`` older than NOW."""
    finished = NOW - age
    manifest = Manifest(
        point_id=f"point-{number}", group="shop", kind=kind, started_at=finished, finished_at=finished,
        source=pg_source(system_identifier, stop_lsn=lsn, timeline=timeline), source_region="region-a",
        artefacts=[
            Artefact(name="base.tar", objects=[StoredObject(key=f"shop/postgres/point-{number}/attempt-1-0/base.tar.0",
                                                            size=1, sha256="0" * 64, plain_size=1)])
        ],
        recipients=[AGE.public], run_id="run-1",
    )  # fmt: skip
    verdict = None if state is None else verdict_on(manifest, "digest", state=state)
    return RecoveryPoint(manifest=manifest, verdict=verdict, locations=["a"], manifest_sha256="digest")


def verdict_on(
    manifest: Manifest,
    digest: str,
    *,
    state: VerdictState = VerdictState.VALID,
    location: str = "a",
    at: datetime = NOW,
    run_id: str = "validation-1",
) -> Verdict:
    return Verdict(
        point_id=manifest.point_id, group=manifest.group, state=state, location=location, manifest_sha256=digest,
        validated_at=at, duration=timedelta(seconds=12.5), run_id=run_id,
    )  # fmt: skip
