"""Restores of recovery points of Redis: into a running server, or where a stopped one finds the dump when it starts.

A running server has no way to keep clients out, so they see the data at once. It carries the restore's mark until
``open_writes``, so that until then everything can be taken back, and a repeated restore starts over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from recovery.adapters.key_ring import KeyRing
from recovery.adapters.point_checks import check_point, checked
from recovery.adapters.redis.points import Servers
from recovery.backup.catalogue import Catalogue
from recovery.backup.progress import noting
from recovery.backup.reader import open_point
from recovery.domain.group import GroupSnapshot
from recovery.domain.plan import RestoredServer
from recovery.domain.recovery_point import BackupKind, CheckResult, RecoveryPoint
from recovery.domain.redis import RedisSource, Way
from recovery.errors import BadInput, NotOurs, Refused, RestoreFailed
from recovery.ports.recovery_points import Progress, RestoreOrder
from recovery.ports.redis import DUMP_NAME, DumpPlace, RedisRecovery, RedisRestoreOptions, RedisSeen, StoredDump


@dataclass
class RedisRestores:
    """``recovery.ports.recovery_points.Restores``."""

    catalogue: Callable[[GroupSnapshot], Catalogue]
    keys: KeyRing
    redis: Servers
    scratch_folder: Callable[[str], Path]  # by group

    async def verify_infrastructure(self, order: RestoreOrder) -> list[CheckResult]:
        """See the port."""
        point = await self._point(order)
        source = point.manifest.redis
        checks = await check_point(point, self.keys, self.catalogue(order.group).stores_of(point))
        recovery = await self._recovery(order)
        place = _place(order)
        if place is None:
            folder = self.scratch_folder(order.group.name)
            return checks + await recovery.check_target(source, _options(order), folder)

        async def free() -> str:
            await recovery.check_place(source, place, order.restore_id)
            return f"{place.folder} takes the dump of {source.rdb_bytes} bytes"

        return [*checks, await checked("target folder", free())]

    async def restore(self, order: RestoreOrder, progress: Progress) -> RestoredServer:
        """See the port. What an earlier attempt restored, whole or in part, is deleted and restored again."""
        point = await self._point(order)
        manifest = point.manifest
        recovery = await self._recovery(order)
        reader = open_point(self.catalogue(order.group).stores_of(point), manifest, self.keys.opening())
        dump = StoredDump(reader.stream(DUMP_NAME), manifest.redis)
        restored = RestoredServer(
            region=order.region,
            host="",
            port=0,
            database="",
            kind=BackupKind.RDB,
            restore_id=order.restore_id,
            point_id=order.point_id,
            last_commit_at=manifest.redis.held_until,
        )
        place = _place(order)
        if place is not None:
            placed = await recovery.place(dump, place, order.restore_id)
            where = {"data_directory": str(place.folder), "append_only": place.append_only}
            return restored.model_copy(update={**where, "restored_bytes": placed.bytes})
        tell = noting(progress, "restoring")
        done = await recovery.restore(dump, _options(order), self.scratch_folder(order.group.name), tell)
        seen = await recovery.look()
        at = {"host": seen.host, "port": seen.port}
        return restored.model_copy(update={**at, "keys": done.keys, "restored_bytes": done.bytes})

    async def remove(self, order: RestoreOrder) -> bool:
        """See the port. Only what carries this restore's mark: what was replaced does not come back."""
        recovery = await self._recovery(order)
        place = _place(order)
        try:
            if place is not None:
                return await recovery.remove_placed(place, order.restore_id)
            return await recovery.remove_restored(order.restore_id)
        except NotOurs:
            return False  # somebody else's stands in its place

    async def verify(self, group: GroupSnapshot, restored: RestoredServer) -> list[CheckResult]:
        """See the port."""
        recovery = await self.redis(group.name, restored.region)
        place = _placed_at(restored)
        if place is not None:
            there = await recovery.is_placed(place, restored.restore_id)
            words = f"the dump stands in {place.folder}" if there else f"{place.folder} has it no more, or a server ran"
            return [CheckResult(name="dump", passed=there, detail=words)]
        source = (await self.catalogue(group).point(group.name, restored.point_id)).manifest.redis
        seen = await recovery.look()
        return [_marked(seen, restored), _keys(seen, restored), _functions(seen, source)]

    async def open_writes(self, group: GroupSnapshot, restored: RestoredServer) -> None:
        """See the port. From here on the data are like any others, and this restore removes them no more."""
        if _placed_at(restored) is not None:
            return
        if not await (await self.redis(group.name, restored.region)).complete(restored.restore_id):
            raise RestoreFailed(
                f"Redis of {restored.region} carries no mark of restore {restored.restore_id}: what was restored is"
                " gone, unless it was opened hours ago. Look at what it holds."
            )

    async def accepts_writes(self, group: GroupSnapshot, restored: RestoredServer) -> bool:
        """See the port. A dump that waits for its server's start accepts none."""
        if _placed_at(restored) is not None:
            return False
        seen = await (await self.redis(group.name, restored.region)).look()
        return seen.is_primary and seen.restore_id is None

    async def write_probe(self, group: GroupSnapshot, restored: RestoredServer, run_id: str) -> datetime:
        """Raises Refused: a key that nobody expects would be found by whoever looks through all of them."""
        raise Refused("nothing is written into a restored Redis to see whether it works")

    # Parts of the above.

    async def _point(self, order: RestoreOrder) -> RecoveryPoint:
        return await self.catalogue(order.group).point(order.group.name, order.point_id)

    async def _recovery(self, order: RestoreOrder) -> RedisRecovery:
        return await self.redis(order.group.name, order.region)


def _place(order: RestoreOrder) -> DumpPlace | None:
    """None: into the region's running server. Raises BadInput."""
    if order.target_directory is None:
        if order.append_only:
            raise BadInput("--append-only says how the stopped server in --target-directory starts: name that folder")
        return None
    return DumpPlace(Path(order.target_directory), order.append_only)


def _placed_at(restored: RestoredServer) -> DumpPlace | None:
    if restored.data_directory is None:
        return None
    return DumpPlace(Path(restored.data_directory), restored.append_only)


def _options(order: RestoreOrder) -> RedisRestoreOptions:
    """A server under a guard is never made a replica, not even for a moment: it gets key by key what it is to hold."""
    way: Way = order.way or ("keys" if order.group.guarded else "replicate")
    return RedisRestoreOptions(order.restore_id, way, replace=order.replace, keep_mark=True)


def _marked(seen: RedisSeen, restored: RestoredServer) -> CheckResult:
    """The mark goes with everything else where somebody empties the server."""
    passed = seen.is_primary and seen.restore_id == restored.restore_id
    detail = f"{seen.address} is {'a primary' if seen.is_primary else 'a replica'}, and "
    detail += (
        "carries the restore's mark" if passed else f"the restore that it carries the mark of is {seen.restore_id}"
    )
    return CheckResult(name="target server", passed=passed, detail=detail)


def _keys(seen: RedisSeen, restored: RestoredServer) -> CheckResult:
    """Clients may write and keys expire by now: but what was restored is not gone altogether."""
    then, now = sum(restored.keys.values()), sum(seen.keys.values())
    detail = f"{now} keys, and {then} were restored into databases {', '.join(map(str, restored.keys)) or 'none'}"
    return CheckResult(name="keys", passed=now > 0 or then == 0, detail=detail)


def _functions(seen: RedisSeen, source: RedisSource) -> CheckResult:
    missing = sorted(set(source.functions or {}) - set(seen.functions or []))
    detail = f"libraries {', '.join(missing)} are missing" if missing else f"{len(seen.functions or [])} libraries"
    return CheckResult(name="functions", passed=not missing, detail=detail)
