"""The synchronous strength on real PostgreSQL servers: who acknowledges, what voids it, in which order it changes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

from recovery.adapters.postgres.synchronous import acknowledged
from recovery.domain.guarding import GuardOrder, Stopped
from recovery.domain.ownership import AcknowledgingSet, OwnershipRecord
from recovery.errors import Unreachable
from recovery.guard import synchronous
from recovery.guard.acknowledging import Acknowledging
from recovery.guard.quorum import Quorum
from recovery.guard.record import Record
from recovery.guard.synchronous import OnStandbyLoss, parse_names
from tests.integration.postgres_pair import Node, cluster
from tests.integration.postgres_servers import eventually, public_folder

FSYNC = "fsync = on\n"
ONE = AcknowledgingSet(members=["b"], wait_for=1)
ANY = AcknowledgingSet(members=["b", "c"], wait_for=1)
TWO = AcknowledgingSet(members=["b", "c", "d"], wait_for=2)
ORDER = GuardOrder(group="shop", run="r", epoch=1, source="A", target="B", effect_id="e")
AT = datetime(2026, 1, 1, tzinfo=UTC)


class Witness:
    """A compare-and-swap register, and what every write met: what PostgreSQL waited for at that moment."""

    def __init__(self, primary: Node) -> None:
        self.record = OwnershipRecord(group="shop", epoch=1, region="A", guard="A/1", changed_at=AT)
        self.version = 0
        self.primary = primary
        self.claims: list[tuple[AcknowledgingSet | None, str]] = []

    async def read(self, group: str) -> tuple[OwnershipRecord, str] | None:
        return self.record, str(self.version)

    async def write(self, record: OwnershipRecord, *, version: str | None) -> str:
        assert version == str(self.version)
        names = await self.primary.value("SHOW synchronous_standby_names")
        self.claims.append((record.acknowledging, str(names)))
        self.record, self.version = record, self.version + 1
        return str(self.version)


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Node, Node]]:
    with public_folder() as folder:
        async with cluster(folder, "a", "b", settings=FSYNC) as (a, b):
            await b.guarded.demote()
            b.streaming = replace(b.streaming, application_name="b")
            b.guarded = b.another_guard()
            await b.guarded.follow(a.upstream)
            await eventually(lambda: streams(a, "b"))
            yield a, b


async def streams(primary: Node, name: str) -> bool:
    return bool(
        await primary.value(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming'", name
        )
    )


@asynccontextmanager
async def standing_by(*names: str) -> AsyncIterator[tuple[Node, ...]]:
    """A, and its standbys with credentials of their own."""
    with public_folder() as folder:
        async with cluster(folder, "a", *names, settings=FSYNC) as (a, *standbys):
            for node in standbys:
                await a.execute(f"CREATE ROLE replicates_{node.name} LOGIN REPLICATION")
                await node.guarded.demote()
                user = f"replicates_{node.name}"
                node.streaming = replace(node.streaming, user=user, slot=node.name, application_name=node.name)
                node.guarded = node.another_guard()
                await node.guarded.follow(a.upstream)
            yield (a, *standbys)


class Peers:
    """The guards of other regions, as far as they are asked here."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes

    async def stop_receiving(self, region: str, order: GuardOrder) -> Stopped:
        if region not in self.nodes:
            raise Unreachable("it is gone")
        node = self.nodes[region]
        position = await node.guarded.stop_receiving()
        return Stopped(region=region, member=str(node.guarded.member), position=position)

    async def promise(self, region: str, group: str, epoch: int, holder: str, ttl: float) -> bool:
        raise Unreachable("it is not asked here")

    async def nudge(self, region: str, group: str) -> None:
        raise Unreachable("it is not asked here")


class Kept:
    """The guard's loop around ``Acknowledging``."""

    def __init__(
        self, primary: Node, policy: OnStandbyLoss = OnStandbyLoss.WAIT, members: AcknowledgingSet = ONE
    ) -> None:
        self.witness = Witness(primary)
        self.record = Record("shop", self.witness)
        self.keeping = Acknowledging(primary.guarded, members, policy)

    async def look(self) -> list[str]:
        await self.record.read()
        return await self.keeping.keep(self.record, "A", "A/1")

    async def until(
        self, claim: AcknowledgingSet | None, names: AcknowledgingSet | None, seconds: float = 20.0
    ) -> None:
        async def there() -> bool:
            await self.look()
            now = await self.witness.primary.value("SHOW synchronous_standby_names")
            return synchronous.same(self.witness.record.acknowledging, claim) and synchronous.same(
                parse_names(str(now)), names
            )

        await eventually(there)


async def test_the_record_claims_the_set_last_and_gives_it_up_first() -> None:
    async with two() as (a, b):
        kept = Kept(a, OnStandbyLoss.WEAKEN)
        await kept.until(ONE, ONE)
        await a.execute("INSERT INTO marks VALUES (1)")
        assert await b.value("SELECT pg_last_wal_receive_lsn() >= $1::text::pg_lsn", await _flushed_by(a, "b"))

        waiting = await a.connect()
        await b.guarded.demote()
        commit = asyncio.create_task(waiting.execute("INSERT INTO marks VALUES (2)"))
        await kept.until(None, None)
        await asyncio.wait_for(commit, 10)
        await waiting.close()

        await b.guarded.follow(a.upstream)
        await kept.until(ONE, ONE)
        for claim, names in kept.witness.claims:
            assert synchronous.implies(parse_names(names), claim), "the record claimed more than PostgreSQL waited for"
        assert [claim for claim, _ in kept.witness.claims] == [ONE, None, ONE]


async def _flushed_by(primary: Node, name: str) -> str:
    return str(await primary.value("SELECT flush_lsn::text FROM pg_stat_replication WHERE application_name = $1", name))


async def test_a_cancelled_wait_is_reported_as_success_and_is_no_acknowledgement() -> None:
    async with two() as (a, b):
        kept = Kept(a)
        await kept.until(ONE, ONE)
        session = await a.connect()
        assert await acknowledged(session, lambda: session.execute("INSERT INTO marks VALUES (1)"))
        await b.guarded.demote()
        said: list[str] = []

        async def commit() -> None:
            said.append(await session.execute("INSERT INTO marks VALUES (2)"))

        task = asyncio.create_task(acknowledged(session, commit))
        pid = session.get_server_pid()
        await eventually(lambda: _waits_for_standby(a, pid))
        assert not task.done(), "with the policy wait the commit waits"
        assert await kept.look() is not None
        assert kept.witness.record.acknowledging == ONE, "the claim stands: nothing was acknowledged without b"
        await a.value("SELECT pg_cancel_backend($1)", pid)
        assert await asyncio.wait_for(task, 10) is False
        assert said == ["INSERT 0 1"], "PostgreSQL says that it worked"
        await session.close()


async def _waits_for_standby(node: Node, pid: int) -> bool:
    return bool(await node.value("SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1", pid))


async def test_nothing_is_acknowledged_after_the_member_stopped_and_it_has_all_that_was() -> None:
    async with two() as (a, b):
        kept = Kept(a)
        await kept.until(ONE, ONE)
        confirmed: list[int] = []

        async def writes() -> None:
            session = await a.connect()
            for number in range(1, 100_000):
                if await acknowledged(session, lambda: session.execute(f"INSERT INTO marks VALUES ({number})")):  # noqa: B023
                    confirmed.append(number)

        load = asyncio.create_task(writes())
        await eventually(lambda: _enough(confirmed))
        found = await Quorum(b.guarded, {}, [], Peers({})).judge(ONE, ORDER)
        assert found.why_not is None
        at_stop = len(confirmed)
        await a.value("SELECT pg_sleep(1)")
        assert len(confirmed) <= at_stop + 1, "at most the one whose acknowledgement was under way"
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        await b.guarded.promote(2)
        there = await b.value("SELECT array_agg(id) FROM marks")
        assert set(confirmed) <= set(there)
        await asyncio.wait_for(b.execute("INSERT INTO marks VALUES (-1)"), 20)  # the new primary waits for nobody


async def test_one_of_two_acknowledges_and_the_target_gets_from_the_other_what_it_lacks() -> None:
    """W < N: C alone had what was acknowledged, and B is promoted."""
    async with standing_by("b", "c") as (a, b, c):
        kept = Kept(a, members=ANY)
        await kept.until(ANY, ANY)
        confirmed: list[int] = []
        session = await a.connect()
        await b.guarded.stop_receiving()  # its network is gone, say
        for number in range(1, 50):
            assert await acknowledged(session, lambda: session.execute(f"INSERT INTO marks VALUES ({number})"))  # noqa: B023
            confirmed.append(number)
        await session.close()
        alone = await Quorum(b.guarded, {}, [], Peers({})).judge(ANY, ORDER.model_copy(update={"deadline": 0.1}))
        assert alone.why_not == "1 of b, c confirmed that they receive nothing more, 2 have to"

        peers = Peers({"C": c})
        found = await Quorum(b.guarded, {"C": c.upstream}, ["C"], peers).judge(ANY, ORDER)
        assert found.why_not is None and found.stopped["b"] == found.stopped["c"]
        assert await c.value("SELECT count(*) FROM pg_replication_slots") == 0
        assert await b.guarded.is_detached() and await c.guarded.is_detached()
        late = await a.connect()
        commit = asyncio.create_task(late.execute("INSERT INTO marks VALUES (-1)"))
        await eventually(lambda: _waits_for_standby(a, late.get_server_pid()))
        await a.guarded.demote()
        await asyncio.gather(commit, return_exceptions=True)
        await b.guarded.promote(2)
        there = await b.value("SELECT array_agg(id) FROM marks")
        assert set(confirmed) <= set(there) and -1 not in there
        await c.guarded.follow(b.upstream)
        assert not await c.guarded.is_detached()


async def test_two_of_three_acknowledge_and_one_that_is_lost_is_not_missed() -> None:
    """W < N, and R < N: B lacks what C and D acknowledged, D is gone for good, and B is promoted with all of it."""
    async with standing_by("b", "c", "d") as (a, b, c, d):
        kept = Kept(a, members=TWO)
        await kept.until(TWO, TWO)
        await b.guarded.stop_receiving()
        confirmed: list[int] = []
        session = await a.connect()
        for number in range(1, 50):
            assert await acknowledged(session, lambda: session.execute(f"INSERT INTO marks VALUES ({number})"))  # noqa: B023
            confirmed.append(number)
        await session.close()
        await d.guarded.demote()
        late = await a.connect()
        commit = asyncio.create_task(late.execute("INSERT INTO marks VALUES (-1)"))
        await eventually(lambda: _waits_for_standby(a, late.get_server_pid()))

        alone = await Quorum(b.guarded, {}, ["D"], Peers({})).judge(TWO, ORDER.model_copy(update={"deadline": 0.1}))
        assert alone.why_not == "1 of b, c, d confirmed that they receive nothing more, 2 have to; D: it is gone"
        found = await Quorum(b.guarded, {"C": c.upstream}, ["C", "D"], Peers({"C": c})).judge(TWO, ORDER)
        assert found.why_not is None and set(found.stopped) == {"b", "c"}
        assert found.stopped["b"] == found.stopped["c"]
        await a.guarded.demote()
        await asyncio.gather(commit, return_exceptions=True)
        await b.guarded.promote(2)
        assert set(confirmed) <= set(await b.value("SELECT array_agg(id) FROM marks"))


async def test_a_stopped_standby_that_its_service_manager_starts_follows_nobody() -> None:
    async with two() as (a, b):
        await b.guarded.demote()
        await b.guarded.stop_receiving()
        await b.guarded.start()
        await a.execute("INSERT INTO marks VALUES (1)")
        assert not await streams(a, "b") and await b.value("SHOW primary_conninfo") == ""
        await b.guarded.observe()
        assert await b.guarded.is_detached()
        await b.guarded.follow(a.upstream)
        await eventually(lambda: streams(a, "b"))


async def _enough(confirmed: list[int]) -> bool:
    return len(confirmed) > 50


async def test_weaker_settings_and_false_members_void_the_claim_and_are_named() -> None:
    async with two() as (a, _):
        kept = Kept(a)
        await kept.until(ONE, ONE)
        await a.execute("CREATE ROLE batch; ALTER ROLE batch SET synchronous_commit = off")
        assert await kept.look() == ["synchronous_commit is off for role batch"]
        assert kept.witness.record.acknowledging is None
        await a.execute("ALTER ROLE batch RESET ALL")
        await kept.until(ONE, ONE)

        await a.execute("ALTER SYSTEM SET synchronous_commit = local")
        await a.execute("SELECT pg_reload_conf()")
        reasons = await eventually(kept.look)
        assert "synchronous_commit is local for the whole server" in reasons[0] and "auto.conf" in reasons[0]
        await a.execute("ALTER SYSTEM RESET synchronous_commit")
        await a.execute("SELECT pg_reload_conf()")
        await kept.until(ONE, ONE)

        async with archiver(a, "b"):
            reasons = await eventually(kept.look)
            assert any("archiver" in reason for reason in reasons), reasons
            assert any("2 connections call themselves b" in reason for reason in reasons), reasons
            assert kept.witness.record.acknowledging is None


async def test_a_set_that_somebody_changed_ends_the_claim_and_is_put_back() -> None:
    async with two() as (a, _):
        kept = Kept(a)
        await kept.until(ONE, ONE)
        await a.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        await a.execute("SELECT pg_reload_conf()")

        async def given_up() -> bool:
            await kept.look()
            return (None, "") in kept.witness.claims

        await eventually(given_up)
        await kept.until(ONE, ONE)


@asynccontextmanager
async def archiver(primary: Node, name: str) -> AsyncIterator[None]:
    """A pg_receivewal that calls itself ``name``: it acknowledges, and can never be promoted."""
    tool = await primary.postgres.host.binaries.tool(16, "pg_receivewal")
    folder = primary.folder / "received"
    folder.mkdir()
    place = f"host=127.0.0.1 port={primary.place.port} user=replicator sslmode=disable application_name={name}"
    process = await asyncio.create_subprocess_exec(
        str(tool), "-D", str(folder), "-d", place, "--synchronous", "--no-loop", stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await eventually(lambda: _connections(primary, name, 2))
        yield
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()


async def _connections(primary: Node, name: str, count: int) -> bool:
    return bool(
        await primary.value("SELECT count(*) = $2 FROM pg_stat_replication WHERE application_name = $1", name, count)
    )
