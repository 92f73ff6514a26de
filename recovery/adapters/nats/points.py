"""JetStream's part in recovery points: the group's streams, each as its snapshot is, several at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from recovery.adapters.nats.scratch import program
from recovery.adapters.nats.snapshots import AT_ONCE
from recovery.adapters.nats.validation import validate_streams
from recovery.domain.group import GroupSnapshot
from recovery.domain.recovery_point import CheckResult, DataStore, VerdictState
from recovery.ports.jetstream import JetStreamRecovery
from recovery.ports.postgres import BackupSource, PointReader
from recovery.ports.recovery_points import BackupOrder, Progress

Streams = Callable[[str, str], Awaitable[JetStreamRecovery]]
"""(group, region) -> its JetStream."""


@dataclass
class StreamPoints:
    """``recovery.ports.recovery_points.StorePoints``."""

    streams: Streams
    at_once: int = AT_ONCE
    find_program: Callable[[], Path | None] = program
    """The server's program for scratch servers, on this machine."""

    async def check_source(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        """See the port. A stream that is missing is a failed check, and where all are wanted an account without any."""
        seen = await (await self.streams(group.name, region)).look()
        known = ", ".join(sorted(seen.streams)) or "none"
        name = f"{region} {DataStore.NATS}"
        if group.chosen_streams is None:
            detail = f"{seen.address} is NATS {seen.version} and has {known}"
            return [CheckResult(name=name, passed=bool(seen.streams), detail=detail)]
        missing = [stream for stream in group.chosen_streams if stream not in seen.streams]
        return [
            CheckResult(
                name=name,
                passed=not missing,
                detail=f"{seen.address} has no stream {', '.join(missing)}: it has {known}"
                if missing
                else f"{seen.address} is NATS {seen.version} and has {', '.join(group.chosen_streams)}",
            )
        ]

    @asynccontextmanager
    async def opened(self, order: BackupOrder, progress: Progress) -> AsyncIterator[BackupSource]:
        """See the port. Snapshots hold nobody up, so nothing keeps a second backup away but the run's own id."""
        recovery = await self.streams(order.group.name, order.region)
        async with recovery.source(order.group.chosen_streams) as source:
            yield source

    async def validate(
        self,
        group: GroupSnapshot,
        reader: PointReader,
        scratch_folder: Path,
        progress: Callable[[int, int], None],
        run_id: str,
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        """See the port."""
        return await validate_streams(reader, scratch_folder, progress, self.find_program)
