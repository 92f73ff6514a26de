"""What a recovery of several stores brought back, of each at which cost, and how far apart they stand."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import Field

from recovery.domain.base import Recorded
from recovery.domain.plan import Facts, RestoredServer
from recovery.domain.recovery_point import DataStore
from recovery.domain.recovery_set import SetPart


class RecoveredStore(Recorded):
    """One store of the group. Its content is as it was at some moment between ``from_at`` and ``until_at``.

    ``rpo``: from the last moment whose writes it surely holds to the last write that the lost side can have
    acknowledged (see ``Facts.served_until``). ``left``: why it was not restored; it is as the target region had
    it, but where a person skipped its restore: what that had written is there.
    """

    store: str
    point_id: str | None = None
    restored: bool = False
    from_at: datetime | None = None
    until_at: datetime | None = None
    rpo: timedelta | None = None
    left: str = ""


class RecoveredSet(Recorded):
    """Every store of the group, by its name. ``skew``: so far apart, at the most, are the moments at which two of the
    restored ones stand. ``set_id`` None: there was no recovery set to go by."""

    set_id: str | None = None
    stores: list[RecoveredStore] = Field(default_factory=list)
    skew: timedelta | None = None


def recovered_set(facts: Facts, started_at: datetime, database_rpo: timedelta | None) -> RecoveredSet | None:
    """None where the run goes by no set. A store counts as restored when its data are in the target.

    Args:
        started_at: of the run; the outage's beginning where nobody knows better.
        database_rpo: as achieved, which the stores' figures stand beside.
    """
    if facts.chosen_set is None:
        return None
    outage = facts.outage_began_at or started_at
    lost = facts.served_until(outage)
    stores = [_recovered(facts, part, lost, database_rpo) for part in facts.chosen_set.parts]
    spans = [
        (each.from_at, each.until_at)
        for each in stores
        if each.restored and each.from_at is not None and each.until_at is not None
    ]
    skew = max(until for _, until in spans) - min(since for since, _ in spans) if len(spans) > 1 else None
    return RecoveredSet(set_id=facts.chosen_set.set_id, stores=stores, skew=skew)


def _recovered(facts: Facts, part: SetPart, lost: datetime, database_rpo: timedelta | None) -> RecoveredStore:
    is_database = part.store is DataStore.POSTGRES
    server = facts.restored if is_database else facts.restored_beside.get(part.store)
    since, until = _stands_at(facts, part)
    is_back = facts.service_restored_at is not None
    rpo: timedelta | None = None
    if is_database:
        rpo = database_rpo
    elif is_back and server is not None and server.last_commit_at is not None:
        rpo = max(lost - server.last_commit_at, timedelta())
    left = part.left
    if is_back and server is None and not left:
        left = f"the step that restores it did not complete: see there. Its point is {part.point_id}"
    return RecoveredStore(
        store=part.store.value,
        point_id=part.point_id,
        restored=server is not None and not left,
        from_at=since,
        until_at=until,
        rpo=rpo,
        left=left,
    )


def _stands_at(facts: Facts, part: SetPart) -> tuple[datetime | None, datetime | None]:
    """PostgreSQL that went on with archived WAL stands where that ended, and not where its point did."""
    if part.store is not DataStore.POSTGRES or facts.recovery is None:
        return part.began_at, part.finished_at
    target, restored = facts.recovery.target.time, facts.restored
    moment = target or (_last_commit(restored) if restored is not None else None)
    return moment, moment


def _last_commit(restored: RestoredServer) -> datetime | None:
    reached = restored.reached.last_commit_at if restored.reached is not None else None
    return reached or restored.last_commit_at
