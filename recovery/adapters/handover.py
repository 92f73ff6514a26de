"""What the steps of failover, switchover and reprotect ask of PostgreSQL in any region: ``recovery.ports.handover``.

Redis and JetStream are asked through their guards alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import asyncpg

from recovery.adapters.diverged_folder import objects_of
from recovery.adapters.logins import Logins
from recovery.adapters.postgres.connection import Connection, connected, quoted
from recovery.adapters.postgres.refusal import let_clients_in, take_down
from recovery.adapters.restores import PROBE_TABLE
from recovery.domain.divergence import Divergence
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import Promotion, StoreRole, StoreState
from recovery.domain.handover import StoreDivergence
from recovery.domain.ownership import Strength
from recovery.domain.recovery_point import CheckResult
from recovery.domain.replication import Drained, standby_slot
from recovery.domain.timelines import lsn_order
from recovery.errors import NotFound, RecoveryError, Refused, Unreachable
from recovery.ports.handover import Progress, Rejoining
from recovery.ports.postgres import PostgresLogin, PostgresPlace
from recovery.ports.standby import DivergenceSink, PostgresStandbys, Refusing, RejoinOptions, Streaming

STORE = "postgres"
ANSWER = 5.0  # seconds
ARCHIVED = 20.0
PROMOTED = 60
LISTED = 20  # transactions that a report names

CHECK = "SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') = 'on' AS read_only"
ARCHIVER = """
SELECT current_setting('archive_mode') AS mode, current_setting('archive_command', true) AS command,
       (SELECT last_archived_wal FROM pg_stat_archiver) AS archived,
       substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS timeline
"""


class ReplicationLogins(Logins, Protocol):
    """Logins with that of standbys."""

    async def replication(self, group: str, region: str, standby: str) -> PostgresLogin:
        """At the server of ``region``, as the role that the region ``standby`` streams as."""
        ...


@dataclass
class PostgresHandover:
    """``recovery.ports.handover.Handover``.

    Args:
        standbys: for a group and a region, on that region's worker.
        sink: where the diverged WAL of a region is put aside (group, region, effect id).
    """

    logins: ReplicationLogins
    standbys: Callable[[str, str], PostgresStandbys]
    sink: Callable[[GroupSnapshot, str, str], DivergenceSink]

    async def observe(self, group: GroupSnapshot, region: str) -> list[StoreState]:
        """See the port."""
        if group.region(region).postgres is None:
            return []
        login = await self._login(group, region)
        standbys = self.standbys(group.name, region)
        state, history = await asyncio.gather(
            standbys.replication_state(login, timeout=ANSWER), standbys.history(login, timeout=ANSWER)
        )
        return [
            StoreState(
                store=STORE,
                role=StoreRole.STANDBY if state.in_recovery else StoreRole.PRIMARY,
                strength=Strength.MANUAL,
                position=state.position,
                order=lsn_order(state.position),
                timeline=state.timeline,
                history=str(history),
                lag_seconds=state.lag_seconds,
                heard_seconds_ago=state.heard_seconds_ago,
                receives=state.receiving if state.in_recovery else None,
            )
        ]

    async def precheck(self, group: GroupSnapshot, region: str, *, primary: bool) -> list[CheckResult]:
        """See the port."""
        if group.region(region).postgres is None:
            return []
        wanted = "primary" if primary else "standby"
        try:
            async with self._session(group, region, "look at it") as session:
                found = await session.fetchrow(CHECK)
        except RecoveryError as error:
            return [CheckResult(name=f"{STORE} connectivity", passed=False, detail=str(error))]
        is_standby = bool(found and found["standby"])
        return [
            CheckResult(name=f"{STORE} connectivity", passed=True, detail=f"{region} lets us in"),
            CheckResult(
                name=f"{STORE} recovery",
                passed=is_standby is not primary,
                detail=f"a {wanted} is expected, and it is a {'standby' if is_standby else 'primary'}",
            ),
        ]

    async def last_commit(self, group: GroupSnapshot, region: str) -> datetime | None:
        """See the port. A server forgets it when it is started again."""
        async with self._session(group, region, "ask for its last transaction") as session:
            found: datetime | None = await session.fetchval("SELECT pg_last_xact_replay_timestamp()")
            return found

    async def write_probe(self, group: GroupSnapshot, region: str, run_id: str) -> datetime:
        """See the port. The row stays: it is evidence, one per run."""
        async with self._session(group, region, "write a probe row") as session:
            await session.execute(PROBE_TABLE)
            at: datetime = await session.fetchval(
                "INSERT INTO recovery_plans.probe VALUES ($1, clock_timestamp())"
                " ON CONFLICT (run_id) DO UPDATE SET at = recovery_plans.probe.at RETURNING at",
                run_id,
            )
            return at

    async def checklist(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        """See the port."""
        if group.region(region).postgres is None:
            return []
        try:
            login = await self._login(group, region)
            async with connected(login, "verify it") as session:
                checks = [_accepts_writes(await session.fetchrow(CHECK))]
            database = group.logical_databases[0] if group.logical_databases else login.database
            async with connected(login.at(database), "read its critical tables") as session:
                checks += [await _readable(session, table) for table in group.critical_tables]
        except RecoveryError as error:
            return [CheckResult(name=f"{STORE} connectivity", passed=False, detail=str(error))]
        return checks

    async def make_slots(self, group: GroupSnapshot, owner: str, followers: list[str]) -> list[str]:
        """See the port."""
        login = await self._login(group, owner)
        return await self.standbys(group.name, owner).create_slots(
            login, [standby_slot(region) for region in followers]
        )

    async def drop_old_slots(self, group: GroupSnapshot, region: str, owner: str) -> list[str]:
        """See the port."""
        login, upstream = await self._login(group, region), await self._login(group, owner)
        here, there = await asyncio.gather(
            self.standbys(group.name, region).replication_state(login, timeout=ANSWER),
            self.standbys(group.name, owner).replication_state(upstream, timeout=ANSWER),
        )
        if there.in_recovery or not here.in_recovery or not here.receiving:
            return []
        others = {standby_slot(each.name): each.name for each in group.regions if each.name != region}
        streams = {slot.name for slot in there.slots if slot.active}
        useless = [
            slot.name
            for slot in here.slots
            if slot.name in others and slot.physical and not slot.active and not slot.temporary
            if others[slot.name] == owner or slot.name in streams
        ]
        return await self.standbys(group.name, region).drop_slots(login, useless) if useless else []

    async def move_archive(self, group: GroupSnapshot, owner: str) -> str:
        """See the port. Raises Refused where archiving fails on the new timeline, Unreachable where nothing comes."""
        async with self._session(group, owner, "look at its archiver") as session:
            found = await session.fetchrow(ARCHIVER)
            if found is None or found["mode"] == "off" or not (found["command"] or "").strip():
                return "the server archives no WAL by itself; a base backup of the new timeline was asked for"
            await session.execute("SELECT pg_switch_wal()")
            until = asyncio.get_running_loop().time() + ARCHIVED
            while asyncio.get_running_loop().time() < until:
                now = await session.fetchrow(ARCHIVER)
                if now is not None and (now["archived"] or "").startswith(now["timeline"]):
                    return f"timeline {int(now['timeline'], 16)} is archived up to {now['archived']}"
                await asyncio.sleep(0.2)
        raise Unreachable(f"{owner} has not archived a segment of its new timeline within {ARCHIVED:g} s")

    async def drain(self, group: GroupSnapshot, region: str, grace: float) -> Drained:
        """See the port."""
        login = await self._login(group, region)
        refuse: Refusing = "never"  # another manager writes pg_hba.conf itself
        if group.managed_by == "self":
            refuse = "standby" if group.guarded else "always"
        return await self.standbys(group.name, region).drain(login, grace=grace, refuse=refuse)

    async def promote(self, group: GroupSnapshot, region: str, epoch: int) -> Promotion:
        """See the port."""
        async with self._session(group, region, "promote it") as session:
            standby = bool(await session.fetchval("SELECT pg_is_in_recovery()"))
            before = None
            if standby:
                before = str(await session.fetchval("SELECT pg_last_wal_replay_lsn()::text"))
                if not await session.fetchval(f"SELECT pg_promote(true, {PROMOTED})"):
                    raise Unreachable(f"PostgreSQL in {region} was not promoted within {PROMOTED} s")
            await let_clients_in(session)
            position = str(await session.fetchval("SELECT pg_current_wal_lsn()::text"))
        return Promotion(
            store=STORE, epoch=epoch, at=datetime.now(UTC), position=position, before=before, already=not standby
        )

    async def save_divergence(self, order: Rejoining) -> list[StoreDivergence]:
        """See the port. Of PostgreSQL; a Redis and a JetStream under guard save theirs when they begin to follow."""
        group = order.group
        if group.region(order.region).postgres is None:
            return []
        saved = await self.standbys(group.name, order.region).save_divergence(
            place_of(group, order.region),
            await self.logins.replication(group.name, order.owner, order.region),
            self.sink(group, order.region, order.effect_id),
            effect_id=order.effect_id,
        )
        return [_as_store_divergence(saved, order.region)]

    async def rejoin(self, order: Rejoining, progress: Progress) -> str:
        """See the port. The server is left stopped: only its guard starts it."""
        group = order.group

        def tell(done: int, expected: int) -> None:
            progress(done, expected, "rejoining")

        place = place_of(group, order.region)
        await asyncio.to_thread(take_down, place.data_directory)
        rejoined = await self.standbys(group.name, order.region).rejoin(
            place,
            await self._login(group, order.owner),
            RejoinOptions(
                effect_id=order.effect_id,
                streaming=await self._streaming(group, order.region, order.owner),
                start=not group.guarded,
            ),
            tell,
        )
        words = {"follow": "its data needed no change", "rewind": "rewound", "clone": "cloned anew"}[rejoined.method]
        why = f" ({rejoined.why_not_rewind})" if rejoined.why_not_rewind else ""
        return f"{order.region}: {words}{why}, {rejoined.seconds:.1f} s"

    async def _login(self, group: GroupSnapshot, region: str) -> PostgresLogin:
        if group.region(region).postgres is None:
            raise NotFound(f"region {region} of group {group.name} has no PostgreSQL")
        return await self.logins.admin(group.name, region)

    async def _streaming(self, group: GroupSnapshot, region: str, owner: str) -> Streaming:
        login = await self.logins.replication(group.name, owner, region)
        return Streaming(
            host=login.host,
            port=login.port,
            user=login.user,
            password=login.password,
            slot=standby_slot(region),
            application_name=standby_slot(region),
            sslmode=login.sslmode,
            sslrootcert=login.sslrootcert,
        )

    @contextlib.asynccontextmanager
    async def _session(self, group: GroupSnapshot, region: str, what: str) -> AsyncIterator[Connection]:
        async with connected(await self._login(group, region), what) as session:
            yield session


def place_of(group: GroupSnapshot, region: str) -> PostgresPlace:
    """Where the region's PostgreSQL lives on its host. Raises Refused where the configuration does not say."""
    at = group.region(region).postgres
    if at is None or at.data_directory is None:
        raise Refused(
            f"an old primary is rejoined on its own host: set groups.{group.name}.regions.{region}.postgres."
            "data_directory in the configuration"
        )
    return PostgresPlace(at.host, at.port, Path(at.data_directory), at.run_as)


def _accepts_writes(found: asyncpg.Record | None) -> CheckResult:
    standby, read_only = (found["standby"], found["read_only"]) if found is not None else (True, True)
    words = "it is a standby" if standby else "its sessions are read-only" if read_only else "it accepts writes"
    return CheckResult(name=f"{STORE} accepts writes", passed=not standby and not read_only, detail=words)


async def _readable(session: Connection, table: str) -> CheckResult:
    name = ".".join(quoted(part) for part in table.split("."))
    found = await session.fetchval("SELECT to_regclass($1)::text", name)
    if found is None:
        return CheckResult(name=f"table {table}", passed=False, detail="it is not there")
    await session.fetchval(f"SELECT 1 FROM {name} LIMIT 1")
    return CheckResult(name=f"table {table}", passed=True, detail="it is there and can be read")


def _as_store_divergence(saved: Divergence, region: str) -> StoreDivergence:
    listed = [
        f"{transaction.committed_at:%Y-%m-%d %H:%M:%S} UTC xid {transaction.xid}: "
        f"{', '.join(transaction.relations[:3]) or 'no table'}"
        for transaction in saved.transactions
        if not transaction.maintenance
    ]
    return StoreDivergence(
        store=STORE,
        region=region,
        since=saved.fork_lsn,
        until=saved.end_lsn,
        bytes=saved.bytes,
        transactions=saved.count,
        files=[objects_of(saved.place, file.name) for file in saved.files],
        listed=listed[:LISTED],
        saved_at=datetime.now(UTC),
        detail=saved.summary(),
    )
