"""Which recovery point is newer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from recovery.domain.recovery_point import RecoveryPoint


def newest_first(points: Iterable[RecoveryPoint]) -> list[RecoveryPoint]:
    """Points of one source (a PostgreSQL cluster, a set of streams) by the position of their content in its history,
    which no clock can falsify; sources by their end time. The source with the youngest point comes first.

    Two points stand in the same order whatever others are there. One that names no position is taken for older than all
    that do; of one source all name one, or none (Redis), which then stand by their end times.
    """
    sources: defaultdict[tuple[str, str], list[RecoveryPoint]] = defaultdict(list)
    for point in points:
        sources[point.manifest.store, point.manifest.source.identity].append(point)
    ordered = [sorted(members, key=_position, reverse=True) for members in sources.values()]
    ordered.sort(key=lambda members: max(point.manifest.finished_at for point in members), reverse=True)
    return [point for members in ordered for point in members]


def _position(point: RecoveryPoint) -> tuple[int, int, float, str]:
    return (*(point.manifest.source.position or (-1, 0)), point.manifest.finished_at.timestamp(), point.point_id)
