"""Two guards of one region: a copied state folder, and a spare one that waits for the first to end. In virtual time."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from recovery.errors import Unreachable
from recovery.guard import companion, holding
from recovery.guard.guard import Guard
from recovery.guard.holding import Instances
from tests.fakes.guard import FakeStore, Regions, until
from tests.unit.guard.scenes import PRIMARY, STANDBY, now, played, steady


async def another(regions: Regions, region: str, store: FakeStore, name: str) -> Guard:
    """A second process of the region, on a host of its own; the first one stays what others ask."""
    asked, task = regions.guards[region], regions._tasks[region]
    folder = regions.folder
    regions.folder = folder / name
    regions.folder.mkdir(exist_ok=True)
    spare = regions.start(region, {"shop": [store]})
    regions._tasks[name] = regions._tasks[region]
    regions.peers.guards[name] = spare
    regions.guards[region] = regions.peers.guards[region] = asked
    regions._tasks[region], regions.folder = task, folder
    return spare


@pytest.mark.parametrize("names", ["copied", "none"])
def test_a_copied_state_folder_makes_no_second_primary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    """Its names are those of processes that may be alive, on the machine that it was copied from."""

    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        await asyncio.sleep(20)
        if names == "copied":
            shutil.copytree(tmp_path / "a", tmp_path / "copy" / "a")
        monkeypatch.setattr(holding, "this_machine", lambda: "another machine")
        second = FakeStore(role=STANDBY)
        await another(regions, "a", second, "copy")
        await asyncio.sleep(60)
        assert a.role is PRIMARY and PRIMARY not in [role for _, role in second.history]
        killed = now()
        await regions.kill("a")
        a.role = STANDBY  # by its companion
        await until(lambda: second.role is PRIMARY)
        assert second.when(PRIMARY) - killed > regions.ttl + regions.margin - regions.ttl / 5

    played(tmp_path, scene)


def test_names_count_on_the_machine_that_wrote_them_alone(tmp_path: Path) -> None:
    first = Instances(tmp_path, "a", machine="one")
    name = first.another()
    assert Instances(tmp_path, "a", machine="one").names == [name]
    assert Instances(tmp_path, "a", machine="two").names == []
    (tmp_path / "instances.json").write_text(f'["{name}"]')
    assert Instances(tmp_path, "a", machine="two").names == [name], "as the version before wrote it"
    (tmp_path / "instances.json").write_text("17")
    assert Instances(tmp_path, "a", machine="one").names == []


def test_a_guard_without_its_regions_lease_promises_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    """The holder would not know of the promise; and the spare does not know what the holder promised."""

    async def scene(regions: Regions) -> None:
        await steady(regions)
        spare = await another(regions, "b", FakeStore(), "spare")
        await asyncio.sleep(60)
        holder = regions.guards["a"].shared.holding.instance
        assert "does not have the lease" in str(spare.promise("shop", 1, holder, regions.ttl))
        assert regions.guards["b"].promise("shop", 1, holder, regions.ttl) is None
        await asyncio.sleep(3 * regions.ttl)
        await regions.kill("a")
        with pytest.raises(Unreachable, match="this guard holds no lease of its own region"):
            await spare.fence(regions.claim("run-1"))
        assert regions.witness.leases["a"][0].broken_by is None
        assert (await regions.guards["b"].fence(regions.claim("run-1"))).how == "lease-broken"

    played(tmp_path, scene)


def test_who_takes_a_lease_over_keeps_the_promises_that_it_does_not_know(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        await steady(regions)
        spare = await another(regions, "b", FakeStore(), "spare")
        await asyncio.sleep(60)
        assert spare.shared.given.quarantined(now()) == 0
        await regions.kill("b")
        await until(spare.shared.holding.valid)
        assert spare.shared.given.quarantined(now()) > regions.ttl
        regions.peers.guards["b"] = regions.guards["b"] = spare
        taken = now()
        await regions.kill("a")
        order = regions.claim("run-1")
        assert (await spare.fence(order)).how == "lease-broken"
        assert now() - taken > regions.ttl + regions.margin

    played(tmp_path, scene)


def test_a_guard_that_starts_again_in_its_own_folder_takes_its_lease_at_once(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        await asyncio.sleep(20)
        await regions.kill("a")
        began = now()
        regions.start("a", {"shop": [a]})
        await until(regions.guards["a"].shared.holding.valid)
        assert now() - began < 1 and a.role is PRIMARY

    played(tmp_path, scene)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"boot_id": "BOOT"}', '{"boot_id": "BOOT", "stores": [{}]}'])
def test_deadlines_that_cannot_be_understood_demote_everything(tmp_path: Path, content: str) -> None:
    """Whatever is primary may be so under a deadline that is past, and the witness may be silent."""

    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        await asyncio.sleep(20)
        await regions.kill("a")
        (tmp_path / "a" / companion.DEADLINE_FILE).write_text(content.replace("BOOT", companion.boot_id()))
        regions.witness.cut.add("a")
        regions.start("a", {"shop": [a]})
        await until(lambda: a.role is not PRIMARY, 2)
        regions.witness.cut.clear()
        await until(lambda: a.role is PRIMARY, 30)

    played(tmp_path, scene)
