"""A Redis in memory, as restores ask it (``recovery.ports.redis.RedisRecovery``): what it holds, and whose it is.

The contract suite holds it true.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from recovery.adapters.point_checks import checked
from recovery.adapters.redis.dumps import RedisDumpSource
from recovery.domain.recovery_point import CheckResult, VerdictState
from recovery.domain.redis import RedisSource, Way
from recovery.domain.restore_marks import restore_of
from recovery.errors import NotOurs, Refused
from recovery.ports.postgres import Progress
from recovery.ports.redis import DumpPlace, PlacedDump, RedisRestoreOptions, RedisSeen, RestoredRedis, StoredDump


@dataclass
class FakeRedisRecovery:
    """``keys`` and ``mark`` (of an attempt) are the server's; ``got`` are the dumps that were restored, in order."""

    keys: dict[int, int] = field(default_factory=dict)
    mark: str | None = None
    completed_by: str | None = None
    is_primary: bool = True
    functions: list[str] = field(default_factory=list)
    ways: list[Way] = field(default_factory=list)
    got: list[bytes] = field(default_factory=list)

    async def look(self) -> RedisSeen:
        return RedisSeen(
            host="10.0.0.2", port=6379, product="redis", version="7.2.4", rdb_version=11, is_primary=self.is_primary,
            clustered=False, keys=dict(self.keys), functions=list(self.functions), max_memory=0, used_memory=0,
            restore_id=restore_of(self.mark),
        )  # fmt: skip

    def source(self) -> RedisDumpSource:
        raise AssertionError("nobody takes a backup of a restore's target")

    async def check_place(self, source: RedisSource, place: DumpPlace, restore_id: str) -> None:
        raise AssertionError("it runs")

    async def place(self, dump: StoredDump, place: DumpPlace, restore_id: str) -> PlacedDump:
        raise AssertionError("it runs")

    async def is_placed(self, place: DumpPlace, restore_id: str) -> bool:
        raise AssertionError("it runs")

    async def remove_placed(self, place: DumpPlace, restore_id: str) -> bool:
        raise AssertionError("it runs")

    async def check_target(
        self, source: RedisSource, options: RedisRestoreOptions, scratch_folder: Path
    ) -> list[CheckResult]:
        async def primary() -> str:
            self._demand_primary()
            return ""

        async def free() -> str:
            self._demand_free(options)
            return ""

        return [await checked("role", primary()), await checked("empty target", free())]

    async def restore(
        self, dump: StoredDump, options: RedisRestoreOptions, scratch_folder: Path, progress: Progress | None = None
    ) -> RestoredRedis:
        self._demand_primary()
        self._demand_free(options)
        data = b"".join([chunk async for chunk in dump.chunks])
        assert dump.source is not None
        self.got.append(data)
        self.ways.append(options.way)
        self.keys = {int(number): count.after for number, count in dump.source.keys.items()}
        self.mark, self.completed_by = options.mark, None
        if not options.keep_mark:
            self.mark, self.completed_by = None, options.restore_id
        return RestoredRedis(dict(self.keys), [], dump.source.rdb_version, len(data))

    async def complete(self, ours: str) -> bool:
        if self.mark is None:
            return self.completed_by is not None and self.completed_by == restore_of(ours)
        self._demand_ours(ours)
        self.mark, self.completed_by = None, restore_of(ours)
        return True

    async def remove_restored(self, ours: str) -> bool:
        if self.mark is None:
            return False
        self._demand_ours(ours)
        self.keys, self.mark = {}, None
        return True

    async def validate(
        self, dump: StoredDump, scratch_folder: Path, progress: Progress | None = None
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        raise AssertionError("validations load into scratch servers")

    def _demand_primary(self) -> None:
        if not self.is_primary:
            raise Refused("is a replica: what is restored there is overwritten")

    def _demand_free(self, options: RedisRestoreOptions) -> None:
        if self.completed_by == options.restore_id:
            raise NotOurs(f"restore {options.restore_id} was completed here")
        if any(self.keys.values()) and restore_of(self.mark) != options.restore_id and not options.replace:
            raise Refused("holds data already: say --replace")

    def _demand_ours(self, ours: str) -> None:
        if ours not in (self.mark, restore_of(self.mark)):
            raise NotOurs(f"carries the mark of restore {self.mark}")
