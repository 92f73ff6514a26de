"""Which recovery point is newer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from recovery.domain.recovery_point import RecoveryPoint


def lsn_number(text: str) -> int:
    """``16/B374D848`` as a number that compares. Raises ValueError when it is no LSN."""
    high, slash, low = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r} is no LSN: expected two hexadecimal numbers with a slash, e.g. 16/B374D848")
    return (int(high, 16) << 32) | int(low, 16)


def newest_first(points: Iterable[RecoveryPoint]) -> list[RecoveryPoint]:
    """Points of one cluster (system identifier) by timeline and stop LSN, which no clock can falsify; clusters, and
    points that name no LSN, by their end time. The cluster with the youngest point comes first."""
    clusters: defaultdict[str, list[RecoveryPoint]] = defaultdict(list)
    for point in points:
        clusters[point.manifest.source.system_identifier].append(point)
    ordered = [_order_cluster(members) for members in clusters.values()]
    ordered.sort(key=lambda members: max(point.manifest.finished_at for point in members), reverse=True)
    return [point for members in ordered for point in members]


def _order_cluster(points: list[RecoveryPoint]) -> list[RecoveryPoint]:
    if any(point.manifest.source.stop_lsn is None for point in points):
        return sorted(points, key=lambda point: (point.manifest.finished_at, point.point_id), reverse=True)
    return sorted(points, key=_log_position, reverse=True)


def _log_position(point: RecoveryPoint) -> tuple[int, int, float, str]:
    source = point.manifest.source
    return source.timeline, lsn_number(source.stop_lsn or "0/0"), point.manifest.finished_at.timestamp(), point.point_id
