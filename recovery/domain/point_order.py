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
    """Points of one cluster (system identifier) by timeline and LSN of their content, which no clock can falsify;
    clusters by their end time. The cluster with the youngest point comes first.

    Two points stand in the same order whatever others are there. One that names no LSN is taken for older than all that
    do; every point that this software writes names one.
    """
    clusters: defaultdict[str, list[RecoveryPoint]] = defaultdict(list)
    for point in points:
        clusters[point.manifest.source.system_identifier].append(point)
    ordered = [sorted(members, key=_log_position, reverse=True) for members in clusters.values()]
    ordered.sort(key=lambda members: max(point.manifest.finished_at for point in members), reverse=True)
    return [point for members in ordered for point in members]


def _log_position(point: RecoveryPoint) -> tuple[int, int, float, str]:
    """A base backup is recovered to its stop, a dump is of the moment of its snapshot."""
    source = point.manifest.source
    lsn = source.stop_lsn or source.start_lsn
    end = point.manifest.finished_at.timestamp()
    return (source.timeline, lsn_number(lsn), end, point.point_id) if lsn else (-1, 0, end, point.point_id)
