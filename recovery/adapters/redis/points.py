"""Redis's part in recovery points: one dump, from a replica where one follows closely."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from recovery.adapters.redis.validation import validate_stored
from recovery.domain.group import GroupSnapshot
from recovery.domain.recovery_point import CheckResult, DataStore, VerdictState
from recovery.domain.redis import server_name
from recovery.ports.postgres import BackupSource, PointReader
from recovery.ports.recovery_points import BackupOrder, Progress
from recovery.ports.redis import DUMP_NAME, RedisRecovery, StoredDump

Servers = Callable[[str, str], Awaitable[RedisRecovery]]
"""(group, region) -> its Redis."""


@dataclass
class RedisPoints:
    """``recovery.ports.recovery_points.StorePoints``. ``program``: the redis-server of this machine; None: what is
    found."""

    redis: Servers
    program: Path | None = None
    at_once: int = 1

    async def check_source(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        """See the port. One that is being restored is a failed check: its dump holds what is there so far."""
        seen = await (await self.redis(group.name, region)).look()
        what = f"{seen.address} is {server_name(seen.product, seen.version)} and holds {sum(seen.keys.values())} keys"
        if seen.restore_id is not None:
            what += f", and restore {seen.restore_id} is at work there"
        return [CheckResult(name=f"{region} {DataStore.REDIS}", passed=seen.restore_id is None, detail=what)]

    @asynccontextmanager
    async def opened(self, order: BackupOrder, progress: Progress) -> AsyncIterator[BackupSource]:
        """See the port. A server gives one dump to all that ask at the same time, so nothing keeps a second away."""
        recovery = await self.redis(order.group.name, order.region)
        async with recovery.source() as source:
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
        dump = StoredDump(reader.stream(DUMP_NAME), reader.manifest.redis)
        return await validate_stored(dump, scratch_folder, progress, self.program)
