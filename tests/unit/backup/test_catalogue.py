"""The catalogue believes only signed documents, hides nothing, and goes on when a location is gone."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from recovery.backup import catalogue as module
from recovery.backup.catalogue import Catalogue
from recovery.backup.documents import SignedManifest, sign_manifest, sign_verdict
from recovery.backup.layout import manifest_key, verdict_key
from recovery.backup.signing import Signer, generate_signing_key
from recovery.domain.recovery_point import BackupKind, VerdictState
from recovery.errors import Corrupt, NotFound, Unreachable
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import NOW, point, signer, verdict_on, verifier

VALID, CORRUPT, FAILED = VerdictState.VALID, VerdictState.CORRUPT, VerdictState.FAILED


async def _add(number: int, *stores: MemoryStore, by: Signer | None = None, **fields: object) -> SignedManifest:
    manifest = point(number, **fields).manifest  # type: ignore[arg-type]
    signed = sign_manifest(manifest, by or signer())
    for store in stores:
        for entry in manifest.artefacts[0].objects:
            await store.put(entry.key, b"x")
        await store.put(manifest_key("shop", manifest.point_id), signed.body)
    return signed


async def _judge(
    signed: SignedManifest, store: MemoryStore, state: VerdictState, hours: float = 0, location: str = "a"
) -> None:
    at = NOW + timedelta(hours=hours)
    verdict = verdict_on(signed.manifest, signed.digest, state=state, at=at, location=location)
    await store.put(verdict_key(verdict), sign_verdict(verdict, signer()))


def _catalogue(*stores: MemoryStore) -> Catalogue:
    return Catalogue(stores, verifier())


async def test_points_come_newest_first_with_their_locations() -> None:
    a, b = MemoryStore("a"), MemoryStore("b")
    await _add(1, a, b, age=timedelta(days=2), lsn="0/1")
    signed = await _add(2, b, age=timedelta(days=1), lsn="0/2")
    points = await _catalogue(a, b).points("shop")
    assert [(entry.point_id, entry.locations) for entry in points] == [("point-2", ["b"]), ("point-1", ["a", "b"])]
    assert points[0].manifest_sha256 == signed.digest
    assert [store.name for store in _catalogue(a, b).stores_of(points[1])] == ["a", "b"]


async def test_since_and_group_limit_the_list() -> None:
    a = MemoryStore("a")
    await _add(1, a, age=timedelta(days=2))
    await _add(2, a)
    points = await _catalogue(a).points("shop", since=NOW - timedelta(hours=24))
    assert [entry.point_id for entry in points] == ["point-2"]
    assert await _catalogue(a).points("pay") == []


async def test_what_has_no_manifest_does_not_exist() -> None:
    a = MemoryStore("a")
    await a.put("shop/postgres/point-9/attempt-1-x/base.tar.000000.zst.age", b"x")
    assert await _catalogue(a).points("shop") == []


async def test_a_forged_or_damaged_manifest_is_reported_and_not_listed() -> None:
    a = MemoryStore("a")
    await _add(1, a)
    await _add(2, a, by=Signer(generate_signing_key().secret))
    await a.put(manifest_key("shop", "point-3"), b"{}")
    survey = await _catalogue(a).survey("shop")
    assert [entry.point_id for entry in survey.points] == ["point-1"]
    reasons = {entry.point_id: entry.reason for entry in survey.rejected}
    assert "unknown key" in reasons["point-2"]
    assert "no signed document" in reasons["point-3"]
    with pytest.raises(Corrupt, match="not believed"):
        await _catalogue(a).point("shop", "point-2")


async def test_a_damaged_manifest_at_one_location_leaves_the_point_at_the_other() -> None:
    a, b = MemoryStore("a"), MemoryStore("b")
    signed = await _add(1, a, b)
    await a.put(manifest_key("shop", "point-1"), signed.body[:-1])
    found = await _catalogue(a, b).point("shop", "point-1")
    assert found.locations == ["b"]
    assert [entry.location for entry in (await _catalogue(a, b).survey("shop")).rejected] == ["a"]


async def test_two_manifests_under_one_id_are_one_point_and_a_rejection() -> None:
    a, b = MemoryStore("a"), MemoryStore("b")
    first = await _add(1, a)
    await _add(1, b, age=timedelta(minutes=1))
    survey = await _catalogue(a, b).survey("shop")
    assert [(entry.manifest_sha256, entry.locations) for entry in survey.points] == [(first.digest, ["a"])]
    assert "differs from the one of the same id at a" in survey.rejected[0].reason


async def test_the_newest_verdict_counts() -> None:
    a = MemoryStore("a")
    signed = await _add(1, a)
    await _judge(signed, a, VALID, hours=1)
    await _judge(signed, a, CORRUPT, hours=3)
    await _judge(signed, a, VALID, hours=2)
    found = await _catalogue(a).point("shop", "point-1")
    assert found.verdict is not None
    assert found.verdict.state is CORRUPT
    assert not found.is_valid


async def test_the_newest_verdict_counts_wherever_it_lies() -> None:
    a, b = MemoryStore("a"), MemoryStore("b")
    signed = await _add(1, a, b)
    await _judge(signed, a, VALID, hours=2)
    await _judge(signed, b, CORRUPT, hours=1)
    assert (await _catalogue(a, b).point("shop", "point-1")).is_valid


async def test_a_validation_that_could_not_judge_takes_nothing_back() -> None:
    a = MemoryStore("a")
    signed = await _add(1, a)
    await _judge(signed, a, FAILED, hours=1)
    found = await _catalogue(a).point("shop", "point-1")
    assert found.verdict is not None
    assert found.verdict.state is FAILED
    await _judge(signed, a, VALID, hours=2)
    await _judge(signed, a, FAILED, hours=3)
    assert (await _catalogue(a).point("shop", "point-1")).is_valid


async def test_a_verdict_counts_only_for_the_manifest_that_it_names() -> None:
    a = MemoryStore("a")
    signed = await _add(1, a)
    verdict = verdict_on(signed.manifest, "0" * 64)
    await a.put(verdict_key(verdict), sign_verdict(verdict, signer()))
    survey = await _catalogue(a).survey("shop")
    assert survey.points[0].verdict is None
    assert "another manifest" in survey.rejected[0].reason


async def test_a_forged_verdict_does_not_count() -> None:
    a = MemoryStore("a")
    signed = await _add(1, a)
    verdict = verdict_on(signed.manifest, signed.digest)
    body = sign_verdict(verdict, signer())
    await a.put(verdict_key(verdict), sign_verdict(verdict, Signer(generate_signing_key().secret)))
    await a.put("shop/postgres/point-1/verdicts/z.json", body.replace(b"VALID", b"valid"))
    survey = await _catalogue(a).survey("shop")
    assert survey.points[0].verdict is None
    assert len(survey.rejected) == 2


async def test_a_verdict_found_at_any_location_counts_and_damage_moves_a_location_back() -> None:
    a, b = MemoryStore("a"), MemoryStore("b")
    signed = await _add(1, a, b)
    await _judge(signed, b, CORRUPT, hours=1, location="a")
    await _judge(signed, b, VALID, hours=2, location="b")
    found = await _catalogue(a, b).point("shop", "point-1")
    assert found.is_valid
    assert found.locations == ["b", "a"]


async def test_a_verdict_is_kept_wherever_the_point_is() -> None:
    a, b, c = MemoryStore("a"), MemoryStore("b"), MemoryStore("c")
    signed = await _add(1, a, b)
    verdict = verdict_on(signed.manifest, signed.digest, location="a")
    assert await _catalogue(a, b, c).write_verdict(verdict, signer()) == ["a", "b"]
    assert c.objects == {}
    a.objects.clear()  # the region and its store are lost
    assert (await _catalogue(Silent("a"), b).newest_validated("shop")).verdict == verdict


async def test_a_verdict_on_a_point_that_went_is_said() -> None:
    verdict = verdict_on(point(1).manifest, "digest")
    with pytest.raises(NotFound, match="point-1"):
        await _catalogue(MemoryStore("a")).write_verdict(verdict, signer())


async def test_the_newest_validated_point_is_not_the_newest() -> None:
    a = MemoryStore("a")
    for number, (kind, state) in enumerate(
        [(BackupKind.LOGICAL, VALID), (BackupKind.PHYSICAL, VALID), (BackupKind.PHYSICAL, None)], start=1
    ):
        signed = await _add(number, a, kind=kind, lsn=f"0/{number}")
        if state is not None:
            await _judge(signed, a, state)
    listed = _catalogue(a)
    assert (await listed.newest_validated("shop")).point_id == "point-2"
    assert (await listed.newest_validated("shop", BackupKind.LOGICAL)).point_id == "point-1"


async def test_without_a_validated_point_it_is_said_what_there_is() -> None:
    a = MemoryStore("a")
    with pytest.raises(NotFound, match="no such points at all"):
        await _catalogue(a).newest_validated("shop")
    await _judge(await _add(1, a), a, CORRUPT)
    await _add(2, a, lsn="9/0")
    with pytest.raises(NotFound, match=r"point-2 \(not validated\), point-1 \(CORRUPT\)"):
        await _catalogue(a).newest_validated("shop")


async def test_an_unknown_point_is_answered_with_the_known_ones() -> None:
    a = MemoryStore("a")
    await _add(1, a)
    with pytest.raises(NotFound, match=r"Known, newest first: point-1"):
        await _catalogue(a).point("shop", "point-7")


class Silent(MemoryStore):
    """A location whose region is gone."""

    async def folders(self, prefix: str) -> list[str]:
        raise Unreachable(f"{self.name} is gone")

    async def get(self, key: str) -> tuple[bytes, str]:
        raise Unreachable(f"{self.name} is gone")

    async def delete(self, keys: object) -> None:
        raise Unreachable(f"{self.name} is gone")


class Frozen(MemoryStore):
    async def folders(self, prefix: str) -> list[str]:
        return await asyncio.Event().wait()  # type: ignore[return-value]


async def test_a_lost_or_frozen_location_does_not_hide_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.05)
    b = MemoryStore("b")
    await _add(1, b)
    survey = await _catalogue(Silent("a"), b, Frozen("c")).survey("shop")
    assert [entry.point_id for entry in survey.points] == ["point-1"]
    assert set(survey.unreachable) == {"a", "c"}
    with pytest.raises(Unreachable, match="no backup location answers"):
        await _catalogue(Silent("a"), Frozen("c")).survey("shop")


async def test_deleting_takes_the_manifest_first_and_everything_after_it() -> None:
    a = MemoryStore("a")
    await _judge(await _add(1, a), a, VALID)
    await _add(2, a)
    order: list[list[str]] = []
    delete = a.delete

    async def recording(keys: list[str]) -> None:
        order.append(list(keys))
        await delete(keys)

    a.delete = recording  # type: ignore[method-assign,assignment]
    await _catalogue(a).delete_point("shop", "point-1")
    await _catalogue(a).delete_point("shop", "point-1")
    assert order[0] == [manifest_key("shop", "point-1")]
    assert [entry.point_id for entry in await _catalogue(a).points("shop")] == ["point-2"]
    assert all("point-2" in key for key in a.objects)


async def test_a_deletion_that_one_location_missed_is_said() -> None:
    b = MemoryStore("b")
    await _add(1, b)
    with pytest.raises(Unreachable, match="a is gone"):
        await _catalogue(Silent("a"), b).delete_point("shop", "point-1")
    assert b.objects == {}


def _clocked(at: datetime) -> MemoryStore:
    return MemoryStore("a", clock=lambda: at)


async def test_orphans_are_found_and_only_old_ones_removed() -> None:
    old = _clocked(NOW - timedelta(days=2))
    await _add(1, old)
    await old.put("shop/postgres/point-1/attempt-9-x/base.tar.000000.zst.age", b"xx")
    await old.put("shop/postgres/point-8/attempt-1-x/base.tar.000000.zst.age", b"xxx")
    await old.put("shop/postgres/point-7/attempt-1-x/base.tar.000000.zst.age", b"x")
    await old.put(manifest_key("shop", "point-6"), b"not believed")
    await old.put("shop/postgres/point-6/attempt-1-x/base.tar.000000.zst.age", b"x")
    listed = _catalogue(old)
    orphans = await listed.orphans("shop")
    assert [(o.point_id, o.objects, o.size) for o in orphans] == [
        ("point-1", 1, 2),
        ("point-7", 1, 1),
        ("point-8", 1, 3),
    ]
    removed, failed = await listed.remove_orphans("shop", NOW - timedelta(days=3))
    assert (removed, failed) == ([], {})
    removed, failed = await listed.remove_orphans("shop", NOW - timedelta(days=1), running=["point-7"])
    assert ([o.point_id for o in removed], failed) == (["point-1", "point-8"], {})
    assert {key.split("/")[2] for key in old.objects} == {"point-1", "point-6", "point-7"}
    assert [entry.point_id for entry in await listed.points("shop")] == ["point-1"]


async def test_an_attempt_that_still_writes_is_as_young_as_its_youngest_object() -> None:
    times = iter([NOW - timedelta(days=9), NOW, NOW - timedelta(days=9)])
    store = MemoryStore("a", clock=lambda: next(times))
    await store.put("shop/postgres/point-8/attempt-1-x/base.tar.000000.zst.age", b"x")
    await store.put("shop/postgres/point-8/attempt-1-x/base.tar.000001.zst.age", b"x")
    await store.put("shop/postgres/point-8/attempt-1-x/base.tar.000002.zst.age", b"x")
    removed, _ = await _catalogue(store).remove_orphans("shop", NOW - timedelta(days=1))
    assert removed == []
