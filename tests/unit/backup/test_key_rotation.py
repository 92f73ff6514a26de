"""Keys are rotated as docs/locations.md says it: at no step is there a point that nobody can open or believe."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from recovery.backup.catalogue import Catalogue
from recovery.backup.documents import sign_verdict
from recovery.backup.layout import verdict_key
from recovery.backup.pipeline import write_point
from recovery.backup.reader import check_key, open_point
from recovery.backup.sealing import Opener, Sealer, generate_age_key
from recovery.backup.signing import Signer, Verifier, generate_signing_key
from recovery.backup.survey import Survey
from recovery.backup.upload import WriteBudget
from recovery.domain.group import RetentionRule
from recovery.domain.recovery_point import RecoveryPoint
from recovery.domain.retention import plan_retention
from recovery.errors import WrongKey
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import AGE, SIGNING, FakeSource, identity, pg_source, signer, verdict_on

NEW_AGE, NEW_SIGNING = generate_age_key(), generate_signing_key()
OLD_SIGNER, NEW_SIGNER = signer(), Signer(NEW_SIGNING.secret)
BEFORE, DURING, AFTER = (f"20261122T10{minute}00Z-physical-1a2b3c4d" for minute in (10, 20, 30))
DATA = b"orders" * 500


@dataclass
class Installation:
    """One location, and the openers of machines with the old identity, the new one, and both."""

    store: MemoryStore
    old: Opener
    new: Opener
    both: Opener
    points: dict[str, RecoveryPoint] = field(default_factory=dict)

    async def survey(self, *trusted: str) -> Survey:
        return await Catalogue([self.store], Verifier(list(trusted))).survey("shop")

    async def opens(self, point_id: str, opener: Opener) -> bool:
        """Whether the whole point can be read with these identities."""
        manifest = self.points[point_id].manifest
        try:
            await check_key(manifest, opener, [self.store])
        except WrongKey:
            return False
        reader = open_point(self.store, manifest, opener)
        assert b"".join([piece async for piece in reader.stream("base.tar")]) == DATA
        return True


@pytest.fixture(scope="module")
async def rotated(sealer: Sealer, opener: Opener) -> AsyncIterator[Installation]:
    """Before the rotation; then new keys beside the old ones, and the old signer still; then the new ones alone."""
    async with AsyncExitStack() as stack:
        of_both = await stack.enter_async_context(Sealer([AGE.public, NEW_AGE.public], threads=1))
        of_new = await stack.enter_async_context(Sealer([NEW_AGE.public], threads=1))
        new = await stack.enter_async_context(Opener([NEW_AGE.secret], threads=1))
        both = await stack.enter_async_context(Opener([NEW_AGE.secret, AGE.secret], threads=1))
        made = Installation(MemoryStore("a"), opener, new, both)
        steps = ((BEFORE, sealer, OLD_SIGNER), (DURING, of_both, OLD_SIGNER), (AFTER, of_new, NEW_SIGNER))
        for number, (point_id, with_keys, by) in enumerate(steps):
            written = await write_point(
                FakeSource({"base.tar": [DATA]}, source=pg_source(stop_lsn=f"0/{number + 3}000100")),
                identity=identity(point_id=point_id), stores=[made.store], sealer=with_keys, signer=by,
                budget=WriteBudget(chunk_bytes=1000),
            )  # fmt: skip
            (point,) = [
                each
                for each in (await made.survey(SIGNING.public, NEW_SIGNING.public)).points
                if each.point_id == point_id
            ]
            verdict = verdict_on(written.manifest, point.manifest_sha256, at=datetime.now(UTC))
            await made.store.put(verdict_key(verdict), sign_verdict(verdict, by))
            made.points[point_id] = point
        yield made


async def test_each_point_opens_with_what_was_configured_when_it_was_taken(rotated: Installation) -> None:
    opened = {
        point_id: (await rotated.opens(point_id, rotated.old), await rotated.opens(point_id, rotated.new))
        for point_id in (BEFORE, DURING, AFTER)
    }
    assert opened == {BEFORE: (True, False), DURING: (True, True), AFTER: (False, True)}
    assert all([await rotated.opens(point_id, rotated.both) for point_id in opened]), "while old points are kept"
    assert {point_id: point.manifest.recipients for point_id, point in rotated.points.items()} == {
        BEFORE: [AGE.public], DURING: [AGE.public, NEW_AGE.public], AFTER: [NEW_AGE.public]
    }  # fmt: skip


async def test_with_both_signers_all_points_and_verdicts_count(rotated: Installation) -> None:
    survey = await rotated.survey(SIGNING.public, NEW_SIGNING.public)
    assert [point.point_id for point in survey.points if point.is_valid] == [AFTER, DURING, BEFORE]
    assert survey.rejected == []


@pytest.mark.parametrize(
    ("trusted", "believed", "foreign"),
    [
        ([SIGNING.public], [DURING, BEFORE], [AFTER]),  # a machine that was not told of the new signer
        ([NEW_SIGNING.public], [AFTER], [BEFORE, DURING]),  # the old one was taken away too early
    ],
)
async def test_a_signer_that_is_missing_somewhere_hides_nothing(
    rotated: Installation, trusted: list[str], believed: list[str], foreign: list[str]
) -> None:
    survey = await rotated.survey(*trusted)
    assert [point.point_id for point in survey.points] == believed
    assert sorted(entry.point_id for entry in survey.rejected) == foreign
    assert all("signed by the unknown key" in entry.reason for entry in survey.rejected)
    kept = plan_retention(survey.points, RetentionRule(count=1), datetime.now(UTC) + timedelta(days=400), {})
    assert set(kept.remove).isdisjoint(foreign), "what is not believed is nothing that retention may remove"
