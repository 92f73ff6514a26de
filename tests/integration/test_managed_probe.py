"""What is asked of a managed database by logging in: on a primary and on its replica."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from recovery.adapters.managed_probe import SqlProbe
from recovery.domain.group import GroupSnapshot, Objectives, RegionPlan
from recovery.errors import Refused, Unreachable
from recovery.ports.postgres import PostgresLogin
from tests.integration.postgres_pair import Node, cluster
from tests.integration.postgres_servers import eventually, public_folder

GROUP = GroupSnapshot(
    name="shop",
    objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
    home_region="a",
    regions=[RegionPlan(name="a", task_queue="a")],
)


class Logins:
    """``recovery.adapters.logins.Logins``: only the address comes from the provider's API."""

    def __init__(self, user: str = "postgres") -> None:
        self.user = user

    async def admin(self, group: str, region: str) -> PostgresLogin:
        return PostgresLogin("nowhere.invalid", 1, self.user, "postgres", sslmode="disable")

    backup = admin


@pytest.fixture(scope="module")
async def nodes() -> AsyncIterator[list[Node]]:
    with public_folder() as folder:
        async with cluster(folder, "a", "b") as nodes:
            yield nodes


@pytest.fixture
def probe() -> SqlProbe:
    return SqlProbe(Logins())


def address(node: Node) -> tuple[str, int]:
    return node.place.host, node.place.port


async def test_a_write_is_one_row_for_each_run(nodes: list[Node], probe: SqlProbe) -> None:
    first = await probe.write(GROUP, "a", *address(nodes[0]), "run-1")
    assert await probe.write(GROUP, "a", *address(nodes[0]), "run-1") == first
    assert abs(first - datetime.now(UTC)) < timedelta(minutes=1)
    assert await nodes[0].value("SELECT count(*) FROM recovery_plans.probe") == 1


async def test_a_replica_is_no_place_to_write(nodes: list[Node], probe: SqlProbe) -> None:
    with pytest.raises(Exception, match="read-only transaction"):
        await probe.write(GROUP, "a", *address(nodes[1]), "run-2")


async def test_how_far_a_replica_has_come(nodes: list[Node], probe: SqlProbe) -> None:
    before = datetime.now(UTC)
    await nodes[0].execute("INSERT INTO marks VALUES (7, 'one more')")

    async def replayed() -> bool:
        at = await probe.replayed_until(GROUP, "a", *address(nodes[1]))
        return at is not None and at >= before - timedelta(seconds=1)

    await eventually(replayed)
    assert await probe.replayed_until(GROUP, "a", *address(nodes[0])) is None


async def test_critical_tables_are_there_and_can_be_read(nodes: list[Node], probe: SqlProbe) -> None:
    names = ["marks", "public.marks", "postgres.public.marks", "other.marks", "nothing"]
    found = await probe.tables(GROUP.model_copy(update={"critical_tables": names}), "a", *address(nodes[0]))
    assert [(check.name, check.passed) for check in found] == list(
        zip(names, [True, True, True, False, False], strict=True)
    )
    assert found[-1].detail == "is missing in database postgres"


async def test_everything_is_read_to_its_end_by_who_may(nodes: list[Node], probe: SqlProbe) -> None:
    await nodes[0].execute("CREATE DATABASE second")
    await nodes[0].execute("CREATE ROLE reader LOGIN")
    group = GROUP.model_copy(update={"critical_tables": ["marks", "nothing"]})
    found = {check.name: check for check in await probe.contents(group, "a", *address(nodes[0]))}
    assert found["tables-readable"].passed and "rows were read to the end" in found["tables-readable"].detail
    assert (found["critical-tables"].passed, found["critical-tables"].detail) == (False, "missing: nothing")
    reading = SqlProbe(Logins("reader"))
    with pytest.raises(Refused, match="user reader .*grant it pg_read_all_data"):
        await reading.contents(group, "a", *address(nodes[0]))
    await nodes[0].execute("GRANT pg_read_all_data TO reader")
    permitted = {check.name: check for check in await reading.contents(group, "a", *address(nodes[0]))}
    assert permitted["tables-readable"].detail == found["tables-readable"].detail
    with pytest.raises(Unreachable):
        await probe.contents(GROUP, "a", "127.0.0.1", 9)


async def test_nobody_listens(probe: SqlProbe) -> None:
    with pytest.raises(Unreachable):
        await probe.write(GROUP, "a", "127.0.0.1", 9, "run-3")
