"""Incremental base backups: taken on what is there, and proven, mended and opened as chains."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
import zstandard

from drctl.documents import survey_document
from recovery.adapters.postgres_chains import PostgresChains
from recovery.adapters.recovery_points import StoredRecoveryPoints
from recovery.backup.chains import bases_in, open_chain
from recovery.backup.layout import manifest_key
from recovery.backup.pipeline import write_point
from recovery.backup.reader import check_key, open_point
from recovery.backup.sealing import Sealer
from recovery.domain.chains import POSTGRES_MANIFEST
from recovery.domain.group import BaseBackupRule
from recovery.domain.recovery_point import BackupKind, CheckResult, Manifest, VerdictState
from recovery.errors import Corrupt, NotFound, RecoveryError, Refused, Unreachable, WrongKey
from recovery.ports.postgres import BackupSource, PointReader, PostgresLogin
from tests.fakes.points import NOW, FakeSource, identity, pg_source, signer
from tests.unit.points.rig import BUDGET, CHUNK, Rig

VALID, CORRUPT = VerdictState.VALID, VerdictState.CORRUPT
OWN = b'{"PostgreSQL-Backup-Manifest-Version": 2}'


def nothing(*state: object) -> None: ...


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recovery.backup.reader.PAUSE", 0.001)


async def add_member(rig: Rig, sealer: Sealer, number: int, *bases: str) -> Manifest:
    at = NOW + timedelta(hours=number)
    source = FakeSource(
        {"base.tar": [bytes([number]) * CHUNK * 2], POSTGRES_MANIFEST: [OWN]},
        source=pg_source(bases=list(bases), stop_lsn=f"0/{number + 9}000000", canary=f"canary-{number}"),
    )
    written = await write_point(
        cast(BackupSource, source),
        identity=replace(identity(), point_id=f"{at:%Y%m%dT%H%M%SZ}-physical-1a2b3c4d", started_at=at),
        stores=rig.stores,
        sealer=sealer,
        signer=signer(),
        budget=BUDGET,
        readable={POSTGRES_MANIFEST},
    )
    return written.manifest


@pytest.fixture
async def chain(rig: Rig, sealer: Sealer) -> list[Manifest]:
    """A full one and two incremental ones, at both locations."""
    made: list[Manifest] = []
    for number in range(1, 4):
        made.append(await add_member(rig, sealer, number, *(manifest.point_id for manifest in made)))
    return made


async def test_postgresqls_manifest_is_readable_and_signed(rig: Rig, chain: list[Manifest]) -> None:
    artefact = chain[0].artefact(POSTGRES_MANIFEST)
    (entry,) = artefact.objects
    assert (artefact.sealed, chain[0].artefact("base.tar").sealed) == (False, True)
    assert entry.key.endswith("/backup_manifest.000000.zst")
    store = rig.stores[0]
    assert zstandard.ZstdDecompressor().decompress(store.objects[entry.key]) == OWN
    opened = open_point(store, chain[0], None)
    assert [part async for part in opened.stream(POSTGRES_MANIFEST)] == [OWN]
    with pytest.raises(WrongKey, match="is encrypted, and no identity was given"):
        await anext(aiter(opened.stream("base.tar")))
    forged = zstandard.ZstdCompressor().compress(OWN.replace(b"2", b"1"))
    rig.change(store, entry.key, forged)
    with pytest.raises(Corrupt, match=r"backup_manifest\.000000\.zst"):
        await anext(aiter(open_point(store, chain[0], None).stream(POSTGRES_MANIFEST)))


async def test_the_key_is_tried_on_what_needs_one(rig: Rig, chain: list[Manifest]) -> None:
    opener = rig.points.keys.opening()
    for store in rig.stores:
        store.fetched.clear()
    await check_key(chain[0], opener, rig.stores)
    assert [key for store in rig.stores for key in store.fetched if "base.tar" in key]


async def test_a_chain_is_opened_the_full_one_first(rig: Rig, chain: list[Manifest]) -> None:
    catalogue = rig.points.catalogue(rig.group)
    last = await catalogue.point("shop", chain[2].point_id)
    opened = await open_chain(catalogue, last, rig.points.keys.opening())
    assert [reader.manifest for reader in (*opened.bases, opened)] == chain
    assert await bases_in(catalogue, await catalogue.point("shop", rig.point_id)) == []


async def judged(rig: Rig, manifest: Manifest) -> tuple[VerdictState, str]:
    verdict = await rig.points.validate(rig.group, manifest.point_id, "validation", nothing)
    return verdict.state, verdict.reason


async def test_a_chain_is_restored_together(rig: Rig, chain: list[Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    async def validate(reader: PointReader, *rest: object) -> tuple[VerdictState, str, list[CheckResult]]:
        seen.append([each.manifest.point_id for each in (*reader.bases, reader)])
        return VALID, "restored", []

    monkeypatch.setattr(rig.postgres, "validate", validate)
    assert (await judged(rig, chain[2]))[0] is VALID
    assert seen == [[manifest.point_id for manifest in chain]]


@pytest.mark.parametrize("damaged", [0, 1, 2])
async def test_a_flipped_byte_in_any_member_is_found_before_anything_is_combined(
    rig: Rig, chain: list[Manifest], damaged: int
) -> None:
    for artefact in chain[damaged].artefacts:
        key = artefact.objects[-1].key
        for store in rig.stores:
            intact = store.objects[key]
            rig.change(store, key, intact[:-1] + bytes([intact[-1] ^ 1]))
            for manifest in chain[damaged:]:
                state, reason = await judged(rig, manifest)
                assert (state, key in reason, f"at {store.name}" in reason) == (CORRUPT, True, True), reason
            rig.change(store, key, intact)
    assert rig.postgres.validated == 0
    assert (await judged(rig, chain[2]))[0] is VALID


async def test_a_point_whose_chain_was_found_bad_is_not_recovered_from(rig: Rig, chain: list[Manifest]) -> None:
    assert (await judged(rig, chain[2]))[0] is VALID
    assert (await rig.points.newest_validated(rig.group)).point_id == chain[2].point_id
    key = chain[0].artefact("base.tar").objects[0].key
    rig.change(rig.stores[0], key, b"damaged")
    assert (await judged(rig, chain[0]))[0] is CORRUPT
    with pytest.raises(NotFound, match="no validated"):
        await rig.points.newest_validated(rig.group)


async def test_a_point_whose_base_cannot_be_had_is_not_recovered_from(rig: Rig, chain: list[Manifest]) -> None:
    assert (await judged(rig, chain[2]))[0] is VALID
    await rig.points.catalogue(rig.group).delete_point("shop", chain[0].point_id)
    with pytest.raises(NotFound, match=rf"{chain[2].point_id} \(VALID, without {chain[0].point_id}\)"):
        await rig.points.newest_validated(rig.group)
    await rig.validate()
    assert (await rig.points.newest_validated(rig.group)).point_id == rig.point_id


async def test_a_survey_names_what_a_point_lacks_and_not_what_was_only_left_out(
    rig: Rig, chain: list[Manifest]
) -> None:
    full, _, last = (manifest.point_id for manifest in chain)
    catalogue = rig.points.catalogue(rig.group)
    recent = await catalogue.survey("shop", since=chain[2].finished_at)
    assert ([point.point_id for point in recent.points], recent.lacking) == ([last], {})
    await catalogue.delete_point("shop", full)
    found = await catalogue.survey("shop")
    assert found.lacking == {manifest.point_id: [full] for manifest in chain[1:]}
    (newest, *_) = survey_document("shop", found, {})["points"]
    assert (newest["point_id"], newest["lacking"], newest["recoverable"]) == (last, [full], False)


async def test_a_bases_manifest_that_is_not_believed_at_one_location_is_found_and_mended(
    rig: Rig, chain: list[Manifest]
) -> None:
    """The other location may be the one that is left on the worst day."""
    rig.change(rig.stores[1], manifest_key("shop", chain[0].point_id), b"x")
    state, reason = await judged(rig, chain[2])
    assert (state, f"{chain[0].point_id}, which it builds on, at b" in reason) == (CORRUPT, True), reason
    assert rig.postgres.validated == 0
    await rig.points.repair(rig.group, chain[2].point_id, nothing)
    assert (await judged(rig, chain[2]))[0] is VALID


async def test_a_missing_member_is_corrupt_and_a_silent_location_is_no_verdict(rig: Rig, chain: list[Manifest]) -> None:
    catalogue = rig.points.catalogue(rig.group)
    last = await catalogue.point("shop", chain[2].point_id)
    await catalogue.delete_point("shop", chain[1].point_id)
    state, reason = await judged(rig, chain[2])
    assert (state, f"without {chain[1].point_id}" in reason) == (CORRUPT, True)

    async def silent(*arguments: object) -> None:
        raise Unreachable("nobody answers")

    rig.stores[0].folders = silent  # type: ignore[assignment, method-assign]
    with pytest.raises(Unreachable, match="no answer from a"):
        await bases_in(catalogue, last)


async def test_all_members_are_mended_with_the_point(rig: Rig, chain: list[Manifest]) -> None:
    key = chain[1].artefact("base.tar").objects[0].key
    intact = rig.stores[1].objects[key]
    rig.change(rig.stores[1], key, b"damaged")
    assert (await judged(rig, chain[2]))[0] is CORRUPT
    done = await rig.points.repair(rig.group, chain[2].point_id, nothing)
    assert (done.written, done.left) == ({"b": [key]}, {})
    assert rig.stores[1].objects[key] == intact
    assert (await judged(rig, chain[2]))[0] is VALID


def server(**fields: object) -> dict[str, object]:
    return {
        "system_identifier": "7300000000000000001", "version": "18.4", "major": 18, "summarize_wal": "on",
        "tablespaces": 0, "timeline": 1, **fields,
    }  # fmt: skip


KEPT = {"canary-1", "canary-2", "canary-3"}


async def _base(
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
    points: StoredRecoveryPoints | None = None,
    canaries: set[str] | RecoveryError = KEPT,
    **fields: object,
) -> Any:
    async def asked(login: PostgresLogin) -> dict[str, object]:
        return server(**fields)

    async def read(login: PostgresLogin) -> set[str]:
        if isinstance(canaries, RecoveryError):
            raise canaries
        return canaries

    monkeypatch.setattr("recovery.adapters.postgres_chains._canaries", read)
    monkeypatch.setattr("recovery.adapters.postgres_chains._server", asked)
    group = rig.group.model_copy(update={"base_backup": BaseBackupRule(incrementals=3)})
    chains = PostgresChains((points or rig.points).catalogue)
    return await chains.base_for(group, PostgresLogin("db", 5432))


async def test_the_next_one_takes_the_newest_manifest_without_a_private_key(
    rig: Rig, chain: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, why = await _base(rig, monkeypatch, rig.with_keys(opener=None))
    assert why == ""
    assert base.manifest == OWN
    assert list(base.chain) == [manifest.point_id for manifest in chain]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (
            {"major": 16, "version": "16.14"},
            "PostgreSQL 16.14 at db:5432 takes no incremental base backups: version 17",
        ),
        ({"summarize_wal": "off"}, "summarize_wal is off at db:5432"),
        ({"tablespaces": 1}, "has tablespaces"),
        ({"timeline": 2}, "and the server is on 2"),
    ],
)
async def test_why_the_next_one_is_full(
    rig: Rig, chain: list[Manifest], monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], why: str
) -> None:
    base, reason = await _base(rig, monkeypatch, **fields)
    assert base is None
    assert why in reason


async def test_the_next_one_builds_on_what_the_server_went_on_from(
    rig: Rig, chain: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _ = await _base(rig, monkeypatch, canaries={"canary-1", "canary-2"})
    assert list(base.chain) == [manifest.point_id for manifest in chain[:2]]
    base, reason = await _base(rig, monkeypatch, canaries=set())
    assert base is None
    assert f"no canary of {chain[2].point_id}" in reason
    base, reason = await _base(rig, monkeypatch, canaries=Refused("permission denied"))
    assert (base, reason) == (None, "permission denied")


async def test_a_damaged_manifest_makes_the_next_one_full(
    rig: Rig, chain: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = chain[2].artefact(POSTGRES_MANIFEST).objects[0].key
    for store in rig.stores:
        rig.change(store, key, b"damaged")
    base, reason = await _base(rig, monkeypatch)
    assert base is None
    assert key in reason


async def test_only_base_backups_that_others_follow_are_readable(rig: Rig) -> None:
    from recovery.ports.recovery_points import BackupOrder

    def readable(kind: BackupKind, incrementals: int) -> frozenset[str]:
        group = rig.group.model_copy(update={"base_backup": BaseBackupRule(incrementals=incrementals)})
        return BackupOrder(group, "region-a", kind, "point", "run", 1, NOW).readable

    assert readable(BackupKind.PHYSICAL, 1) == {POSTGRES_MANIFEST}
    assert readable(BackupKind.PHYSICAL, 0) == readable(BackupKind.LOGICAL, 1) == frozenset()
