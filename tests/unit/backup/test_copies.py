"""Which locations have a point whole, and how far a bucket's own replication is."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from recovery.backup import copies as module
from recovery.backup.catalogue import Catalogue
from recovery.backup.copies import copies_of, examined
from recovery.backup.documents import SignedManifest, sign_manifest, sign_verdict
from recovery.backup.layout import manifest_key, verdict_key
from recovery.domain.copies import Copy, CopyState, Replication
from recovery.domain.recovery_point import Artefact, CheckResult, Manifest, RecoveryPoint, StoredObject, VerdictState
from recovery.errors import Unreachable
from recovery.ports.object_store import ObjectInfo
from tests.fakes.object_store import MemoryStore, UnreadableStore
from tests.fakes.points import NOW, point, signer, verdict_on, verifier

OBJECTS = 5


class Replicating(MemoryStore):
    """A bucket with a replication rule: ``statuses`` by the end of the key, else COMPLETED."""

    def __init__(self, name: str, statuses: dict[str, str | None] | None = None) -> None:
        super().__init__(name)
        self.statuses = statuses or {}
        self.asked: list[str] = []

    async def head(self, key: str) -> ObjectInfo | None:
        self.asked.append(key)
        info = await super().head(key)
        status = next((word for end, word in self.statuses.items() if key.endswith(end)), "COMPLETED")
        return None if info is None else replace(info, replication=status)


def manifest_of(number: int) -> Manifest:
    manifest = point(number).manifest
    stored = [
        StoredObject(key=f"shop/postgres/point-{number}/attempt-1-0/{i}", size=1, sha256="0" * 64, plain_size=1)
        for i in range(OBJECTS)
    ]
    return manifest.model_copy(update={"artefacts": [Artefact(name="base.tar", objects=stored)]})


async def add(number: int, *stores: MemoryStore) -> SignedManifest:
    signed = sign_manifest(manifest_of(number), signer())
    for store in stores:
        for entry in signed.manifest.artefacts[0].objects:
            await store.put(entry.key, b"x")
        await store.put(manifest_key("shop", signed.manifest.point_id), signed.body)
    return signed


async def judge(
    signed: SignedManifest, store: MemoryStore, state: VerdictState, location: str, hours: int, *read: str
) -> None:
    verdict = verdict_on(
        signed.manifest, signed.digest, state=state, location=location, at=NOW + timedelta(hours=hours)
    ).model_copy(update={"checks": [CheckResult(name=f"{name}: all objects", passed=True) for name in read]})
    await store.put(verdict_key(verdict), sign_verdict(verdict, signer()))


async def states(stores: list[MemoryStore], *expected: str) -> dict[str, CopyState]:
    survey = await Catalogue(stores, verifier()).survey("shop")
    found = await copies_of(stores, survey, expected)
    return {name: copy.state for name, copy in found["point-1"].items()}


async def test_each_location_says_what_it_has() -> None:
    names = ["whole", "filling", "missing", "forged", "silent"]
    stores: list[MemoryStore] = [UnreadableStore(name) for name in names]
    await add(1, stores[0], stores[4])
    await stores[1].put("shop/postgres/point-1/attempt-1-0/0", b"x")
    await stores[3].put(manifest_key("shop", "point-1"), b"{}")
    assert isinstance(stores[4], UnreadableStore)
    stores[4].broken = lambda method, key: Unreachable("no route")
    assert await states(stores, *reversed(names)) == {
        "silent": CopyState.UNKNOWN,
        "forged": CopyState.DISBELIEVED,
        "missing": CopyState.MISSING,
        "filling": CopyState.FILLING,
        "whole": CopyState.WHOLE,
    }
    stores[1].objects.clear()
    await add(1, stores[1])
    assert (await states(stores, *names))["filling"] is CopyState.WHOLE, "it was filled"


async def test_a_copy_is_damaged_until_a_validation_reads_it_whole() -> None:
    a, b = MemoryStore("a"), MemoryStore("b")
    signed = await add(1, a, b)
    await judge(signed, b, VerdictState.CORRUPT, "a", 1, "a")
    assert await states([a, b], "a", "b") == {"a": CopyState.DAMAGED, "b": CopyState.WHOLE}
    await judge(signed, b, VerdictState.VALID, "b", 2, "b")
    assert await states([a, b], "a", "b") == {"a": CopyState.DAMAGED, "b": CopyState.WHOLE}, "it was silent then"
    await judge(signed, b, VerdictState.VALID, "b", 3, "a", "b")
    assert await states([a, b], "a", "b") == {"a": CopyState.WHOLE, "b": CopyState.WHOLE}


async def replications(stores: list[MemoryStore], *replicating: str) -> dict[str, dict[str, Replication | None]]:
    survey = await Catalogue(stores, verifier()).survey("shop")
    found = await copies_of(stores, survey, [store.name for store in stores], replicating)
    return {point_id: {name: copy.worst for name, copy in at.items()} for point_id, at in found.items()}


async def test_a_bucket_that_replicates_by_itself_says_how_far_each_manifest_is() -> None:
    near, folder = Replicating("near", {"point-2/manifest.json": "PENDING"}), MemoryStore("folder")
    for number in (1, 2, 3):
        await add(number, near, folder)
    near.statuses["point-1/manifest.json"] = "FAILED"
    assert await replications([near, folder]) == {
        "point-1": {"near": Replication.FAILED, "folder": None},
        "point-2": {"near": Replication.PENDING, "folder": None},
        "point-3": {"near": Replication.COMPLETED, "folder": None},
    }


async def test_a_bucket_that_is_to_replicate_and_does_not_is_told_and_another_is_asked_once() -> None:
    expected, other = Replicating("expected", {"json": None}), Replicating("other", {"json": None})
    for number in (1, 2, 3):
        await add(number, expected, other)
    found = await replications([expected, other], "expected")
    assert {at["expected"] for at in found.values()} == {Replication.NONE}
    assert {at["other"] for at in found.values()} == {None}
    assert len(other.asked) == 1


@pytest.mark.parametrize(
    ("word", "known"),
    [("COMPLETE", Replication.COMPLETED), ("replica", Replication.REPLICA), ("NEW", Replication.UNKNOWN),
     (None, Replication.NONE)],
)  # fmt: skip
def test_the_protocol_s_words(word: str | None, known: Replication) -> None:
    assert Replication.of(word) is known


async def one(stores: list[MemoryStore]) -> RecoveryPoint:
    return await Catalogue(stores, verifier()).point("shop", "point-1")


async def test_of_one_point_all_objects_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = Replicating("near", {"/3": "PENDING", "/4": "FAILED"}), MemoryStore("far")
    filling, gone = MemoryStore("filling"), MemoryStore("gone")
    silent = UnreadableStore("silent")
    await add(1, near, far)
    await far.delete(["shop/postgres/point-1/attempt-1-0/2"])
    await far.put("shop/postgres/point-1/attempt-1-0/1", b"xx")
    await filling.put("shop/postgres/point-1/attempt-1-0/0", b"x")
    stores = [near, far, filling, gone, silent]
    found_point = await one(stores)
    silent.broken = lambda method, key: Unreachable("no route")
    found = await examined(stores, found_point)
    assert found["near"].replication == {
        Replication.COMPLETED: 1 + OBJECTS - 2, Replication.PENDING: 1, Replication.FAILED: 1
    }  # fmt: skip
    assert (found["near"].state, found["near"].worst) == (CopyState.WHOLE, Replication.FAILED)
    assert found["far"] == Copy(state=CopyState.INCOMPLETE, detail="2 of 5 objects are missing or have another size")
    assert found["filling"] == Copy(state=CopyState.FILLING, detail="1 object so far")
    assert found["gone"] == Copy(state=CopyState.MISSING)
    assert found["silent"] == Copy(state=CopyState.UNKNOWN, detail="no route")
    monkeypatch.setattr(module, "MOST_ASKED", 2)
    near.asked.clear()
    await examined([near], found_point)
    assert len(near.asked) == 3, "the manifest, and 2 of 5"
