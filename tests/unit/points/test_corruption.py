"""A single changed, missing or foreign byte anywhere in a recovery point is never VALID, and the reason names it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.backup.documents import sign_manifest
from recovery.backup.layout import manifest_key, verdicts_prefix
from recovery.backup.sealing import Sealer
from recovery.backup.signing import Signer, generate_signing_key
from recovery.domain.recovery_point import VerdictState
from recovery.errors import Corrupt, NotFound
from tests.fakes.points import NOW
from tests.unit.points.rig import Rig, add_point

VALID, CORRUPT = VerdictState.VALID, VerdictState.CORRUPT


def flipped(body: bytes, position: int, bit: int = 4) -> bytes:
    changed = bytearray(body)
    changed[position] ^= 1 << bit
    return bytes(changed)


def positions(length: int, seed: int, some: int = 3) -> Iterator[int]:
    yield from {0, length // 2, length - 1}
    yield from (random.Random(seed).randrange(length) for _ in range(some))


async def never_chosen(rig: Rig) -> None:
    with pytest.raises(NotFound, match="no validated"):
        await rig.points.newest_validated(rig.group)


async def test_an_intact_point_is_valid(rig: Rig) -> None:
    assert (await rig.validate())[0] is VALID
    assert (await rig.points.newest_validated(rig.group)).point_id == rig.point_id
    assert rig.postgres.validated == 1


@pytest.mark.parametrize("where", [0, 1], ids=["first location", "second location"])
async def test_a_flipped_byte_of_any_object_is_corrupt(rig: Rig, where: int) -> None:
    store = rig.stores[where]
    for number, key in enumerate(rig.object_keys):
        intact = store.objects[key]
        for position in positions(len(intact), number):
            rig.change(store, key, flipped(intact, position))
            state, reason = await rig.validate()
            assert (state, key in reason, f"at {store.name}" in reason) == (CORRUPT, True, True), (position, reason)
            await never_chosen(rig)
        rig.change(store, key, intact)
    assert rig.postgres.validated == 0, "found before anything was restored"
    assert (await rig.validate())[0] is VALID, "the newest verdict counts"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda body: body[:-1],
    "cut to half": lambda body: body[: len(body) // 2],
    "emptied": lambda body: b"",
    "longer": lambda body: body + b"\0",
    "without its first byte": lambda body: body[1:],
    "backwards": lambda body: body[::-1],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
async def test_an_object_of_another_form_is_corrupt(rig: Rig, damage: Callable[[bytes], bytes]) -> None:
    for key in (rig.object_keys[0], rig.object_keys[-1]):
        intact = rig.stores[0].objects[key]
        rig.change(rig.stores[0], key, damage(intact))
        state, reason = await rig.validate()
        assert state is CORRUPT
        assert key in reason
        rig.change(rig.stores[0], key, intact)
    await never_chosen(rig)


async def test_a_missing_object_is_corrupt_and_named(rig: Rig) -> None:
    for key in rig.object_keys:
        intact = rig.stores[1].objects[key]
        await rig.stores[1].delete([key])
        assert await rig.validate() == (CORRUPT, f"at b: 1 of {_siblings(rig, key)} objects: {key} is missing")
        await rig.stores[1].put(key, intact)


def _siblings(rig: Rig, key: str) -> int:
    return next(len(a.objects) for a in rig.manifest.artefacts if key in [entry.key for entry in a.objects])


async def test_swapped_objects_are_corrupt(rig: Rig) -> None:
    store, (one, other) = rig.stores[0], rig.object_keys[:2]
    first, second = store.objects[one], store.objects[other]
    rig.change(store, one, second)
    rig.change(store, other, first)
    state, reason = await rig.validate()
    assert state is CORRUPT
    assert one in reason
    assert other in reason


@pytest.mark.parametrize("both", [False, True], ids=["one location", "every location"])
async def test_a_flipped_byte_of_the_manifest_is_corrupt(rig: Rig, both: bool) -> None:
    """Of its content, its signature, its form: every eleventh byte, and every byte of the signature."""
    key = manifest_key("shop", rig.point_id)
    intact = rig.stores[0].objects[key]
    signature = intact.index(b'"signature"')
    damaged = rig.stores if both else rig.stores[:1]
    for position in [*range(0, signature, 11), *range(signature, len(intact))]:
        for store in damaged:
            rig.change(store, key, flipped(intact, position, bit=position % 7))
        state, reason = await rig.validate()
        assert state is CORRUPT, position
        assert ("manifest.json" in reason) or ("not believed" in reason and rig.point_id in reason), reason
        if not both:
            await never_chosen(rig)
        await rig.forget_verdicts()
    for store in damaged:
        rig.change(store, key, intact)
    assert (await rig.validate())[0] is VALID


async def test_a_manifest_that_lost_its_last_byte_is_corrupt(rig: Rig) -> None:
    key = manifest_key("shop", rig.point_id)
    for store in rig.stores:
        rig.change(store, key, store.objects[key][:-1])
    assert (await rig.validate())[0] is CORRUPT
    assert rig.point_id in await rig.points.unbelieved(rig.group)


async def test_an_unbelieved_point_is_among_those_that_the_daily_validation_looks_at(rig: Rig) -> None:
    key = manifest_key("shop", rig.point_id)
    assert await rig.points.unbelieved(rig.group) == {}
    rig.change(rig.stores[0], key, flipped(rig.stores[0].objects[key], 40))
    assert list(await rig.points.unbelieved(rig.group)) == [rig.point_id]


async def test_a_flipped_byte_of_a_verdict_takes_its_word_away(rig: Rig) -> None:
    await rig.validate()
    prefix = verdicts_prefix("shop", rig.point_id)
    (key,) = {key for store in rig.stores for key in store.objects if key.startswith(prefix)}
    intact = rig.stores[0].objects[key]
    for position in range(0, len(intact), 3):
        for store in rig.stores:
            rig.change(store, key, flipped(intact, position, bit=position % 7))
        await never_chosen(rig)


async def test_a_manifest_forged_with_another_key_is_not_believed(rig: Rig) -> None:
    """Whoever can write to the buckets changes the point and signs it himself."""
    forger = Signer(generate_signing_key().secret)
    forged = sign_manifest(rig.manifest, forger)
    for store in rig.stores:
        rig.change(store, manifest_key("shop", rig.point_id), forged.body)
    state, reason = await rig.validate()
    assert state is CORRUPT
    assert f"unknown key {forger.key_id!r}" in reason
    with pytest.raises(Corrupt, match="unknown key"):
        await rig.points.point(rig.group, rig.point_id)
    await never_chosen(rig)


async def test_a_forged_verdict_is_not_believed(rig: Rig) -> None:
    rig.points.keys.signer = Signer(generate_signing_key().secret)
    assert (await rig.validate())[0] is VALID
    await never_chosen(rig)


async def test_an_old_verdict_says_nothing_about_another_manifest(rig: Rig, sealer: Sealer) -> None:
    """The manifest is replaced by another trusted one under the same id; the VALID verdict was not about that one."""
    await rig.validate()
    signer = rig.points.keys.signing()
    other = sign_manifest(rig.manifest.model_copy(update={"run_id": "another"}), signer)
    for store in rig.stores:
        rig.change(store, manifest_key("shop", rig.point_id), other.body)
    await never_chosen(rig)
    assert (await rig.points.point(rig.group, rig.point_id)).verdict is None


async def test_a_verdict_that_is_copied_to_another_point_is_not_believed(rig: Rig, sealer: Sealer) -> None:
    await rig.validate()
    newer = await add_point(rig.stores, sealer, NOW + timedelta(hours=1))
    old = verdicts_prefix("shop", rig.point_id)
    for store in rig.stores:
        for key in [key for key in store.objects if key.startswith(old)]:
            name = key.removeprefix(old)
            await store.put(verdicts_prefix("shop", newer.point_id) + name, store.objects[key])
    assert (await rig.points.newest_validated(rig.group)).point_id == rig.point_id


async def test_a_point_that_is_copied_under_another_id_is_not_believed(rig: Rig) -> None:
    """A replay of an old point as the newest one."""
    await rig.validate()
    fake = rig.point_id.replace("2026", "2027")
    for store in rig.stores:
        for key in list(store.objects):
            await store.put(key.replace(rig.point_id, fake), store.objects[key])
    assert (await rig.points.newest_validated(rig.group)).point_id == rig.point_id
    assert "belongs to" in (await rig.points.unbelieved(rig.group))[fake]


async def test_a_corrupt_point_gives_way_to_the_older_valid_one(rig: Rig, sealer: Sealer) -> None:
    await rig.validate()
    older = rig.manifest
    rig.manifest = await add_point(rig.stores, sealer, NOW + timedelta(hours=1))
    key = rig.object_keys[2]
    rig.change(rig.stores[0], key, flipped(rig.stores[0].objects[key], 77))
    assert (await rig.validate())[0] is CORRUPT
    assert (await rig.points.newest_validated(rig.group)).point_id == older.point_id


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
async def test_no_single_byte_can_change_unnoticed(rig: Rig, data: st.DataObject) -> None:
    """Any byte of anything that the point consists of, changed to any other value, at any location."""
    store = data.draw(st.sampled_from(rig.stores), label="location")
    key = data.draw(st.sampled_from([*rig.object_keys, manifest_key("shop", rig.point_id)]), label="key")
    intact = store.objects[key]
    position = data.draw(st.integers(0, len(intact) - 1), label="position")
    value = data.draw(st.integers(0, 255).filter(lambda value: value != intact[position]), label="value")
    rig.change(store, key, intact[:position] + bytes([value]) + intact[position + 1 :])
    try:
        state, reason = await rig.validate()
        assert state is CORRUPT, reason
    finally:
        rig.change(store, key, intact)
        await rig.forget_verdicts()
