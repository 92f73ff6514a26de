"""One location refuses, is gone or is damaged: recoveries go on with the others, and nothing is removed meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from recovery.adapters.wal_recovery import open_recovery
from recovery.adapters.wal_socket import WalOutlet
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.signing import Signer, generate_signing_key
from recovery.domain.recovery_target import RecoveryTarget
from recovery.domain.timelines import lsn_text
from recovery.domain.wal_archive import segment_file
from recovery.errors import Corrupt, NotFound, RecoveryError, Refused, Unreachable
from tests.fakes.object_store import UnreadableStore
from tests.fakes.wal import FIRST, MOMENT, SEGMENT
from tests.unit.wal.test_recoveries import GROUP, Rig, made_rig

ERRORS = [Unreachable("no route"), Refused("403"), NotFound("NoSuchBucket"), Corrupt("not signed")]


def of_wal(error: RecoveryError, *methods: str) -> Callable[[str, str], RecoveryError | None]:
    return lambda method, key: error if "/postgres-wal/" in key and method in methods else None


@pytest.fixture
def stores() -> list[UnreadableStore]:
    return [UnreadableStore("a"), UnreadableStore("b")]


@pytest.fixture
def rig(sealer: Sealer, opener: Opener, stores: list[UnreadableStore]) -> Rig:
    return made_rig(sealer, opener, list(stores))


def pieces(stores: list[UnreadableStore]) -> list[set[str]]:
    return [{key for key in store.objects if "/pieces/" in key} for store in stores]


@pytest.mark.parametrize("methods", [("folders", "list"), ("get",)], ids=str)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.kind)
async def test_a_recovery_goes_to_the_end_that_another_location_has(
    rig: Rig, stores: list[UnreadableStore], error: RecoveryError, methods: tuple[str, ...]
) -> None:
    rig.server.write(2 * SEGMENT + 5000)
    await rig.archive()
    point = await rig.point("one", FIRST + 40, FIRST + 300)
    stores[0].broken = of_wal(error, *methods)
    _, chosen = await rig.archives.choose(GROUP, RecoveryTarget(latest=True), point)
    assert chosen.until == lsn_text(rig.server.position)
    last = segment_file(1, FIRST + 2 * SEGMENT, SEGMENT)
    body = rig.server.slice(FIRST + 2 * SEGMENT, rig.server.position).ljust(SEGMENT, b"\0")
    assert await (await open_recovery(rig.archives, GROUP, chosen)).fetch(last) == body
    outlet = WalOutlet(rig.archives, GROUP)
    try:
        assert await outlet.fetch(last) == body
    finally:
        await outlet.close()


async def test_a_damaged_record_costs_no_more_than_a_time(rig: Rig, stores: list[UnreadableStore]) -> None:
    rig.server.write(SEGMENT)
    await rig.archive()
    await rig.point("one", FIRST + 40, FIRST + 300)
    for damaged, known in ((stores[:1], MOMENT), (stores, None)):
        for store in damaged:
            for key in [key for key in store.objects if "/pieces/" in key]:
                store.objects[key] = b"{}"
        (window,) = await rig.archives.all_windows(GROUP)
        assert (window.last, window.last_time) == (lsn_text(rig.server.position), known)


async def test_where_no_location_answers_that_is_said_and_not_that_there_is_no_wal(
    rig: Rig, stores: list[UnreadableStore]
) -> None:
    rig.server.write(SEGMENT)
    await rig.archive()
    point = await rig.point("one", FIRST + 40, FIRST + 300)
    for store, error in zip(stores, (NotFound("NoSuchBucket"), Refused("403")), strict=True):
        store.broken = of_wal(error, "folders", "list")
    with pytest.raises(Unreachable, match="a: NoSuchBucket; b: 403"):
        await rig.archives.choose(GROUP, RecoveryTarget(latest=True), point)
    with pytest.raises(Unreachable, match="a: NoSuchBucket; b: 403"):
        await rig.archives.servers(GROUP)
    for store in stores:
        store.broken = of_wal(Corrupt("not signed"), "get")
    with pytest.raises(Corrupt, match="not signed"):
        await rig.archives.choose(GROUP, RecoveryTarget(latest=True), point)


async def test_no_wal_is_removed_while_a_point_may_be_unseen(
    rig: Rig, stores: list[UnreadableStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The location with the oldest point is silent for the survey, and answers again when it comes to deleting."""
    rig.server.write(3 * SEGMENT)
    await rig.archive()
    await rig.point("old", FIRST + 40, FIRST + 300, stores=stores[1:])
    await rig.point("new", FIRST + 2 * SEGMENT + 40, FIRST + 2 * SEGMENT + 300)
    before = pieces(stores)
    stores[1].broken = lambda method, key: None if "/postgres-wal/" in key else Unreachable("no route")
    found = await rig.archives.expire(GROUP)
    assert (found.pieces, pieces(stores)) == (0, before)
    assert "b did not answer: no route" in found.kept
    stores[1].broken = lambda method, key: None
    assert (await rig.archives.expire(GROUP)).kept == ""
    assert all(f"{FIRST:016X}-{FIRST + SEGMENT:016X}" in str(sorted(there)) for there in pieces(stores))


async def test_a_point_that_is_not_believed_keeps_its_wal(rig: Rig, stores: list[UnreadableStore]) -> None:
    rig.server.write(3 * SEGMENT)
    await rig.archive()
    stranger = Signer(generate_signing_key().secret)
    await rig.point("old", FIRST + 40, FIRST + 300, stores=stores[1:], signed_by=stranger)
    await rig.point("new", FIRST + 2 * SEGMENT + 40, FIRST + 2 * SEGMENT + 300)
    before = pieces(stores)
    found = await rig.archives.expire(GROUP)
    assert (found.pieces, pieces(stores)) == (0, before)
    assert "-physical-old at b is not believed" in found.kept
