"""Incremental base backups are read with everything that they build on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from recovery.backup.catalogue import Catalogue
from recovery.backup.reader import StoredPointReader, open_point, verify_objects
from recovery.backup.sealing import Opener
from recovery.domain.chains import bases_of
from recovery.domain.recovery_point import CheckResult, RecoveryPoint
from recovery.errors import Corrupt, Refused, Unreachable
from recovery.ports.object_store import ObjectStore

Progress = Callable[[int, int, str], None]


async def bases_in(catalogue: Catalogue, point: RecoveryPoint) -> list[RecoveryPoint]:
    """The points without which this one cannot be restored, the full one first; none for most points.

    Raises:
        Corrupt: one of them is nowhere.
        Unreachable: one was not found, and not all locations answered.
    """
    needed = bases_of(point)
    if not needed:
        return []
    survey = await catalogue.survey(point.manifest.group)
    known = {found.point_id: found for found in survey.points}
    missing = [point_id for point_id in needed if point_id not in known]
    if missing and survey.unreachable:
        silent = ", ".join(survey.unreachable)
        raise Unreachable(f"{point.point_id} needs {missing[0]}, which was not found; no answer from {silent}")
    if missing:
        raise Corrupt(f"{point.point_id} cannot be restored without {missing[0]}, which is missing or not believed")
    return [known[point_id] for point_id in needed]


async def open_chain(catalogue: Catalogue, point: RecoveryPoint, opener: Opener | None) -> StoredPointReader:
    """Opens a point with its bases, each from all locations that hold it. Raises as :func:`bases_in` does."""
    opened: Sequence[StoredPointReader] = [
        open_point(catalogue.stores_of(base), base.manifest, opener) for base in await bases_in(catalogue, point)
    ]
    return open_point(catalogue.stores_of(point), point.manifest, opener, bases=opened)


async def open_proven_bases(
    catalogue: Catalogue, bases: Sequence[RecoveryPoint], opener: Opener, progress: Progress
) -> tuple[list[StoredPointReader], list[CheckResult]]:
    """What an incremental point builds on, each opened where all of its objects are what its manifest says.

    They are looked at whatever their own verdicts say, which may be older than the damage: PostgreSQL's tools combine
    damaged files without a word.

    Args:
        bases: as :func:`bases_in` found them.

    Raises:
        Corrupt: one is damaged at a location.
        Unreachable: no location gives it.
    """
    opened: list[StoredPointReader] = []
    checks: list[CheckResult] = []
    for base in bases:
        stores, found = await _proven(catalogue, base, progress)
        opened.append(open_point(stores, base.manifest, opener))
        checks += found
    return opened, checks


def _noted(progress: Progress, note: str, done: int, expected: int) -> None:
    progress(done, expected, note)


async def _proven(
    catalogue: Catalogue, base: RecoveryPoint, progress: Progress
) -> tuple[list[ObjectStore], list[CheckResult]]:
    checks: list[CheckResult] = []
    intact: list[ObjectStore] = []
    silent: list[str] = []
    for store in catalogue.stores_of(base):
        note = f"checking {base.point_id} at {store.name}"
        try:
            found = await verify_objects(store, base.manifest, partial(_noted, progress, note))
        except (Unreachable, Refused) as error:
            silent.append(f"{store.name} did not answer: {error}")
            continue
        checks += [check.model_copy(update={"name": f"{store.name}: {base.point_id} {check.name}"}) for check in found]
        if bad := [check.detail for check in found if not check.passed]:
            raise Corrupt(f"{base.point_id}, which it builds on, at {store.name}: {'; '.join(bad)}")
        intact.append(store)
    if not intact:
        raise Unreachable(f"{base.point_id}, which it builds on: {'; '.join(silent) or 'no location holds it'}")
    return intact, checks
