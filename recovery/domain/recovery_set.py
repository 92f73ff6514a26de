"""Recovery sets: the points of a group's stores that one backup took at the same time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field

from recovery.domain.base import Recorded
from recovery.domain.recovery_point import BackupKind, RecoveryPoint, VerdictState


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
        members=[_member(point) for point in members],
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


def _member(point: RecoveryPoint) -> SetMember:
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
