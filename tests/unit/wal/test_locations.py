"""Which locations an archiver waits for, and how one that was away is completed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from recovery.adapters import wal_locations
from recovery.adapters.wal_locations import ArchiveLocations, OptionalLocations, Standing
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.wal.reader import WalArchive
from recovery.domain.wal_archive import merged
from recovery.errors import Corrupt, NoSpace, NotFound, NotOurs, RecoveryError, Refused, Unreachable
from tests.fakes.object_store import FaultyStore, MemoryStore
from tests.fakes.points import verifier
from tests.fakes.wal import SEGMENT
from tests.unit.wal.test_recoveries import Rig, made_rig


class Switched(FaultyStore):
    """Answers while ``up``, else with ``error``."""

    up = True
    error: RecoveryError = Unreachable("far does not answer")

    async def folders(self, prefix: str) -> list[str]:
        if not self.up:
            raise self.error
        return list(await super().folders(prefix))


@pytest.fixture
def stores() -> list[Switched]:
    return [Switched("near"), Switched("far")]


@pytest.fixture
def rig(sealer: Sealer, opener: Opener, stores: list[Switched]) -> Rig:
    return made_rig(sealer, opener, list(stores))


def locations(stores: list[Switched]) -> ArchiveLocations:
    return ArchiveLocations(stores, "shop", "7000", verifier())


def names(standing: Standing) -> list[str]:
    return sorted(store.name for store in standing.waited)


async def archived_bytes(store: MemoryStore) -> int:
    (timeline,) = await WalArchive(store, "shop", "7000", verifier()).timelines()
    return sum(each.size for each in merged(piece.range for piece in timeline.pieces))


async def held_bytes(store: MemoryStore) -> int:
    """The same, also where nothing is archived yet."""
    return await archived_bytes(store) if await store.folders("shop/postgres-wal/7000/") else 0


async def test_all_that_answer_are_waited_for(rig: Rig, stores: list[Switched]) -> None:
    assert names(await locations(stores).standing()) == ["far", "near"], "nothing is archived yet"
    rig.server.write(SEGMENT + 500)
    await rig.archive()
    found = await locations(stores).standing()
    assert (names(found), found.away) == (["far", "near"], {})


async def test_a_lost_location_is_not_waited_for_and_filled_when_it_answers(
    rig: Rig, stores: list[Switched], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = stores
    rig.server.write(SEGMENT + 500)
    await rig.archive()
    far.up = False
    found = await locations(stores).standing()
    assert names(found) == ["near"] and "far does not answer" in found.away["far"]
    rig.server.write(2 * SEGMENT)
    await rig.archive([near])
    monkeypatch.setattr(wal_locations, "LOOK_AGAIN_SECONDS", 0.01)
    returning = asyncio.create_task(locations(stores).returned(found))
    await asyncio.sleep(0.1)
    assert not returning.done()
    far.up = True
    async with asyncio.timeout(10):
        assert await returning == "far"
    assert await archived_bytes(far) == await archived_bytes(near)
    assert names(await locations(stores).standing()) == ["far", "near"]


async def test_one_that_lacks_a_little_is_filled_before_it_is_waited_for(
    rig: Rig, stores: list[Switched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the session would begin where the least of them ends, which the server may have forgotten."""
    near, far = stores
    rig.server.write(SEGMENT)
    await rig.archive()
    rig.server.write(SEGMENT)
    await rig.archive([near])
    monkeypatch.setattr(wal_locations, "FILLED_AT_ONCE", SEGMENT // 2)
    found = await locations(stores).standing()
    assert names(found) == ["near"] and "it lacks 1 MiB of WAL" in found.away["far"]
    monkeypatch.setattr(wal_locations, "FILLED_AT_ONCE", 2 * SEGMENT)
    assert names(await locations(stores).standing()) == ["far", "near"]
    assert await archived_bytes(far) == await archived_bytes(near)


async def test_without_any_location_there_is_no_session(stores: list[Switched]) -> None:
    for store in stores:
        store.up = False
    with pytest.raises(Unreachable, match="no location of the WAL archive answers"):
        await locations(stores).standing()


REFUSALS = [Refused("403"), NotFound("NoSuchBucket"), NoSpace("the quota is full")]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: error.kind)
async def test_one_that_refuses_is_not_waited_for(stores: list[Switched], error: RecoveryError) -> None:
    far = stores[1]
    far.up, far.error = False, error
    found = await locations(stores).standing()
    assert (names(found), found.away) == (["near"], {"far": str(error)})


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: error.kind)
async def test_one_that_refuses_only_what_is_put_is_not_waited_for(
    rig: Rig, stores: list[Switched], error: RecoveryError
) -> None:
    """The session that met it has left a little at the others: else the next one would wait for it, too."""
    near, far = stores
    rig.server.write(SEGMENT)
    await rig.archive()
    far.fault = lambda number, key: error
    near.pace = 0.3  # slower than a refusal
    rig.server.write(SEGMENT)
    with pytest.raises(AssertionError, match=str(error)):
        await rig.archive()
    near.pace = 0.0
    found = await locations(stores).standing()
    assert (names(found), found.away) == (["near"], {"far": str(error)})


async def test_one_that_does_not_take_a_new_timeline_is_not_waited_for(rig: Rig, stores: list[Switched]) -> None:
    """Right after a failover only the history of the new timeline is missing there, and no WAL."""
    far = stores[1]
    rig.server.write(SEGMENT)
    await rig.archive()
    rig.server.promote(2)
    far.fault = lambda number, key: Refused("403")
    with pytest.raises(AssertionError, match="403"):
        await rig.archive()
    found = await locations(stores).standing()
    assert (names(found), found.away) == (["near"], {"far": "403"})


@pytest.mark.parametrize("error", [NotOurs("other WAL"), Corrupt("damaged")], ids=lambda error: error.kind)
async def test_what_a_location_holds_that_is_not_this_servers_ends_the_session(
    rig: Rig, stores: list[Switched], error: RecoveryError
) -> None:
    rig.server.write(SEGMENT)
    await rig.archive([stores[0]])
    stores[1].fault = lambda number, key: error
    with pytest.raises(type(error)):
        await locations(stores).standing()


@contextlib.asynccontextmanager
async def kept_filled(optional: OptionalLocations, source: MemoryStore) -> AsyncIterator[None]:
    filling = asyncio.create_task(optional.keep_filled(source))
    try:
        async with asyncio.timeout(10):
            yield
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


async def test_an_optional_location_that_was_never_filled_is_told(
    rig: Rig, stores: list[Switched], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, spare = stores
    monkeypatch.setattr(wal_locations, "OPTIONAL_SECONDS", 0.01)
    rig.server.write(SEGMENT)
    await rig.archive([near])
    optional = OptionalLocations([spare], locations([near]))
    assert optional.behind({}) == {"far": "its first copy is not complete yet"}
    spare.fault = lambda number, key: Refused("403")
    async with kept_filled(optional, near):
        while optional.behind({}) != {"far": "it could not be filled: 403"}:
            await asyncio.sleep(0.005)
        spare.fault = lambda number, key: None
        while optional.behind({}):
            await asyncio.sleep(0.005)
    assert await archived_bytes(spare) == await archived_bytes(near)


async def test_what_is_told_before_the_source_has_it_is_copied_all_the_same(
    rig: Rig, stores: list[Switched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An optional location may refuse a piece sooner than a required one has taken it."""
    near, spare = stores
    rig.server.write(SEGMENT)
    await rig.archive([near])
    optional, told = OptionalLocations([spare], locations([near])), {"far": "it misses the second unit"}
    rounds: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def sleep(seconds: float) -> None:
        if seconds == 0.25:
            await rounds.put(go_on := asyncio.Event())
            await go_on.wait()
        else:
            await paused(seconds)

    paused = asyncio.sleep
    monkeypatch.setattr(wal_locations, "OPTIONAL_SECONDS", 0.25)
    monkeypatch.setattr("recovery.adapters.wal_locations.asyncio.sleep", sleep)
    async with kept_filled(optional, near):
        ended = await rounds.get()
        assert optional.behind(told) == told
        ended.set()
        ended = await rounds.get()
        assert optional.behind(told) == told, "a round that may have looked too early hides nothing"
        rig.server.write(SEGMENT)
        await rig.archive([near])
        ended.set()
        await rounds.get()
        assert optional.behind(told) == {}
    assert await archived_bytes(spare) == await archived_bytes(near)


async def test_what_an_optional_location_misses_is_copied_to_it(
    rig: Rig, stores: list[Switched], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, spare = stores
    monkeypatch.setattr(wal_locations, "OPTIONAL_SECONDS", 0.01)
    optional = OptionalLocations([spare], locations([near]))
    rig.server.write(SEGMENT)
    await rig.archive([near])

    async def filled(behind: dict[str, str], left: dict[str, str]) -> None:
        while optional.behind(behind) != left or await held_bytes(spare) != await held_bytes(near):
            await asyncio.sleep(0.005)

    async with kept_filled(optional, near):
        await filled({}, {})
        rig.server.write(SEGMENT)
        await rig.archive([near])
        missed = {"far": "it misses the second unit", "away": "no answer"}
        assert optional.behind(missed) == missed
        await filled(missed, {"away": "no answer"})
        assert optional.behind({"far": "it misses a third"}) == {"far": "it misses a third"}
