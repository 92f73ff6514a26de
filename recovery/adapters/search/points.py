"""The search engine's part in recovery points: one snapshot in the cluster's own repository, and no bytes of ours.

A point is its signed manifest at the locations; it names the repository, the snapshot and what the snapshot holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from recovery.adapters.search.validation import validate_snapshot
from recovery.adapters.taken_snapshot import TakenSnapshot
from recovery.domain.group import GroupSnapshot
from recovery.domain.recovery_point import BackupKind, CheckResult, DataStore, Manifest, RecoveryPoint, VerdictState
from recovery.domain.search import SearchRule
from recovery.errors import BadInput, NotFound, RecoveryError, SourceFailed
from recovery.ports.postgres import BackupSource, PointReader
from recovery.ports.recovery_points import BackupOrder, Progress
from recovery.ports.search import SearchAdvance, SearchProgress, SearchRecovery, SearchRepository, SnapshotRequest

WITHIN_SECONDS = 4 * 3600.0 - 300.0
"""Of one attempt, whose step has four hours. The cluster goes on, and the next attempt joins it."""

Search = Callable[[str, str], AbstractAsyncContextManager[SearchRecovery]]
"""(group, region) -> its cluster."""
Scratch = Callable[[str], AbstractAsyncContextManager[SearchRecovery | None]]
"""Group -> the cluster into which its points are restored to prove them, where one is configured."""


@dataclass
class SearchPoints:
    """``recovery.ports.recovery_points.StorePoints`` and ``KeptElsewhere``."""

    search: Search
    scratch: Scratch
    at_once: int = 1

    async def check_source(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        """See the port. A repository that the nodes cannot use is a failed check."""
        rule = rule_of(group)
        async with self.search(group.name, region) as search:
            server = await search.server()
            try:
                nodes = await _writable(search, rule, region)
            except RecoveryError as error:
                return [CheckResult(name=f"{region} {DataStore.SEARCH}", passed=False, detail=str(error))]
        words = f"{server.title}, cluster {server.cluster}; repository {rule.repository} at {', '.join(nodes)}"
        return [CheckResult(name=f"{region} {DataStore.SEARCH}", passed=True, detail=words)]

    @asynccontextmanager
    async def opened(self, order: BackupOrder, progress: Progress) -> AsyncIterator[BackupSource]:
        """See the port. The snapshot is taken here; one that did not end whole is deleted, so that it can be tried
        again, and one that goes on is joined by the next attempt."""
        rule = rule_of(order.group)
        request = SnapshotRequest(
            rule.repository,
            order.point_id,
            rule.indices,
            global_state=rule.global_state,
            take_over=order.take_over,
            within_seconds=WITHIN_SECONDS,
        )
        async with self.search(order.group.name, order.region) as search:
            await _writable(search, rule, order.region)
            try:
                source = await search.snapshot(request, telling(progress))
            except SourceFailed as error:
                left = await _delete(search, rule.repository, order.point_id)
                raise SourceFailed(f"{error}{left}") from error
            yield TakenSnapshot(BackupKind.SEARCH, source)

    async def discard(self, group: GroupSnapshot, region: str, point_id: str, manifest: Manifest | None) -> bool:
        """See the port."""
        repository = manifest.search.repository if manifest is not None else rule_of(group).repository
        async with self.search(group.name, region) as search:
            try:
                return await search.delete_snapshot(repository, point_id)
            except NotFound:
                if manifest is not None:  # the repository is not registered any more, and the snapshot may be in it
                    raise
                return False

    async def discard_orphans(
        self, group: GroupSnapshot, points: Sequence[RecoveryPoint], named: Collection[str], before: datetime
    ) -> tuple[int, list[str]]:
        """See the port. None: an undo deletes a search engine's snapshot while it is made."""
        return 0, []

    async def validate(
        self,
        group: GroupSnapshot,
        reader: PointReader,
        scratch_folder: Path,
        progress: Callable[[int, int], None],
        run_id: str,
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        """See the port."""
        manifest = reader.manifest
        try:
            async with self.search(group.name, manifest.source_region) as search, self.scratch(group.name) as scratch:
                return await validate_snapshot(manifest, search, scratch, progress)
        except RecoveryError as error:  # a password that is not on this machine, say
            return VerdictState.FAILED, str(error), []


def rule_of(group: GroupSnapshot) -> SearchRule:
    """Raises BadInput: the group has no search engine."""
    if group.search is None:
        raise BadInput(
            f"group {group.name} has no search engine: set groups.{group.name}.elasticsearch in the configuration"
        )
    return group.search


def telling(progress: Progress) -> SearchProgress:
    """The cluster's progress as a step's."""

    def tell(state: SearchAdvance) -> None:
        progress(state.bytes, state.of_bytes, f"{state.shards} of {state.of_shards} shards")

    return tell


async def _writable(search: SearchRecovery, rule: SearchRule, region: str) -> list[str]:
    """Registers the region's repository where we are told its place, and has every node try it; their names."""
    storage = rule.storage
    if storage is None:
        return await search.verify(rule.repository)
    own = storage.place if storage.type == "s3" else f"{storage.place.rstrip('/')}/{region}"
    return await search.register(
        SearchRepository(
            rule.repository,
            storage.type,
            own,
            base_path="/".join(part for part in (storage.base_path.strip("/"), region) if part),
            client=storage.client,
            settings=storage.settings,
        )
    )


async def _delete(search: SearchRecovery, repository: str, point_id: str) -> str:
    """What to add to the error where it stays."""
    with contextlib.suppress(RecoveryError):
        await search.delete_snapshot(repository, point_id)
        return ""
    return f" It is still in repository {repository}."
