"""Which recovery set a recovery goes by, with real signatures: the newest that is proven, or the one that is named."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.recovery_points import RecoveryPointSteps
from activities.set_choice import SetChoice
from recovery.backup.sets import set_key, write_set
from recovery.domain.group import GroupSnapshot
from recovery.domain.jetstream import JetStreamSource
from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
from recovery.domain.recovery_point import BackupKind, DataStore, RecoveryPoint
from recovery.domain.recovery_set import ChosenSet
from recovery.ports.recovery_points import ListedSets, RecoveryPoints
from tests.fakes.measurements import FakeMeasurements
from tests.fakes.points import NOW, signer, verdict_on
from tests.unit.points.rig import add_point
from tests.unit.points.stream_rig import POINT, Streams

SET, OLDER = "20261122T101500Z-set-1a2b3c4d", "20261121T101500Z-set-1a2b3c4d"
NEWER = "20261122T111500Z-set-1a2b3c4d"
STREAMS_OLDER = "20261121T101500Z-streams-1a2b3c4d"


async def prove(streams: Streams, *points: str) -> None:
    catalogue = streams.points.catalogue(streams.rig.group)
    for point_id in points:
        found = await catalogue.point("shop", point_id)
        await catalogue.write_verdict(verdict_on(found.manifest, found.manifest_sha256), signer())


async def sign(streams: Streams, set_id: str, *points: str) -> None:
    await streams.points.write_set(streams.rig.group, points, set_id=set_id, run_id="run")


@pytest.fixture
async def together(streams: Streams) -> Streams:
    """One set of PostgreSQL and JetStream, of which only PostgreSQL's point is validated."""
    await streams.take()
    await sign(streams, SET, streams.rig.point_id, POINT)
    await prove(streams, streams.rig.point_id)
    return streams


def context(streams: Streams, plan: str = "FullRecovery", **request: Any) -> PlanContext:
    wanted = {"group": "shop", "kind": BackupKind.PHYSICAL, **request}
    return PlanContext(
        plan=plan, run_id="run-7", workflow_id="recovery/shop", step="choose-recovery-point",
        request=PlanRequest.model_validate(wanted), started_at=NOW,
        facts=Facts(group=streams.rig.group, source_region="region-a", target_region="region-b"),
    )  # fmt: skip


async def choose(streams: Streams, **request: Any) -> StepOutcome:
    steps = RecoveryPointSteps(streams.points, FakeMeasurements())
    outcome: StepOutcome = await ActivityEnvironment().run(steps.choose_validated, context(streams, **request))
    return outcome


def chosen(outcome: StepOutcome) -> ChosenSet:
    assert outcome.facts.chosen_set is not None
    return outcome.facts.chosen_set


async def test_a_set_counts_once_all_of_its_points_are_validated(together: Streams) -> None:
    before = await choose(together)
    assert (before.facts.point_id, chosen(before).set_id) == (together.rig.point_id, None)
    (warning,) = before.warnings
    assert warning.startswith("nats is not restored: there is no recovery set all of whose points are validated")
    assert "drctl restore --store nats" in warning

    await prove(together, POINT)
    found = await choose(together)
    assert (found.facts.point_id, found.warnings) == (together.rig.point_id, [])
    assert (chosen(found).set_id, chosen(found).named) == (SET, False)
    assert {part.store: part.point_id for part in chosen(found).parts} == {
        DataStore.POSTGRES: together.rig.point_id, DataStore.NATS: POINT,
    }  # fmt: skip
    assert found.summary.endswith(f"; beside it nats of {SET}")


async def test_the_database_goes_back_no_further_than_it_must(together: Streams) -> None:
    """A newer point of PostgreSQL alone was taken since: only whoever names the set gives it up."""
    newer = await add_point(together.rig.stores, together.points.keys.sealer, NOW + timedelta(hours=1))
    await prove(together, POINT, newer.point_id)
    found = await choose(together)
    assert (found.facts.point_id, chosen(found).set_id) == (newer.point_id, SET)
    assert [warning for warning in found.warnings if f"name the set with --set {SET}" in warning] == found.warnings
    named = await choose(together, set_id=SET)
    assert (named.facts.point_id, named.warnings, chosen(named).named) == (together.rig.point_id, [], True)


async def test_a_named_set_need_not_be_proven_and_that_is_said(together: Streams) -> None:
    found = await choose(together, set_id=SET)
    assert chosen(found).wants(DataStore.NATS)
    assert found.warnings == [f"{POINT} is of the set that was named and is never validated"]


async def test_a_set_that_nobody_signed_is_not_gone_by(together: Streams) -> None:
    await prove(together, POINT)
    for store in together.rig.stores:
        store.objects[set_key("shop", SET)] = store.objects[set_key("shop", SET)].replace(b"region-a", b"region-b")
    found = await choose(together)
    assert chosen(found).set_id is None
    assert [each for each in found.warnings if "not believed" in each and "signature does not fit" in each]
    with pytest.raises(ApplicationError, match=f"recovery set {SET} is not believed: .*signature does not fit"):
        await choose(together, set_id=SET)


@pytest.mark.parametrize("of", ["postgres", "nats"])
async def test_a_point_that_is_another_one_than_was_signed_is_not_restored(together: Streams, of: str) -> None:
    await prove(together, POINT)
    (signed,) = (await together.points.sets(together.rig.group)).sets
    members = [
        each.model_copy(update={"manifest_sha256": "0" * 64}) if each.store == of else each for each in signed.members
    ]
    forged = signed.model_copy(update={"set_id": "forged", "members": members})
    await write_set(together.rig.stores, forged, [], signer())
    assert chosen(await choose(together)).set_id == SET
    with pytest.raises(ApplicationError, match="is not the point that recovery set forged was signed with"):
        await choose(together, set_id="forged")


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"set_id": "set-9"}, f"group shop has no recovery set set-9: the newest are {SET}"),
        ({"set_id": SET, "point_id": "point-1"}, "a recovery set or a recovery point, and not both"),
        ({"set_id": SET, "plan": "Restore"}, "drctl recover --set"),
        ({"set_id": SET, "kind": BackupKind.LOGICAL}, "has no logical point of PostgreSQL.*it has physical"),
    ],
)
async def test_what_cannot_be_meant_is_refused(together: Streams, request_: dict[str, Any], said: str) -> None:
    with pytest.raises(ApplicationError, match=said):
        await choose(together, **request_)


async def test_a_store_without_a_point_in_the_set_or_without_a_place_is_named(together: Streams) -> None:
    await prove(together, POINT)
    home, away = together.rig.group.regions
    regions = [home.model_copy(update={"redis": "10.0.0.1:6379"}), away.model_copy(update={"nats": None})]
    together.rig.group = together.rig.group.model_copy(update={"regions": regions})
    found = await choose(together)
    assert found.warnings == [
        "nats is not restored: region-b has no nats",
        f"redis is not restored: recovery set {SET} has no point of it, and no other one is validated",
    ]
    assert chosen(found).further == []


async def test_a_store_that_the_newest_set_lacks_comes_back_from_its_own_older_point(together: Streams) -> None:
    """Its backup failed in the last night: the set of that night has PostgreSQL alone."""
    newer = await add_point(together.rig.stores, together.points.keys.sealer, NOW + timedelta(hours=1))
    await sign(together, NEWER, newer.point_id)
    await prove(together, newer.point_id)
    none = await choose(together)
    left = f"nats is not restored: recovery set {NEWER} has no point of it, and no other one is validated"
    assert (chosen(none).further, none.warnings) == ([], [left])

    await prove(together, POINT)
    found = await choose(together)
    assert (found.facts.point_id, chosen(found).set_id) == (newer.point_id, NEWER)
    assert [(part.store, part.point_id) for part in chosen(found).further] == [(DataStore.NATS, POINT)]
    (warning,) = found.warnings
    assert warning.startswith(f"nats comes back from {POINT}, as recovery set {NEWER} has no point of it: it stands at")
    assert found.summary.endswith(f"; beside it nats of {POINT}")

    named = await choose(together, set_id=NEWER)
    assert chosen(named).further == []
    assert named.warnings == [f"nats is not restored: recovery set {NEWER} has no point of it"]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, (POINT, "2 h after")),
        ({"target": {"latest": True}}, (POINT, "2 h after")),
        ({"target": {"time": NOW + timedelta(hours=1)}}, (STREAMS_OLDER, "2 d before")),
        ({"target": {"name": "before-the-release"}}, (STREAMS_OLDER, "2 d before")),
        ({"point_id": "the-database's"}, (STREAMS_OLDER, "2 d before")),
        ({"target": {"time": NOW + timedelta(hours=1)}, "set_id": SET}, None),
    ],
)
async def test_a_point_of_a_store_alone_is_early_enough_and_it_is_said_how_far_from_the_set_it_stands(
    streams: Streams, request_: dict[str, Any], expected: tuple[str, str] | None
) -> None:
    for point_id in (POINT, STREAMS_OLDER):
        await streams.points.take(streams.backup(point_id), lambda done, expected, what: None)
    await sign(streams, SET, streams.rig.point_id)
    await prove(streams, streams.rig.point_id, POINT, STREAMS_OLDER)
    read = {
        streams.rig.point_id: NOW,
        POINT: NOW + timedelta(hours=2, minutes=1),
        STREAMS_OLDER: NOW - timedelta(days=2, minutes=1),
    }
    known = Dated(streams, read)
    point = next(each for each in await known.points(streams.rig.group) if each.point_id == streams.rig.point_id)
    async with SetChoice(cast(RecoveryPoints, known), context(streams, **request_)) as sets:
        found, warnings = await sets.stores(point, await sets.named(), goes_on=True)
    assert found is not None and found.set_id == SET
    if expected is None:
        assert found.further == []
        return
    (part,), (warning,) = found.further, warnings
    assert (part.point_id, part.began_at) == (expected[0], read[expected[0]])
    assert warning.endswith(f", {expected[1]} what is in the set")


@dataclass
class Dated:
    """The points and sets that there are, as if each were read at a given moment, for a minute."""

    streams: Streams
    read: dict[str, datetime]

    async def points(self, group: GroupSnapshot) -> list[RecoveryPoint]:
        return [self._dated(each) for each in await self.streams.points.points(group)]

    async def sets(self, group: GroupSnapshot) -> ListedSets:
        found = await self.streams.points.sets(group)
        members = [each.model_copy(update=_read_at(self.read[each.point_id])) for each in found.sets[0].members]
        return ListedSets([found.sets[0].model_copy(update={"members": members})])

    def _dated(self, point: RecoveryPoint) -> RecoveryPoint:
        moment, source = self.read[point.point_id], point.manifest.source
        if isinstance(source, JetStreamSource):
            parts = [each.model_copy(update=_read_at(moment)) for each in source.streams]
            source = source.model_copy(update={"streams": parts})
        update = {"source": source, "started_at": moment, "finished_at": moment + timedelta(minutes=1)}
        return point.model_copy(update={"manifest": point.manifest.model_copy(update=update)})


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, SET),
        ({"target": {"latest": True}}, SET),
        ({"target": {"time": NOW - timedelta(hours=1)}}, OLDER),
        ({"target": {"time": NOW + timedelta(days=3650)}}, SET),
        ({"target": {"time": NOW - timedelta(days=2)}}, None),
        ({"target": {"name": "before-the-release"}}, OLDER),
        ({"point_id": "the-older"}, OLDER),
    ],
)
async def test_whoever_goes_back_to_a_moment_gets_nothing_that_came_after_it(
    together: Streams, request_: dict[str, Any], expected: str | None
) -> None:
    older = await _older_set(together)
    await prove(together, POINT, STREAMS_OLDER, older)
    about = context(together, **request_)
    point = await together.points.point(together.rig.group, older)
    read = point.manifest.model_copy(update=_read_at(NOW - timedelta(days=1)))  # whatever this machine's clock says
    point = point.model_copy(update={"manifest": read})
    async with SetChoice(together.points, about) as sets:
        found, _ = await sets.stores(point, None, goes_on=True)
    assert found is not None
    assert found.set_id == expected


async def _older_set(streams: Streams) -> str:
    """Of a day before; signed with the windows in which its points were read."""
    day_before = NOW - timedelta(days=1)
    older = await add_point(streams.rig.stores, streams.points.keys.sealer, day_before)
    await streams.points.take(streams.backup(STREAMS_OLDER), lambda done, expected, what: None)
    points = [await streams.points.point(streams.rig.group, each) for each in (older.point_id, STREAMS_OLDER)]
    found, _ = await streams.points.write_set(
        streams.rig.group, [point.point_id for point in points], set_id="unused", run_id="run"
    )
    await streams.points.catalogue(streams.rig.group).remove_set("shop", "unused")
    members = [each.model_copy(update=_read_at(day_before)) for each in found.members]
    dated = found.model_copy(update={"set_id": OLDER, "members": members})
    await write_set(streams.rig.stores, dated, [point.manifest for point in points], signer())
    # The newer one was read at NOW, whatever this machine's clock says.
    (newer,) = (each for each in (await streams.points.sets(streams.rig.group)).sets if each.set_id == SET)
    await streams.points.catalogue(streams.rig.group).remove_set("shop", SET)
    members = [each.model_copy(update=_read_at(NOW)) for each in newer.members]
    dated = newer.model_copy(update={"members": members})
    manifests = [(await streams.points.point(streams.rig.group, each.point_id)).manifest for each in newer.members]
    await write_set(streams.rig.stores, dated, manifests, signer())
    return older.point_id


def _read_at(moment: datetime) -> dict[str, datetime]:
    return {"began_at": moment, "finished_at": moment + timedelta(minutes=1)}
