"""One contract for ``Handover``: the fake that plans' steps are tested with, and two real PostgreSQL servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from recovery.adapters.diverged_folder import SealedFolder
from recovery.adapters.handover import PostgresHandover
from recovery.adapters.postgres.standbys import LocalStandbys
from recovery.backup.sealing import Sealer
from recovery.domain.group import GroupSnapshot, PostgresAt
from recovery.domain.guarding import StoreRole
from recovery.errors import RecoveryError, Refused, Unreachable
from recovery.ports.handover import Handover, Rejoining
from recovery.ports.postgres import PostgresLogin
from tests.fakes.handover import FakeHandover, group_of, state
from tests.integration.postgres_pair import Node, cluster, replayed
from tests.integration.postgres_servers import eventually, public_folder

PRIMARY, STANDBY = StoreRole.PRIMARY, StoreRole.STANDBY
TABLE = "public.marks"


@dataclass
class Scene:
    """``a`` is the primary, ``b`` its standby, ``c`` does not answer. ``lose_a``: a stops, after ``b`` took over."""

    handover: Handover
    group: GroupSnapshot
    lose_a: Callable[[], Awaitable[None]]

    async def role(self, region: str) -> StoreRole:
        (found,) = await self.handover.observe(self.group, region)
        return found.role


@dataclass
class Logins:
    nodes: dict[str, Node]

    async def admin(self, group: str, region: str) -> PostgresLogin:
        if region not in self.nodes:
            return PostgresLogin("127.0.0.1", 1, "postgres", "postgres", sslmode="disable")
        return self.nodes[region].login

    async def backup(self, group: str, region: str) -> PostgresLogin:
        return await self.admin(group, region)

    async def replication(self, group: str, region: str, standby: str) -> PostgresLogin:
        return replace(await self.admin(group, region), user="replicator")


@asynccontextmanager
async def fake() -> AsyncIterator[Scene]:
    handover = FakeHandover({"a": [state(PRIMARY)], "b": [state(STANDBY)]})

    async def lose_a() -> None:
        handover.states["a"] = [state(StoreRole.STALE)]

    yield Scene(handover, group_of("a", "b", "c", guarded=False, critical_tables=[TABLE]), lose_a)


@asynccontextmanager
async def postgres(folder: Path, sealer: Sealer) -> AsyncIterator[Scene]:
    with public_folder() as public:
        async with cluster(public, "a", "b") as (a, b):
            group = group_of("a", "b", "c", guarded=False, critical_tables=[TABLE])
            here = {
                node.name: PostgresAt(
                    host=node.place.host, port=node.place.port, data_directory=str(node.data), run_as=node.user
                )
                for node in (a, b)
            }
            regions = [
                each.model_copy(update={"postgres": here.get(each.name, each.postgres)}) for each in group.regions
            ]
            handover = PostgresHandover(
                Logins({"a": a, "b": b}),
                lambda name, region: LocalStandbys(a.postgres.host.binaries),
                lambda found, region, effect_id: SealedFolder(folder / effect_id, sealer),
            )

            async def lose_a() -> None:
                await a.execute("INSERT INTO marks VALUES (1, 'only a')")
                await a.guarded.demote()

            await a.execute("CREATE ROLE clerk LOGIN")  # who is not let in while a server is drained
            await replayed(b, a)
            scene = Scene(handover, group.model_copy(update={"regions": regions}), lose_a)

            async def receives() -> bool:
                return bool((await handover.observe(scene.group, "b"))[0].receives)

            await eventually(receives)
            yield scene


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["fake", "postgres"])
async def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sealer: Sealer
) -> AsyncIterator[Scene]:
    """One for all tests: only the last of them moves the database."""
    async with fake() if request.param == "fake" else postgres(tmp_path_factory.mktemp("put-aside"), sealer) as made:
        yield made


async def test_what_is_seen_and_checked(scene: Scene) -> None:
    handover, group = scene.handover, scene.group
    assert [await scene.role(region) for region in ("a", "b")] == [PRIMARY, STANDBY]
    for region, primary in (("a", True), ("b", False)):
        well = await handover.precheck(group, region, primary=primary)
        assert {check.name: check.passed for check in well} == {
            "postgres connectivity": True,
            "postgres recovery": True,
        }
        other = await handover.precheck(group, region, primary=not primary)
        assert [check.name for check in other if not check.passed] == ["postgres recovery"]
    serving = await handover.checklist(group, "a")
    assert {check.name: check.passed for check in serving} == {"postgres accepts writes": True, f"table {TABLE}": True}
    standby = await handover.checklist(group, "b")
    assert [check.name for check in standby if not check.passed] == ["postgres accepts writes"]
    at = await handover.write_probe(group, "a", "run-1")
    assert at.tzinfo is not None
    assert await handover.write_probe(group, "a", "run-1") == at, "a second attempt finds the row of the first"
    with pytest.raises(RecoveryError):
        await handover.write_probe(group, "b", "run-2")
    assert await handover.move_archive(group, "a")


async def test_a_server_that_does_not_answer(scene: Scene) -> None:
    handover, group = scene.handover, scene.group
    for checks in (await handover.precheck(group, "c", primary=False), await handover.checklist(group, "c")):
        assert [(check.name, check.passed) for check in checks] == [("postgres connectivity", False)]
    assert (await handover.drain(group, "c", 0.1)).found == 0, "it has no clients"
    for asked in (
        handover.observe(group, "c"),
        handover.last_commit(group, "c"),
        handover.write_probe(group, "c", "run-1"),
        handover.make_slots(group, "c", ["b"]),
        handover.drop_old_slots(group, "c", "a"),
        handover.move_archive(group, "c"),
        handover.promote(group, "c", 2),
    ):
        with pytest.raises(Unreachable):
            await asked


async def test_slots_are_made_and_dropped_once(scene: Scene) -> None:
    handover, group = scene.handover, scene.group
    assert await handover.make_slots(group, "a", ["b", "c"]) == ["standby_b", "standby_c"]
    assert await handover.make_slots(group, "a", ["b", "c"]) == []
    assert await handover.drop_old_slots(group, "a", "b") == [], "a primary keeps all"
    assert await handover.make_slots(group, "b", ["a"]) == ["standby_a"]
    assert await handover.drop_old_slots(group, "b", "a") == ["standby_a"]
    assert await handover.drop_old_slots(group, "b", "a") == []


async def test_a_region_is_promoted_once_and_the_old_primary_rejoins_it(scene: Scene) -> None:
    handover, group = scene.handover, scene.group
    order = Rejoining(group, "a", "b", "rejoin-1")
    drained = await handover.drain(group, "a", 0.2)
    assert (drained.left, drained.why_not_refused) == (0, "")
    promotion = await handover.promote(group, "b", 2)
    assert (promotion.store, promotion.epoch, promotion.already) == ("postgres", 2, False)
    again = await handover.promote(group, "b", 2)
    assert (again.epoch, again.already) == (2, True)
    assert await scene.role("b") is PRIMARY
    with pytest.raises(Refused):
        await handover.save_divergence(order)  # it still runs as a primary
    await scene.lose_a()
    saved = await handover.save_divergence(order)
    assert [(each.store, each.region) for each in saved] == [("postgres", "a")]
    told: list[str] = []
    words = await handover.rejoin(order, lambda done, expected, what: told.append(what))
    assert words.startswith("a: ")

    async def follows() -> bool:
        return await scene.role("a") is STANDBY

    await eventually(follows)
    assert await handover.rejoin(order, lambda done, expected, what: None)
    await eventually(follows)
