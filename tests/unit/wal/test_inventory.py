"""What can be recovered is rebuilt from the objects alone; what is damaged, forged or silent hides nothing else."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from typer.main import get_command

from drctl.main import app
from drctl.ways_back import Prospects, Trouble, WayBack, prospects
from recovery.adapters.inventory import FOLDERS, Inventory, inventory
from recovery.adapters.wal_status import archived_wal
from recovery.backup.catalogue import Catalogue
from recovery.backup.documents import sign_verdict
from recovery.backup.layout import manifest_key, verdict_key
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.sets import page_key, set_key
from recovery.backup.signing import Signer, generate_signing_key
from recovery.backup.wal.layout import piece_of
from recovery.domain.recovery_point import VerdictState
from recovery.domain.recovery_set import SetState, set_of
from recovery.domain.recovery_target import RecoveryTarget
from recovery.domain.timelines import lsn_text
from recovery.domain.wal_archive import WalPiece, segment_file
from recovery.errors import NotFound, Refused, Unreachable
from tests.fakes.object_store import UnreadableStore
from tests.fakes.points import NOW, signer, verdict_on, verifier
from tests.fakes.wal import FIRST, MOMENT, SEGMENT
from tests.unit.wal.test_recoveries import GROUP, Rig, made_rig

EXPECTED = ["a", "b"]


@pytest.fixture
def stores() -> list[UnreadableStore]:
    return [UnreadableStore("a"), UnreadableStore("b")]


@pytest.fixture
def rig(sealer: Sealer, opener: Opener, stores: list[UnreadableStore]) -> Rig:
    return made_rig(sealer, opener, list(stores))


async def judge(rig: Rig, point_id: str, state: VerdictState = VerdictState.VALID) -> None:
    point = await Catalogue(rig.stores, verifier()).point("shop", point_id)
    verdict = verdict_on(point.manifest, point.manifest_sha256, state=state, at=NOW + timedelta(minutes=5))
    for store in rig.stores:
        await store.put(verdict_key(verdict), sign_verdict(verdict, signer()))


async def found(rig: Rig, **options: object) -> Inventory:
    return await inventory(rig.stores, verifier(), **options)  # type: ignore[arg-type]


def outlook(listed: Inventory) -> Prospects:
    (group,) = listed.groups
    return prospects(group, EXPECTED)


def points_of(listed: Inventory) -> list[WayBack]:
    return [way for way in outlook(listed).ways if way.of != "set"]


def troubles(seen: Prospects) -> dict[Trouble, list[str]]:
    told: dict[Trouble, list[str]] = {}
    for remark in seen.remarks:
        told.setdefault(remark.trouble, []).append(remark.text)
    return told


async def whole(rig: Rig) -> str:
    """A validated point within archived WAL, in a set. Returns its id."""
    rig.server.write(2 * SEGMENT + 5000)
    await rig.archive()
    point_id = await rig.point("one", FIRST + 40, FIRST + 300)
    await judge(rig, point_id)
    point = await Catalogue(rig.stores, verifier()).point("shop", point_id)
    one = set_of([point], set_id="20261122T101500Z-set-1", run_id="r")
    for store in rig.stores:
        await store.put(set_key("shop", one.set_id), signer().sign(one.model_dump(mode="json")))
    return point_id


async def test_points_sets_and_moments_come_with_their_commands(rig: Rig) -> None:
    point_id = await whole(rig)
    listed = await found(rig)
    seen = outlook(listed)
    set_id = listed.groups[0].sets.sets[0].set_id
    assert [(way.command, way.of, way.proven) for way in seen.ways] == [
        ("drctl recover --group shop --latest", "moment", True),
        (f"drctl recover --group shop --set {set_id}", "set", True),
        (f"drctl recover --group shop --point {point_id}", "point", True),
    ]
    assert (seen.ways[0].since, seen.ways[0].until, seen.ways[0].subject) == (
        listed.groups[0].survey.points[0].manifest.finished_at, MOMENT, point_id
    )  # fmt: skip
    (window,) = listed.groups[0].wal.windows
    assert (window.first, window.last) == (lsn_text(FIRST + 300), lsn_text(rig.server.position))
    for way in seen.ways:
        program, verb, *words = shlex.split(way.command)
        command = get_command(app).get_command(None, verb)  # type: ignore[attr-defined]
        known = {option for parameter in command.params for option in parameter.opts}
        assert program == "drctl" and {word for word in words if word.startswith("--")} <= known, way.command
    assert (seen.states, seen.by_hand) == ({set_id: SetState.VALID}, {set_id: page_key("shop", set_id)})
    assert (seen.remarks, listed.others) == ([], {})


async def test_a_set_without_the_database_is_put_back_point_by_point(rig: Rig) -> None:
    await whole(rig)
    (group,) = (await found(rig)).groups
    (one,) = group.sets.sets
    streams = one.model_copy(update={"members": [one.members[0].model_copy(update={"store": "nats"})]})
    ways = prospects(replace(group, sets=replace(group.sets, sets=[streams])), EXPECTED).ways
    assert [way.of for way in ways] == ["moment", "point"]


def copy_of(rig: Rig, opener: Opener) -> Rig:
    """Another server with the same WAL up to here."""
    made = made_rig(rig.sealer, opener, rig.stores)
    made.server.wal = bytearray(rig.server.wal)
    return made


async def test_several_timelines_are_named_in_the_command(rig: Rig, opener: Opener) -> None:
    await whole(rig)
    for number, server in ((2, copy_of(rig, opener)), (3, rig)):
        server.server.promote(number)
        server.server.write(5000)
        await server.archive()
    commands = [way.command for way in outlook(await found(rig)).ways if way.of == "moment"]
    assert sorted(commands) == [f"drctl recover --group shop --latest --timeline {number}" for number in (2, 3)]


async def test_an_unproven_point_is_named_in_the_command(rig: Rig, opener: Opener) -> None:
    point_id = await whole(rig)
    other = made_rig(rig.sealer, opener, rig.stores)
    other.server.identifier = "7001"
    other.server.write(SEGMENT)
    await other.archive()
    unproven = await other.point("two", FIRST + 40, FIRST + 300)
    ways = {way.subject: way for way in outlook(await found(rig)).ways if way.of == "moment"}
    assert (ways[point_id].command, ways[point_id].proven) == ("drctl recover --group shop --latest", True)
    assert (ways[unproven].command, ways[unproven].proven) == (
        f"drctl recover --group shop --latest --timeline 1 --point {unproven}", False
    )  # fmt: skip


async def test_what_is_bad_is_told_and_gets_no_command(rig: Rig, stores: list[UnreadableStore]) -> None:
    damaged = await whole(rig)
    await judge(rig, damaged, VerdictState.CORRUPT)
    forged = await rig.point("two", FIRST + 50, FIRST + 310, signed_by=Signer(generate_signing_key().secret))
    alone = await rig.point("three", FIRST + 60, FIRST + 320, stores=stores[1:])
    await stores[0].put(f"shop/postgres/{alone}/attempt-1-x/base.tar.000000.zst.age", b"x")
    cut = await rig.point("four", FIRST + 70, FIRST + 330)
    for store in stores:
        store.objects[manifest_key("shop", cut)] = store.objects[manifest_key("shop", cut)][:-9]
    await stores[0].put("shop/postgres/my notes/read.me", b"x")
    await stores[0].put("shop/nats/20261122T101500Z-rdb-1a2b3c4d/x", b"x")
    await stores[0].put("shop/mysql/dump", b"x")
    await stores[0].put("photos/2026/x.jpg", b"x")
    await stores[0].put("lost+found/x", b"x")
    listed = await found(rig)
    seen, told = outlook(listed), troubles(outlook(listed))
    assert [way.subject for way in seen.ways if way.of == "point"] == [alone]
    assert not any(way.proven for way in seen.ways)
    assert f"{damaged} is CORRUPT" in told[Trouble.DAMAGED][0]
    assert "recovery set" in told[Trouble.DAMAGED][1]
    assert sorted(text.split("/")[2] for text in told[Trouble.DISBELIEVED]) == sorted([forged, forged, cut, cut])
    assert sorted(told[Trouble.ALONE]) == sorted(f"{each} is whole at b and nowhere else" for each in (alone, damaged))
    assert told[Trouble.UNFINISHED] == [
        f"{alone} has no manifest at a: it is being filled there, or was not filled to its end"
    ]
    assert told[Trouble.NOTHING] == ["there is nothing that was proven by a restore to recover shop from"]
    assert [text.split(" at ")[0] for text in told[Trouble.FOREIGN]] == [
        "shop/postgres/my notes/", "shop/nats/20261122T101500Z-rdb-1a2b3c4d/", "shop/mysql/",
    ]  # fmt: skip
    assert listed.others == {"a": ["lost+found", "photos"]}


async def test_damaged_wal_at_one_location_leaves_the_other_s(rig: Rig, stores: list[UnreadableStore]) -> None:
    await whole(rig)
    history = next(key for key in stores[0].objects if key.endswith("history.json"))
    stores[0].objects[history] = b"{}"
    listed = await found(rig)
    (window,) = listed.groups[0].wal.windows
    assert window.last == lsn_text(rig.server.position)
    assert [text[:11] for text in troubles(outlook(listed))[Trouble.UNREADABLE]] == ["a: WAL of 7"]
    stores[1].objects[history] = b"{}"
    wal = await archived_wal(stores, "shop", verifier(), listed.groups[0].survey.points)
    assert (wal.windows, wal.is_known) == ([], False)


async def test_a_record_that_nobody_trusted_signed_is_told(rig: Rig, stores: list[UnreadableStore]) -> None:
    await whole(rig)
    assert Trouble.DISBELIEVED not in troubles(outlook(await found(rig)))
    last = max(key for key in stores[0].objects if "/pieces/" in key)
    piece = piece_of(last)
    assert piece is not None
    forged = WalPiece(piece.end, piece.end + SEGMENT)
    await stores[0].put(last.replace(piece.name, forged.name), b"{}")
    (told,) = troubles(outlook(await found(rig)))[Trouble.DISBELIEVED]
    assert told.startswith(f"WAL from {lsn_text(forged.start)} to {lsn_text(forged.end)} of timeline 1 at a: ")
    assert Trouble.DISBELIEVED.fails


async def test_objects_that_are_no_pieces_stop_nothing_and_are_named(rig: Rig, stores: list[UnreadableStore]) -> None:
    point_id = await whole(rig)
    first = min(key for key in stores[0].objects if "/pieces/" in key)
    pieces, _, name = first.rsplit("/", 2)
    folder = first.removesuffix(name)
    strays = [f"{folder}.DS_Store", f"{folder}README.txt", f"{folder}notes.json", f"{pieces}/lost+found/{name}"]
    for store in stores:
        for key in strays:
            await store.put(key, b"put there by hand")
    rig.server.write(SEGMENT + 700)
    await rig.archive()  # a new session looks where the last one ended
    listed = await found(rig)
    (window,) = listed.groups[0].wal.windows
    assert window.last == lsn_text(rig.server.position)
    for location in listed.groups[0].wal.locations:
        (timeline,) = location.servers[0].timelines
        assert (timeline.strays, timeline.gaps) == (sorted(strays), [])
    recovery = await rig.recovery(RecoveryTarget(latest=True), point_id)
    name = segment_file(1, FIRST + SEGMENT, SEGMENT)
    assert await recovery.fetch(name) == rig.server.slice(FIRST + SEGMENT, FIRST + 2 * SEGMENT)
    assert (await rig.archives.expire(GROUP)).kept == ""
    assert set(strays) <= set(stores[0].objects)


async def test_a_silent_location_is_told_and_the_others_are_listed(rig: Rig, stores: list[UnreadableStore]) -> None:
    point_id = await whole(rig)
    stores[0].broken = lambda method, key: Unreachable("no route")
    listed = await found(rig)
    assert (listed.unreachable, [way.subject for way in points_of(listed)]) == ({"a": "no route"}, [point_id] * 2)
    stores[0].broken = lambda method, key: Refused("403") if key == "shop/" else None
    listed = await found(rig)
    assert (listed.unreachable, [way.subject for way in points_of(listed)]) == ({}, [point_id] * 2)
    stores[0].broken = lambda method, key: Unreachable("no route") if method == "get" else None
    assert list((await found(rig)).groups[0].unreachable) == ["a"]
    for store in stores:
        store.broken = lambda method, key: Unreachable("no route")
    with pytest.raises(Unreachable, match="a: no route; b: no route"):
        await found(rig)


async def test_a_folder_that_is_too_large_to_be_listed_hides_nothing(
    rig: Rig, stores: list[UnreadableStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    point_id = await whole(rig)
    await stores[0].put("logs/1", b"somebody else's")
    folders, large = stores[0].folders, {"logs/"}

    async def slow(prefix: str) -> Sequence[str]:
        if prefix in large:
            await asyncio.Event().wait()
        return await folders(prefix)

    monkeypatch.setattr(stores[0], "folders", slow)
    monkeypatch.setattr("recovery.adapters.inventory.REQUEST_SECONDS", 0.5)
    listed = await found(rig)
    assert (listed.unreachable, listed.others) == ({}, {"a": ["logs"]})
    stores[1].broken = lambda method, key: Unreachable("no route")
    large.add("shop/")
    listed = await found(rig)
    assert (list(listed.unreachable), [way.subject for way in points_of(listed)]) == (["b"], [point_id] * 2)
    large.update(f"shop/{each}/" for each in FOLDERS)
    with pytest.raises(Unreachable, match="a: no answer within"):
        await found(rig)


async def test_a_group_without_anything_is_said(rig: Rig) -> None:
    await whole(rig)
    listed = await found(rig, named={"pay": EXPECTED})
    assert [each.group for each in listed.groups] == ["pay", "shop"]
    assert troubles(prospects(listed.groups[0], EXPECTED)) == {
        Trouble.NOTHING: ["there is nothing to recover pay from"]
    }
    assert [each.group for each in (await found(rig, named={"pay": EXPECTED}, only="shop")).groups] == ["shop"]
    with pytest.raises(NotFound, match="'books'. There are pay, shop"):
        await found(rig, named={"pay": EXPECTED}, only="books")
