"""The search engine's side of recovery points: ``SearchRecovery`` of one cluster.

login = SearchLogin("recovery", password, tls)
async with SearchSnapshots("https://search.eu-west-1.example.com:9200", login) as search:
    source = await search.snapshot(SnapshotRequest("recovery", point_id))
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from recovery.adapters.search import repositories, snapshots
from recovery.adapters.search.completing import compare, complete
from recovery.adapters.search.connection import SearchConnection, SearchLimits, SearchLogin, ServerSaid, judged
from recovery.adapters.search.marks import marks, remove_marked
from recovery.adapters.search.restoring import Restore
from recovery.adapters.search.watching import await_status
from recovery.domain.recovery_point import CheckResult
from recovery.domain.search import SearchServer, SearchSnapshot, SearchSource
from recovery.errors import Unreachable
from recovery.ports.search import (
    RestoredIndices,
    SearchProgress,
    SearchRepository,
    SearchRestoreOptions,
    SearchStatus,
    SnapshotRequest,
)


class SearchSnapshots:
    """``SearchRecovery`` of the cluster at an address. Close it in the end.

    Raises BadInput where the address cannot be used.
    """

    def __init__(self, address: str, login: SearchLogin | None = None, limits: SearchLimits | None = None) -> None:
        self._connection = SearchConnection(address, login, limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connection.close()

    async def server(self) -> SearchServer:
        with self._judging("could not be asked what it is"):
            return await self._connection.server()

    async def register(self, repository: SearchRepository, *, replace: bool = False) -> list[str]:
        with self._judging("could not register a repository"):
            await self._connection.server()
            return await repositories.register(self._connection, repository, replace)

    async def verify(self, repository: str) -> list[str]:
        with self._judging("could not try a repository"):
            return await repositories.verify(self._connection, repository)

    async def attach(self, source: SearchSource, name: str) -> str:
        with self._judging("could not register a repository"):
            await self._connection.server()
            return await repositories.attach(self._connection, source, name)

    async def snapshot(self, request: SnapshotRequest, progress: SearchProgress | None = None) -> SearchSource:
        with self._judging("could not take a snapshot"):
            return await snapshots.take(self._connection, request, progress)

    async def snapshots(self, repository: str) -> list[SearchSnapshot]:
        with self._judging("could not list snapshots"):
            return await snapshots.everything(self._connection, repository)

    async def inspect(self, source: SearchSource, repository: str) -> str:
        with self._judging("could not look at a snapshot"):
            return await snapshots.inspect(self._connection, source, repository)

    async def delete_snapshot(self, repository: str, point: str, *, within_seconds: float = 600.0) -> bool:
        with self._judging("could not delete a snapshot"):
            return await snapshots.delete(self._connection, repository, point, within_seconds)

    async def check_restore(self, source: SearchSource, options: SearchRestoreOptions) -> list[CheckResult]:
        with self._judging("could not be asked what a restore would meet"):
            return await Restore(self._connection, source, options).checks()

    async def restore(
        self, source: SearchSource, options: SearchRestoreOptions, progress: SearchProgress | None = None
    ) -> RestoredIndices:
        with self._judging("could not restore"):
            return await Restore(self._connection, source, options).run(progress)

    async def differences(self, source: SearchSource, restored: Mapping[str, str]) -> list[str]:
        with self._judging("could not be compared"):
            return (await compare(self._connection, source, restored)).differences

    async def complete(
        self, source: SearchSource, restored: Mapping[str, str], restore_id: str, *, aliases: bool
    ) -> list[str]:
        with self._judging("could not complete a restore"):
            return await complete(self._connection, source, restored, restore_id, aliases=aliases)

    async def unfinished(self) -> dict[str, list[str]]:
        with self._judging("could not be asked for unfinished restores"):
            return await marks(self._connection)

    async def remove_restored(self, restore_id: str) -> list[str]:
        with self._judging("could not remove what was restored"):
            return await remove_marked(self._connection, restore_id)

    async def wait_for(self, status: SearchStatus, indices: Sequence[str] = (), *, within_seconds: float) -> str:
        with self._judging("could not be watched"):
            return await await_status(self._connection, status, indices, within_seconds)

    @contextlib.contextmanager
    def _judging(self, what: str) -> Iterator[None]:
        """Answers that no step has a better word for, and answers that are not of the form they should have."""
        try:
            yield
        except ServerSaid as error:
            raise judged(error, f"{self._connection.name} {what}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unreachable(
                f"{self._connection.name} {what}: its answer is not one of a search engine ({error!r})."
            ) from error
