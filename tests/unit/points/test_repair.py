"""A damaged copy is written anew from a sound one: checked first, under conditions only, and proven again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.adapters.folder import FolderStore
from recovery.backup.layout import manifest_key
from recovery.backup.sealing import Sealer
from recovery.backup.signing import Signer, generate_signing_key
from recovery.domain.recovery_point import VerdictState
from recovery.errors import Corrupt, Refused, Unreachable
from recovery.ports.object_store import ObjectStore
from recovery.ports.recovery_points import Repaired
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import NOW
from tests.unit.points.rig import CountingStore, Rig, add_point

VALID, CORRUPT = VerdictState.VALID, VerdictState.CORRUPT


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recovery.backup.reader.PAUSE", 0.001)


async def repair(rig: Rig) -> Repaired:
    return await rig.points.repair(rig.group, rig.point_id, lambda done, expected, what: None)


def pictures(rig: Rig) -> list[dict[str, bytes]]:
    return [dict(store.objects) for store in rig.stores]


def damage(rig: Rig, where: int, key: str, how: str) -> None:
    store = rig.stores[where]
    body = store.objects[key]
    if how == "missing":
        del store.objects[key], store._about[key]
        return
    rig.change(store, key, {"flipped": bytes([body[0] ^ 1]) + body[1:], "cut": body[:-1], "emptied": b""}[how])


class Watched(CountingStore):
    """Calls ``before`` when a write comes, and notes the conditions under which it came."""

    def __init__(self, name: str, of: CountingStore) -> None:
        super().__init__(name)
        self.objects, self._about = of.objects, of._about
        self.conditions: list[tuple[str, bool, str | None]] = []
        self.before: Callable[[str], None] = lambda key: None
        self.silent: Callable[[str], bool] = lambda key: False

    async def get(self, key: str) -> tuple[bytes, str]:
        if self.silent(key):
            raise Unreachable(f"{self.name} did not answer")
        return await super().get(key)

    async def put(self, key: str, body: bytes, **conditions: Any) -> str:
        self.before(key)
        self.conditions.append((key, conditions.get("if_absent", False), conditions.get("if_match")))
        return await super().put(key, body, **conditions)


def watched(rig: Rig, where: int) -> Watched:
    made = Watched(rig.stores[where].name, rig.stores[where])
    rig.stores[where] = made
    return made


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied", "missing"])
@pytest.mark.parametrize("where", [0, 1], ids=["first location", "second location"])
async def test_damage_at_one_location_is_repaired_and_the_point_is_valid_again(rig: Rig, where: int, how: str) -> None:
    before = pictures(rig)
    damaged = [rig.object_keys[0], rig.object_keys[-1]]
    for key in damaged:
        damage(rig, where, key, how)
    assert (await rig.validate("first"))[0] is CORRUPT
    done = await repair(rig)
    assert (done.written, done.left) == ({rig.stores[where].name: damaged}, {})
    for store, objects in zip(rig.stores, before, strict=True):
        assert {key: store.objects[key] for key in objects} == objects
    point = await rig.points.point(rig.group, rig.point_id)
    assert not point.is_valid, "a repair is no proof"
    assert (await rig.validate("second"))[0] is VALID
    assert (await rig.points.newest_validated(rig.group)).point_id == rig.point_id


async def test_only_what_was_found_damaged_is_written_and_only_under_conditions(rig: Rig) -> None:
    store = watched(rig, 1)
    cut, missing = rig.object_keys[1], rig.object_keys[2]
    etag = store._about[cut].etag
    damage(rig, 1, cut, "cut")
    damage(rig, 1, missing, "missing")
    await repair(rig)
    assert store.conditions == [(cut, False, etag), (missing, True, None)]


async def test_damage_that_is_spread_over_the_locations_is_repaired_crosswise(rig: Rig) -> None:
    before = pictures(rig)
    damage(rig, 0, rig.object_keys[0], "flipped")
    damage(rig, 1, rig.object_keys[1], "missing")
    done = await repair(rig)
    assert done.written == {"a": [rig.object_keys[0]], "b": [rig.object_keys[1]]}
    assert pictures(rig) == before


async def test_what_is_intact_nowhere_is_said_and_nothing_is_written(rig: Rig) -> None:
    damage(rig, 0, rig.object_keys[-1], "flipped")
    damage(rig, 1, rig.object_keys[-1], "cut")
    damage(rig, 1, rig.object_keys[0], "missing")  # this one could be
    before = pictures(rig)
    with pytest.raises(Corrupt, match=rig.object_keys[-1]):
        await repair(rig)
    assert pictures(rig) == before


async def test_a_silent_location_is_no_proof_that_all_is_lost(rig: Rig) -> None:
    damage(rig, 0, rig.object_keys[0], "flipped")
    watched(rig, 1).silent = lambda key: key == rig.object_keys[0]
    before = pictures(rig)
    with pytest.raises(Unreachable, match="b did not"):
        await repair(rig)
    assert pictures(rig) == before


async def test_a_location_that_does_not_answer_does_not_keep_the_others_from_it(rig: Rig) -> None:
    third = CountingStore("c")
    third.objects, third._about = dict(rig.stores[0].objects), dict(rig.stores[0]._about)
    rig.stores.append(third)
    rig.group = rig.group.model_copy(update={"locations": ["a", "b", "c"]})
    damage(rig, 2, rig.object_keys[0], "flipped")
    watched(rig, 1).silent = lambda key: True
    done = await repair(rig)
    assert done.written == {"c": [rig.object_keys[0]]}
    assert list(done.left) == ["b"]


async def test_what_somebody_else_wrote_meanwhile_is_not_overwritten(rig: Rig) -> None:
    key = rig.object_keys[0]
    damage(rig, 1, key, "flipped")
    store = watched(rig, 1)

    def somebody_else(written: str) -> None:
        store.objects[written] = b"theirs"
        store._about[written] = replace(store._about[written], etag="theirs")

    store.before = somebody_else
    done = await repair(rig)
    assert store.objects[key] == b"theirs"
    assert done.written == {}
    assert "was changed meanwhile" in done.left["b"]


async def test_two_repairs_at_once_are_one(rig: Rig) -> None:
    key = rig.object_keys[0]
    right = rig.stores[1].objects[key]
    damage(rig, 1, key, "flipped")
    store = watched(rig, 1)

    def the_other_one(written: str) -> None:
        store.objects[written] = right
        store._about[written] = replace(store._about[written], etag="repaired")

    store.before = the_other_one
    done = await repair(rig)
    assert (done.written, done.left) == ({"b": [key]}, {})


async def test_a_source_that_is_damaged_meanwhile_gives_nothing(rig: Rig) -> None:
    """The copy was intact when all were compared, and is not when it is read to be written."""
    key = rig.object_keys[0]
    damage(rig, 1, key, "flipped")
    before = rig.stores[1].objects[key]
    source = watched(rig, 0)
    seen: list[str] = []

    def second_look(asked: str) -> bool:
        seen.append(asked)
        if seen.count(key) == 2:
            source.objects[key] = b"damaged now"
        return False

    source.silent = second_look
    done = await repair(rig)
    assert rig.stores[1].objects[key] == before
    assert "not intact any more" in done.left["b"]


@pytest.mark.parametrize("body", [b"{}", b"", b"no JSON"], ids=["unsigned", "empty", "noise"])
async def test_a_damaged_manifest_comes_back_after_its_objects(rig: Rig, body: bytes) -> None:
    key, before = manifest_key("shop", rig.point_id), pictures(rig)
    damage(rig, 0, rig.object_keys[0], "missing")
    rig.change(rig.stores[0], key, body)
    store = watched(rig, 0)
    done = await repair(rig)
    assert [written for written, _, _ in store.conditions] == [rig.object_keys[0], key]
    assert (done.written, done.left) == ({"a": [rig.object_keys[0], key]}, {})
    assert pictures(rig) == before
    assert (await rig.points.point(rig.group, rig.point_id)).locations == ["a", "b"]


async def test_a_manifest_of_somebody_elses_is_left_for_a_person(rig: Rig) -> None:
    key = manifest_key("shop", rig.point_id)
    stranger = Signer(generate_signing_key().secret)
    for body, words in (
        (stranger.sign({"format": 1}), "signed"),
        (rig.points.keys.signing().sign({"format": 2}), "another manifest"),
    ):
        rig.change(rig.stores[1], key, body)
        done = await repair(rig)
        assert words in done.left["b"]
        assert rig.stores[1].objects[key] == body


async def test_a_location_that_never_had_the_point_is_filled_not_repaired(rig: Rig) -> None:
    rig.stores[1].objects.clear()
    rig.stores[1]._about.clear()
    damage_free = await repair(rig)
    assert (damage_free.written, damage_free.left) == ({}, {})
    assert rig.stores[1].objects == {}


async def test_a_location_that_refuses_the_write_is_named(rig: Rig) -> None:
    damage(rig, 1, rig.object_keys[0], "flipped")

    def refuse(key: str) -> None:
        raise Refused("b denies access")

    watched(rig, 1).before = refuse
    assert (await repair(rig)).left == {"b": "b denies access"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 5), st.sampled_from(["flipped", "cut", "emptied", "missing"])),
        max_size=6,
        unique_by=lambda each: each[:2],
    )
)
async def test_either_all_is_right_again_or_nothing_was_touched(rig: Rig, damages: list[tuple[int, int, str]]) -> None:
    whole = pictures(rig)
    for where, number, how in damages:
        damage(rig, where, rig.object_keys[number], how)
    hurt = pictures(rig)
    both = {number for where, number, _ in damages if (1 - where, number) in {(w, n) for w, n, _ in damages}}
    try:
        await repair(rig)
    except Corrupt:
        assert both
        assert pictures(rig) == hurt
    else:
        assert not both
        assert pictures(rig) == whole
    for store, objects in zip(rig.stores, whole, strict=True):
        for key, body in objects.items():
            await cast(ObjectStore, store).put(key, body)


async def test_copies_in_folders_are_repaired_on_the_disk(rig: Rig, sealer: Sealer, tmp_path: Path) -> None:
    """Files that really change behind the store's back."""
    folders = [FolderStore(name, tmp_path / name) for name in ("a", "b")]
    points = replace(rig.points, stores=lambda group: folders)
    manifest = await add_point(cast(list[MemoryStore], folders), sealer, NOW)
    keys = [entry.key for artefact in manifest.artefacts for entry in artefact.objects]
    flipped, removed = tmp_path / "a" / keys[0], tmp_path / "b" / keys[1]
    signed = tmp_path / "b" / manifest_key("shop", manifest.point_id)
    whole = {path: path.read_bytes() for path in (flipped, removed, signed)}
    flipped.write_bytes(bytes([whole[flipped][0] ^ 1]) + whole[flipped][1:])
    removed.unlink()
    signed.write_bytes(whole[signed].replace(b"1", b"2", 1))
    done = await points.repair(rig.group, manifest.point_id, lambda done, expected, what: None)
    assert done.left == {}
    assert {path: path.read_bytes() for path in whole} == whole
