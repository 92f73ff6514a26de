"""What a store keeps of its recovery points outside the locations goes when they go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime

import structlog

from recovery.backup.catalogue import REQUEST_SECONDS
from recovery.backup.leftovers import existing_manifest
from recovery.backup.survey import Survey
from recovery.domain.group import GroupSnapshot
from recovery.domain.recovery_point import RecoveryPoint
from recovery.errors import NotOurs, Unreachable
from recovery.ports.object_store import ObjectStore
from recovery.ports.recovery_points import KeptElsewhere

log = structlog.get_logger("recovery.points")


async def discard_unfinished(
    kept: KeptElsewhere, stores: Sequence[ObjectStore], group: GroupSnapshot, point_id: str, region: str | None
) -> int:
    """1 where there was something, else 0. Only where every location says that it has no manifest: a silent one may
    hold it.

    Raises:
        Unreachable: a location, or where it is kept, does not answer.
    """
    for store in stores:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                manifest = await existing_manifest(store, group.name, point_id)
        except TimeoutError as error:
            raise Unreachable(f"{store.name} did not answer within {REQUEST_SECONDS:.0f} s") from error
        if manifest is not None:
            return 0
    return int(await kept.discard(group, region or group.home_region, point_id, None))


async def discard_expired(kept: KeptElsewhere, group: GroupSnapshot, point: RecoveryPoint) -> None:
    """Before the point itself goes: while it is there, a later retention finds it again."""
    try:
        await kept.discard(group, point.manifest.source_region, point.point_id, point.manifest)
    except NotOurs as error:
        log.warning("what was kept elsewhere is another's by now", point=point.point_id, reason=str(error))


async def discard_orphans(
    kept: Iterable[KeptElsewhere], group: GroupSnapshot, survey: Survey, before: datetime
) -> tuple[int, list[str]]:
    """What backups that ended early left, made before then: how much was deleted, and what stays for which reason.

    Args:
        survey: every location answered it.
    """
    named = {point.point_id for point in survey.points} | {entry.point_id for entry in survey.rejected}
    removed, left = 0, []
    for each in kept:
        more, words = await each.discard_orphans(group, survey.points, named, before)
        removed += more
        left += words
    return removed, left
