"""What a look at the locations found: points, what is not believed, and what unfinished attempts left."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from recovery.domain.recovery_point import RecoveryPoint


@dataclass(frozen=True)
class Rejected:
    """What is there and not believed: a manifest, a verdict, or (among ``foreign`` ones) a folder."""

    point_id: str
    location: str
    key: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """All that could be learned. ``unreachable``: locations that did not answer, with the reason.

    ``unfinished``: by point id, the locations that hold something of it and no manifest: it is being written or filled
    there, or an attempt ended early. ``foreign``: folders among those of the points whose names no point has.
    ``lacking``: by point id, what it builds on and cannot be had now.
    """

    points: list[RecoveryPoint] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)
    unfinished: dict[str, list[str]] = field(default_factory=dict)
    foreign: list[Rejected] = field(default_factory=list)
    lacking: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Orphan:
    """A folder of an unfinished attempt at one location: number and bytes of its objects, time of the youngest."""

    point_id: str
    location: str
    folder: str
    objects: int
    size: int
    youngest: datetime
