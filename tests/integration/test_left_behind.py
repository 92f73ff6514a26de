"""What a server does whose place another one took: it lets no client in, and keeps nothing that nobody needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from recovery.adapters.postgres.canary import read_canaries, write_canary
from recovery.adapters.postgres.connection import connected
from recovery.adapters.postgres.standbys import LocalStandbys
from tests.integration.postgres_pair import Node, cluster, replayed
from tests.integration.postgres_servers import eventually, public_folder


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Node, Node]]:
    with public_folder() as folder:
        async with cluster(folder, "a", "b") as (a, b):
            yield a, b


def standbys(node: Node) -> LocalStandbys:
    return LocalStandbys(node.postgres.host.binaries)


async def test_clients_are_drained_and_the_rest_is_ended(pair: tuple[Node, Node]) -> None:
    a, b = pair
    leaving, staying = await a.connect(), await a.connect()

    async def leave() -> None:
        await asyncio.sleep(0.2)
        await leaving.close()

    task = asyncio.create_task(leave())
    done = await standbys(a).drain(a.login, grace=1.0)
    await task
    assert (done.found, done.terminated, done.left) == (2, 1, 0)
    assert staying.is_closed() or done.terminated == 1
    assert await b.value("SELECT status FROM pg_stat_wal_receiver") == "streaming"


async def _lets_in(node: Node, user: str) -> bool:
    try:
        connection = await asyncpg.connect(
            host=node.place.host, port=node.place.port, user=user, database="postgres", ssl=False
        )
    except asyncpg.InvalidAuthorizationSpecificationError:
        return False
    await connection.close()
    return True


async def test_a_standby_refuses_clients_while_the_old_ones_leave(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await a.execute("CREATE ROLE app LOGIN")
    await replayed(b, a)
    staying = await asyncpg.connect(host=b.place.host, port=b.place.port, user="app", database="postgres", ssl=False)
    rules = (b.data / "pg_hba.conf").read_text()
    draining = asyncio.create_task(standbys(b).drain(b.login, grace=3.0, refuse="standby"))
    await eventually(lambda: _refuses(b))
    assert await _lets_in(b, "postgres") and await _lets_in(b, "replicator"), "people, standbys and backups go on"
    done = await draining
    assert (done.terminated, done.left, done.why_not_refused) == (1, 0, "")
    assert done.found in (1, 2), "the one that stays, and the one that asked whether it is let in"
    assert staying.is_closed() or not await _alive(staying)
    assert await _lets_in(b, "app"), "a standby takes readers again"
    assert (b.data / "pg_hba.conf").read_text() == rules
    assert await b.value("SELECT status FROM pg_stat_wal_receiver") == "streaming"


async def test_a_primary_that_was_replaced_refuses_clients_until_it_is_promoted_again(
    pair: tuple[Node, Node],
) -> None:
    a, _ = pair
    await a.execute("CREATE ROLE app LOGIN")
    assert await _lets_in(a, "app")
    done = await standbys(a).drain(a.login, grace=0.2, refuse="always")
    assert done.why_not_refused == "" and not await _lets_in(a, "app")
    guarded = await standbys(a).drain(a.login, grace=0.2, refuse="standby")
    assert guarded.why_not_refused, "under a guard it has a right to its clients"
    promotion = await a.guarded.promote(2, owner=True)
    assert promotion.already and await _lets_in(a, "app")


async def _refuses(node: Node) -> bool:
    return not await _lets_in(node, "app")


async def _alive(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    try:
        return bool(await connection.fetchval("SELECT true"))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return False


async def test_who_backs_up_may_write_its_canary_whoever_made_the_schema(pair: tuple[Node, Node]) -> None:
    a, b = pair
    await a.execute("CREATE ROLE keeper LOGIN REPLICATION; GRANT pg_read_all_data TO keeper; CREATE ROLE app LOGIN")
    assert (await standbys(a).write_probe(a.login, vantage="one")).written, "the schema is the monitor's"
    async with connected(replace(a.login, user="keeper"), "write the canary") as session:
        await write_canary(session, "point-1")
        assert await read_canaries(session) == {"point-1"}
        assert await session.fetchval("SELECT count(*) FROM recovery_plans.heartbeat") == 1
    async with connected(replace(a.login, user="app"), "write the canary") as session:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await write_canary(session, "forged")
    await replayed(b, a)
    assert await b.value("SELECT value FROM recovery_plans.canary") == "point-1"
