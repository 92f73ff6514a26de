"""``PostgresStandbys`` with the PostgreSQL programs of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recovery.adapters.postgres import replication_state
from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.divergence import save_divergence
from recovery.adapters.postgres.draining import drain
from recovery.adapters.postgres.local_server import LocalServer
from recovery.adapters.postgres.rewind import rejoin
from recovery.adapters.postgres.upstream import identify_upstream
from recovery.domain.divergence import Divergence
from recovery.domain.replication import Drained, ReplicationState, WriteProbe
from recovery.domain.timelines import History
from recovery.ports.postgres import PostgresLogin, PostgresPlace, Progress
from recovery.ports.standby import DivergenceSink, Refusing, Rejoined, RejoinOptions


class LocalStandbys:
    """``binaries`` and ``run_as`` as ``LocalPostgres`` takes them. Servers run as their data directory's owner."""

    def __init__(self, binaries: PostgresBinaries | None = None, *, run_as: str | None = None) -> None:
        self._binaries = binaries or PostgresBinaries()
        self._run_as = run_as

    async def replication_state(self, login: PostgresLogin, *, timeout: float = 5.0) -> ReplicationState:
        return await replication_state.read_replication(login, timeout=timeout)

    async def history(self, login: PostgresLogin, *, timeout: float = 5.0) -> History:
        """Without the marks of its forks: those are in a guard's ``StoreState.history``."""
        return (await identify_upstream(login, timeout=timeout)).history

    async def write_probe(
        self, login: PostgresLogin, *, vantage: str, epoch: int | None = None, timeout: float = 5.0
    ) -> WriteProbe:
        return await replication_state.write_probe(login, vantage=vantage, epoch=epoch, timeout=timeout)

    async def has_received(self, login: PostgresLogin, lsn: str) -> bool:
        return await replication_state.has_received(login, lsn)

    async def wait_until_replayed(self, login: PostgresLogin, lsn: str, seconds: float) -> str:
        return await replication_state.wait_until_replayed(login, lsn, seconds)

    async def save_divergence(
        self, place: PostgresPlace, upstream: PostgresLogin, sink: DivergenceSink, *, effect_id: str
    ) -> Divergence:
        return await save_divergence(self._server(place, upstream), upstream, sink, effect_id=effect_id)

    async def rejoin(
        self,
        place: PostgresPlace,
        upstream: PostgresLogin,
        options: RejoinOptions,
        progress: Progress | None = None,
    ) -> Rejoined:
        server = self._server(place, upstream, options)
        return await rejoin(server, upstream, options, progress)

    async def create_slots(self, login: PostgresLogin, names: Sequence[str]) -> list[str]:
        return await replication_state.create_slots(login, names)

    async def drop_slots(self, login: PostgresLogin, names: Sequence[str]) -> list[str]:
        return await replication_state.drop_slots(login, names)

    async def drain(
        self, login: PostgresLogin, *, grace: float = 30.0, keep_users: Sequence[str] = (), refuse: Refusing = "never"
    ) -> Drained:
        return await drain(login, grace=grace, keep_users=keep_users, refuse=refuse)

    def _server(
        self, place: PostgresPlace, upstream: PostgresLogin, options: RejoinOptions | None = None
    ) -> LocalServer:
        """Users and passwords are the upstream's: it is the same database cluster."""
        login = replace(upstream, host=place.host, port=place.port)
        settings = dict(options.settings) if options is not None and options.settings else None
        place = replace(place, run_as=place.run_as or self._run_as)
        return LocalServer(place, login, binaries=self._binaries, settings=settings)
