"""PgBouncer's console and the poolers of a group, against a console that is as strict as the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.routing import RoutingSteps
from recovery.adapters.pgbouncer import PgBouncer, PgBouncerAt, PgBouncerRouting, Pool
from recovery.domain.group import GroupSnapshot, Objectives, RegionPlan
from recovery.domain.plan import Facts, PlanContext, PlanRequest
from recovery.errors import NotFound, Refused, Unreachable
from tests.contract.pgbouncer_console import PASSWORD, USER, Console, Database, console


@pytest.fixture
async def server() -> AsyncIterator[Console]:
    async with console() as found:
        yield found


def at(server: Console, *, port: int | None = None, password: str = PASSWORD) -> PgBouncerAt:
    return PgBouncerAt("127.0.0.1", port or server.port, USER, tuple(server.databases), password)


def pooler(server: Console, *, password: str = PASSWORD) -> PgBouncer:
    return PgBouncer(at(server, password=password), answer_seconds=1.0)


async def test_the_console_takes_no_extended_protocol(server: Console) -> None:
    """Why this adapter does not use asyncpg."""
    with pytest.raises((asyncpg.PostgresError, OSError)):
        connection = await asyncpg.connect(
            host="127.0.0.1", port=server.port, user=USER, password=PASSWORD, database="pgbouncer", ssl=False
        )
        await connection.fetch("SHOW POOLS")


async def test_what_it_shows(server: Console) -> None:
    server.remembered["db.shop.test"] = [(11, "10.0.0.1")]
    found = pooler(server)
    assert await found.pools() == [Pool("shop", "app", 1, 1, 0, 2.5)]
    assert [(db.name, db.host, db.paused) for db in await found.databases()] == [("shop", "db.shop.test", False)]
    assert await found.servers("shop") == {("10.0.0.1", 5432)}
    assert await found.servers("other") == set()
    (host,) = await found.resolved()
    assert (host.name, host.ttl, host.addresses) == ("db.shop.test", 11, ("10.0.0.1",))


async def test_pause_and_resume_may_be_repeated(server: Console) -> None:
    found = pooler(server)
    for _ in range(2):
        await found.pause("shop", 1)
    assert server.databases["shop"].paused
    for _ in range(2):
        await found.resume("shop")
    assert not server.databases["shop"].paused


async def test_a_pause_that_does_not_come_is_taken_back(server: Console) -> None:
    server.databases["shop"].busy = 3
    with pytest.raises(Unreachable, match=r"transactions of shop did not end within 0\.2 s \(3 server connections"):
        await pooler(server).pause("shop", 0.2)
    assert not server.databases["shop"].paused


async def test_a_wrong_password_is_refused_and_not_shown(server: Console) -> None:
    with pytest.raises(Refused, match="did not let admin in: .*admin_users") as failure:
        await pooler(server, password="a-wrong-one").pools()
    assert "a-wrong-one" not in str(failure.value) + repr(at(server, password="a-wrong-one"))


async def test_an_unknown_database_is_named(server: Console) -> None:
    with pytest.raises(NotFound, match="no such database: nobody"):
        await pooler(server).pause("nobody", 1)


async def test_one_that_is_silent_is_given_up_in_time(server: Console) -> None:
    server.silent = True
    began = asyncio.get_running_loop().time()
    with pytest.raises(Unreachable, match="did not answer RELOAD in 1 s"):
        await pooler(server).reload()
    assert asyncio.get_running_loop().time() - began < 3


async def test_nobody_listens(server: Console) -> None:
    with pytest.raises(Unreachable, match="127.0.0.1:9 was not reached"):
        await PgBouncer(at(server, port=9)).reload()


# All poolers of a group


def routing(*servers: Console, dead: bool = False) -> PgBouncerRouting:
    async def poolers(group: str) -> list[PgBouncerAt]:
        return [*(at(server) for server in servers), *([at(servers[0], port=9)] if dead else [])]

    return PgBouncerRouting(poolers, lambda found: PgBouncer(found, answer_seconds=1.0), look_every=0.01)


def group(*poolers: str) -> GroupSnapshot:
    return GroupSnapshot(
        name="shop",
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="a",
        regions=[RegionPlan(name="a", task_queue="a")],
        poolers=list(poolers),
        pause_timeout=timedelta(seconds=0.3),
    )


async def test_an_unplanned_switch_cuts_stale_connections_and_lets_clients_on(server: Console) -> None:
    server.databases["shop"].busy = 5  # queries that wait for a dead server
    assert await routing(server).move(group(), held=False, within=timedelta(seconds=1)) == []
    changes = [command for command in server.commands if not command.startswith("SHOW")]
    assert changes == ['KILL "shop"', "RELOAD", 'RESUME "shop"']
    assert (server.databases["shop"].paused, server.databases["shop"].busy) == (False, 0)


async def test_clients_are_not_let_on_while_the_old_address_is_remembered(server: Console) -> None:
    server.remembered["db.shop.test"] = [(3, "10.0.0.1"), (2, "10.0.0.1"), (1, "10.0.0.1"), (0, "10.0.0.1")]
    assert await routing(server).move(group(), held=False, within=timedelta(seconds=5)) == []
    assert server.commands.count("SHOW DNS_HOSTS") == 4
    assert server.commands[-1] == 'RESUME "shop"'


async def test_an_address_that_is_remembered_for_too_long_is_said(server: Console) -> None:
    server.remembered["db.shop.test"] = [(900, "10.0.0.1")]
    (note,) = await routing(server).move(group(), held=False, within=timedelta(seconds=0.1))
    assert "remembers db.shop.test for 900 s more: set its dns_max_ttl lower" in note
    assert not server.databases["shop"].paused


async def test_a_planned_switch_holds_and_then_moves(server: Console) -> None:
    found = routing(server)
    await found.hold(group(), timedelta(seconds=1))
    assert server.databases["shop"].paused
    await found.move(group(), held=True, within=timedelta(seconds=1))
    assert not server.databases["shop"].paused
    assert 'KILL "shop"' not in server.commands


async def test_when_one_pooler_cannot_be_held_none_is(server: Console) -> None:
    async with console() as other:
        other.databases["shop"].busy = 1
        with pytest.raises(Unreachable, match="did not end"):
            await routing(server, other).hold(group(), timedelta(seconds=0.2))
        assert not server.databases["shop"].paused and not other.databases["shop"].paused


async def test_a_pooler_of_the_lost_region_is_a_warning_and_all_lost_is_a_failure(server: Console) -> None:
    (note,) = await routing(server, dead=True).move(group(), held=False, within=timedelta(seconds=1))
    assert "PgBouncer at 127.0.0.1:9 still leads clients to the old database" in note
    server.silent = True
    with pytest.raises(Unreachable):
        await routing(server).move(group(), held=False, within=timedelta(seconds=1))


# The steps


def context(found: GroupSnapshot, **facts: object) -> PlanContext:
    return PlanContext(
        plan="Switchover",
        run_id="run",
        workflow_id="recovery/shop",
        step="route-clients",
        request=PlanRequest(group="shop"),
        facts=Facts.model_validate({"group": found, **facts}),
        started_at=datetime(2026, 11, 22, tzinfo=UTC),
    )


async def test_steps_hold_route_and_release(server: Console) -> None:
    steps, found = RoutingSteps(routing(server)), group("pgbouncer.a:6432")
    held = await ActivityEnvironment().run(steps.hold_clients, context(found))
    assert (held.summary, held.facts.clients_held) == ("clients wait in pgbouncer.a:6432", True)
    routed = await ActivityEnvironment().run(steps.route_clients, context(found, clients_held=True))
    assert routed.summary == "pgbouncer.a:6432: clients that waited go on"
    await ActivityEnvironment().run(steps.hold_clients, context(found))
    released = await ActivityEnvironment().run(steps.release_clients, context(found, clients_held=True))
    assert (released.summary, server.databases["shop"].paused) == ("clients go on", False)


async def test_a_hold_that_fails_fails_its_step(server: Console) -> None:
    server.databases["shop"] = Database(busy=1)
    with pytest.raises(ApplicationError, match="did not end within"):
        await ActivityEnvironment().run(RoutingSteps(routing(server)).hold_clients, context(group("p:6432")))


async def test_without_a_pooler_nothing_is_done(server: Console) -> None:
    steps = RoutingSteps(routing(server))
    for step in (steps.hold_clients, steps.route_clients, steps.release_clients):
        assert (await ActivityEnvironment().run(step, context(group()))).summary == "no pooler is configured"
    assert server.sessions == 0
