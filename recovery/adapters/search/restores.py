"""Restores of a search engine's recovery points into a cluster that this worker reaches.

Restored indices are there for clients at once, under their names; their aliases are moved to them at the end. Until
``open_writes`` they carry the restore's mark, so that everything can be taken back, and a repeated restore goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from recovery.adapters.search.completing import not_compared
from recovery.adapters.search.points import Search, telling
from recovery.adapters.search.validation import foreign_name
from recovery.backup.catalogue import Catalogue
from recovery.domain.group import GroupSnapshot
from recovery.domain.plan import RestoredServer
from recovery.domain.recovery_point import BackupKind, CheckResult, RecoveryPoint
from recovery.domain.search import RestoredSearch, SearchChoice
from recovery.errors import RecoveryError, Refused
from recovery.ports.recovery_points import Progress, RestoreOrder
from recovery.ports.search import SearchRecovery, SearchRestoreOptions

WITHIN_SECONDS = 2 * 3600.0 - 300.0
"""Of one attempt, whose step has two hours. The cluster goes on, and the next attempt joins it."""
SHOWN = 20  # indices that differ, each as a check


@dataclass
class SearchRestores:
    """``recovery.ports.recovery_points.Restores``."""

    catalogue: Callable[[GroupSnapshot], Catalogue]
    search: Search

    async def verify_infrastructure(self, order: RestoreOrder) -> list[CheckResult]:
        """See the port. The point's repository is registered, for reading, where the cluster does not know it yet."""
        point = await self._point(order)
        checks = [
            CheckResult(name="recovery point", passed=True, detail=f"{point.point_id} at {', '.join(point.locations)}")
        ]
        try:
            async with self._at(order) as search:
                server = await search.server()
                checks.append(
                    CheckResult(name="target server", passed=True, detail=f"{server.title}, cluster {server.cluster}")
                )
                options = await _options(search, order, point)
                return checks + await search.check_restore(point.manifest.search, options)
        except RecoveryError as error:
            name = "target server" if len(checks) == 1 else "choice"
            return [*checks, CheckResult(name=name, passed=False, detail=str(error))]

    async def restore(self, order: RestoreOrder, progress: Progress) -> RestoredServer:
        """See the port. What an earlier attempt began is gone on with."""
        point = await self._point(order)
        source = point.manifest.search
        async with self._at(order) as search:
            done = await search.restore(source, await _options(search, order, point), telling(progress))
        host, port = _address(order)
        return RestoredServer(
            region=order.region,
            host=host,
            port=port,
            database="",
            search=RestoredSearch(
                indices=done.indices, data_streams=done.data_streams, moves_aliases=_choice(order).aliases
            ),
            restore_id=order.restore_id,
            kind=BackupKind.SEARCH,
            point_id=order.point_id,
            restored_bytes=source.bytes,
            last_commit_at=source.began_at,
        )

    async def remove(self, order: RestoreOrder) -> bool:
        """See the port. What was replaced does not come back. Raises NotOurs once aliases point to the indices."""
        async with self._at(order) as search:
            return bool(await search.remove_restored(order.restore_id))

    async def verify(self, group: GroupSnapshot, restored: RestoredServer) -> list[CheckResult]:
        """See the port."""
        point, made = await self.catalogue(group).point(group.name, restored.point_id), _made(restored)
        async with self.search(group.name, restored.region) as search:
            differences = await search.differences(point.manifest.search, made.indices)
        if not differences:
            source = point.manifest.search
            known = len(made.indices) - len(source.not_comparable(made.indices))
            words = f"{known} hold every document up to the moment at which their snapshot began"
            detail = "; ".join([words, *not_compared(source, made.indices)])
            return [CheckResult(name="indices", passed=True, detail=detail)]
        checks = [CheckResult(name="indices", passed=False, detail=each) for each in differences[:SHOWN]]
        more = len(differences) - len(checks)
        last = CheckResult(name="indices", passed=False, detail=f"and {more} more differences")
        return [*checks, last] if more else checks

    async def open_writes(self, group: GroupSnapshot, restored: RestoredServer) -> None:
        """See the port: the aliases move in one step. From here on this restore removes the indices no more."""
        point, made = await self.catalogue(group).point(group.name, restored.point_id), _made(restored)
        async with self.search(group.name, restored.region) as search:
            await search.complete(point.manifest.search, made.indices, restored.restore_id, aliases=made.moves_aliases)

    async def accepts_writes(self, group: GroupSnapshot, restored: RestoredServer) -> bool:
        """See the port."""
        async with self.search(group.name, restored.region) as search:
            return restored.restore_id not in await search.unfinished()

    async def write_probe(self, group: GroupSnapshot, restored: RestoredServer, run_id: str) -> datetime:
        """Raises Refused: a document that nobody expects would be found by the indices' searches."""
        raise Refused("nothing is written into restored indices to see whether it works")

    # Parts of the above.

    async def _point(self, order: RestoreOrder) -> RecoveryPoint:
        return await self.catalogue(order.group).point(order.group.name, order.point_id)

    def _at(self, order: RestoreOrder) -> AbstractAsyncContextManager[SearchRecovery]:
        return self.search(order.group.name, order.region)


async def _options(search: SearchRecovery, order: RestoreOrder, point: RecoveryPoint) -> SearchRestoreOptions:
    choice, manifest = _choice(order), point.manifest
    return SearchRestoreOptions(
        order.restore_id,
        repository=choice.repository or await search.attach(manifest.search, foreign_name(manifest)),
        indices=choice.indices,
        rename_pattern=choice.rename_pattern,
        rename_replacement=choice.rename_replacement,
        replace=order.replace,
        aliases=choice.aliases,
        keep_mark=True,
        global_state=choice.global_state,
        replicas=order.replicas,
        within_seconds=WITHIN_SECONDS,
    )


def _choice(order: RestoreOrder) -> SearchChoice:
    return order.search or SearchChoice()


def _made(restored: RestoredServer) -> RestoredSearch:
    return restored.search or RestoredSearch(indices={})


def _address(order: RestoreOrder) -> tuple[str, int]:
    """As people know the cluster."""
    address = urlsplit(order.group.region(order.region).search or "")
    return address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
