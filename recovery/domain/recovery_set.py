"""Recovery sets: the points of a group's stores that one backup took at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field

from recovery.domain.base import Model, Recorded
from recovery.domain.recovery_point import BackupKind, DataStore, RecoveryPoint, VerdictState


class SetMember(Recorded):
    """One recovery point of a set. Between ``began_at`` and ``finished_at`` its content was read."""

    point_id: str
    store: str
    kind: BackupKind
    manifest_sha256: str
    began_at: datetime
    finished_at: datetime


class RecoverySet(Recorded):
    """A manifest of manifests. Signed; written once all members exist, never changed afterwards.

    Members are each consistent in themselves, and not with one another: all of them were read within ``window``.
    """

    format: int = 1
    set_id: str
    group: str
    source_region: str
    run_id: str
    epoch: int | None = None
    members: list[SetMember] = Field(min_length=1)
    missing: list[str] = Field(default_factory=list)  # kinds that this backup was to take and did not get

    @property
    def window(self) -> tuple[datetime, datetime]:
        return min(each.began_at for each in self.members), max(each.finished_at for each in self.members)

    @property
    def stores(self) -> list[str]:
        return list(dict.fromkeys(each.store for each in self.members))

    @property
    def width(self) -> timedelta:
        began, finished = self.window
        return finished - began


class SetPart(Model):
    """One store in a recovery: the point that it comes back from, read between ``began_at`` and ``finished_at``.

    ``left``: why it is not restored. Without ``point_id`` there is nothing to restore it from.
    """

    store: DataStore
    point_id: str | None = None
    began_at: datetime | None = None
    finished_at: datetime | None = None
    left: str = ""

    @property
    def is_wanted(self) -> bool:
        return self.point_id is not None and not self.left


class ChosenSet(Model):
    """What a recovery of a group of several stores brings back: every store of the group by its name.

    ``set_id`` is None where no set could be gone by. ``named``: the operator asked for this one, whole.
    """

    set_id: str | None = None
    named: bool = False
    parts: list[SetPart]

    def wants(self, store: DataStore) -> bool:
        return any(part.store is store and part.is_wanted for part in self.parts)

    @property
    def further(self) -> list[SetPart]:
        """Of stores that are restored beside PostgreSQL."""
        return [part for part in self.parts if part.is_wanted and part.store is not DataStore.POSTGRES]

    def without(self, reasons: Mapping[DataStore, str]) -> ChosenSet:
        """The same, with stores that are left as they are, each with its reason."""
        parts = [
            part.model_copy(update={"left": reasons[part.store]}) if part.store in reasons else part
            for part in self.parts
        ]
        return self.model_copy(update={"parts": parts})


class SetState(StrEnum):
    """What can be said of a set today."""

    VALID = "VALID"  # every member is there and was proven
    UNPROVEN = "not all validated"
    BROKEN = "a member is gone or bad"


_BAD = (VerdictState.CORRUPT, VerdictState.RESTORE_FAILED)
"""FAILED is no such verdict: the validation could not judge."""


def set_of(points: Iterable[RecoveryPoint], *, set_id: str, run_id: str, missing: Iterable[str] = ()) -> RecoverySet:
    """Raises ValueError without points."""
    members = list(points)
    if not members:
        raise ValueError("a recovery set needs a recovery point")
    first = members[0].manifest
    return RecoverySet(
        set_id=set_id,
        group=first.group,
        source_region=first.source_region,
        run_id=run_id,
        epoch=first.epoch,
        members=[member_of(point) for point in members],
        missing=list(missing),
    )


def state_of(found: RecoverySet, points: Iterable[RecoveryPoint]) -> SetState:
    """``points``: all that the group has now."""
    known = {point.point_id: point for point in points}
    states = []
    for member in found.members:
        point = known.get(member.point_id)
        if point is None or point.manifest_sha256 != member.manifest_sha256:
            return SetState.BROKEN
        states.append(point)
    if any(point.verdict is not None and point.verdict.state in _BAD for point in states):
        return SetState.BROKEN
    return SetState.VALID if all(point.is_valid for point in states) else SetState.UNPROVEN


def member_of(point: RecoveryPoint) -> SetMember:
    manifest = point.manifest
    began, finished = manifest.source.window or (manifest.started_at, manifest.finished_at)
    return SetMember(
        point_id=point.point_id,
        store=manifest.store,
        kind=manifest.kind,
        manifest_sha256=point.manifest_sha256,
        began_at=began,
        finished_at=finished,
    )
