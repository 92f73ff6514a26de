"""From what was found at the locations to what can be recovered, by which command, and what somebody must look at."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from recovery.backup.sets import page_key
from recovery.domain.chains import BAD, bases_of
from recovery.domain.copies import Replication
from recovery.domain.recovery_point import DataStore, RecoveryPoint
from recovery.domain.recovery_set import SetState, state_of

if TYPE_CHECKING:
    from recovery.adapters.inventory import GroupInventory
    from recovery.domain.recovery_target import Window


@dataclass(frozen=True)
class WayBack:
    """One command that brings data back. ``until``: as of which moment; ``since``: any moment from there on, with
    ``--to-time``. ``proven``: what it begins with was restored before, and found VALID."""

    command: str
    of: str  # a set, a moment or a point
    subject: str  # which set or recovery point, or the point that it begins with
    until: datetime | None
    proven: bool
    since: datetime | None = None


class Trouble(StrEnum):
    """Why somebody has to look."""

    DAMAGED = "damaged"
    DISBELIEVED = "not believed"
    GAP = "gap"
    NOTHING = "not recoverable"
    UNREADABLE = "cannot be read"
    ALONE = "one location only"
    UNREPLICATED = "not replicated"
    UNFINISHED = "unfinished"
    FOREIGN = "foreign"

    @property
    def fails(self) -> bool:
        """Whether it is a reason for exit code 1."""
        return self in (Trouble.DAMAGED, Trouble.DISBELIEVED, Trouble.GAP, Trouble.NOTHING)


@dataclass(frozen=True)
class Remark:
    trouble: Trouble
    text: str


@dataclass(frozen=True)
class Prospects:
    """What there is of one group. ``by_hand``: by set, the key of the page that needs none of this software."""

    ways: list[WayBack] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    states: dict[str, SetState] = field(default_factory=dict)
    by_hand: dict[str, str] = field(default_factory=dict)


def prospects(found: GroupInventory, expected: Sequence[str]) -> Prospects:
    """``expected``: the locations at which the group's points are to be."""
    points = found.survey.points
    states = {each.set_id: state_of(each, points) for each in found.sets.sets}
    ways = [*_moments(found), *_sets(found, states), *_points(found.group, points)]
    by_hand = {each.set_id: page_key(found.group, each.set_id) for each in found.sets.sets}
    return Prospects(ways, _remarks(found, expected, states, ways), states, by_hand)


def _moments(found: GroupInventory) -> list[WayBack]:
    """Of each server's timelines the way that gets farthest, from a proven point where there is one."""
    usable = {point.point_id for point in _usable(found.survey.points)}
    windows = [window for window in found.wal.windows if window.point_id in usable]
    lineages: dict[tuple[str, str], list[Window]] = {}
    for window in windows:
        lineages.setdefault((window.system_identifier, window.branch.folder), []).append(window)
    # What a recovery takes that is told of no point: the server whose newest proven one is the youngest.
    newest = next((each.system_identifier for each in windows if each.validated), "")
    several = len([identifier for identifier, _ in lineages if identifier == newest]) > 1
    ways = []
    for (identifier, _), along in lineages.items():
        proven = [each for each in along if each.validated]
        end = max(proven or along, key=lambda each: (each.span.end, each.span.start))
        told = identifier == newest and proven
        options = ["--latest"]
        if several or not told:
            options += ["--timeline", str(end.timeline)]
        if not told:
            options += ["--point", end.point_id]
        ways.append(
            WayBack(
                command=_command("recover", found.group, *options),
                of="moment",
                subject=end.point_id,
                until=end.last_time,
                proven=bool(proven),
                since=min(each.first_time for each in proven) if told else end.first_time,
            )
        )
    return ways


def _sets(found: GroupInventory, states: Mapping[str, SetState]) -> list[WayBack]:
    """Those with a point of the group's database: beside it the other stores come back."""
    return [
        WayBack(
            command=_command("recover", found.group, "--set", each.set_id),
            of="set",
            subject=each.set_id,
            until=each.window[1],
            proven=states[each.set_id] is SetState.VALID,
        )
        for each in found.sets.sets
        if states[each.set_id] is not SetState.BROKEN and DataStore.POSTGRES in each.stores
    ]


def _usable(points: Sequence[RecoveryPoint]) -> list[RecoveryPoint]:
    """Those that are not known to be bad, with all that they build on."""
    known = {point.point_id for point in points}
    return [point for point in points if not _is_bad(point) and known.issuperset(bases_of(point))]


def _points(group: str, points: Sequence[RecoveryPoint]) -> list[WayBack]:
    return [
        WayBack(
            command=_command(_verb(point), group, "--point", point.point_id),
            of="point",
            subject=point.point_id,
            until=point.manifest.finished_at,
            proven=point.is_valid,
        )
        for point in _usable(points)
    ]


def _verb(point: RecoveryPoint) -> str:
    """A group's database comes back in its place, the other stores' points into servers that are there."""
    return "recover" if point.manifest.store == DataStore.POSTGRES else "restore"


def _command(verb: str, group: str, *options: str) -> str:
    return shlex.join(["drctl", verb, "--group", group, *options])


def _remarks(
    found: GroupInventory, expected: Sequence[str], states: Mapping[str, SetState], ways: Sequence[WayBack]
) -> list[Remark]:
    survey = found.survey
    remarks = [*_damage(survey.points), *_disbelieved(found), *_wal(found)]
    remarks += [
        Remark(Trouble.DAMAGED, f"recovery set {set_id}: {state.value}")
        for set_id, state in states.items()
        if state is SetState.BROKEN
    ]
    silent = found.unreachable
    remarks += [Remark(Trouble.UNREADABLE, f"{location}: {why}") for location, why in silent.items()]
    if not any(way.proven for way in ways):
        what = "nothing that was proven by a restore" if ways else "nothing"
        remarks.append(Remark(Trouble.NOTHING, f"there is {what} to recover {found.group} from"))
    remarks += _copies(found, expected)
    whole = {point.point_id for point in survey.points}
    for point_id, locations in survey.unfinished.items():
        why = (
            "it is being filled there, or was not filled to its end"
            if point_id in whole
            else "it is being written, or an attempt ended early"
        )
        remarks.append(Remark(Trouble.UNFINISHED, f"{point_id} has no manifest at {', '.join(locations)}: {why}"))
    remarks += [Remark(Trouble.FOREIGN, f"{each.key} at {each.location}: {each.reason}") for each in survey.foreign]
    for location, names in found.others.items():
        keys = ", ".join(f"{found.group}/{name}/" for name in names)
        remarks.append(Remark(Trouble.FOREIGN, f"{keys} at {location}: no store's that this version knows"))
    return remarks


def _copies(found: GroupInventory, expected: Sequence[str]) -> list[Remark]:
    remarks = []
    for point in found.survey.points:
        whole = [location for location in point.locations if location not in point.damaged_at]
        if len(whole) == 1 and len(expected) > 1:
            remarks.append(Remark(Trouble.ALONE, f"{point.point_id} is whole at {whole[0]} and nowhere else"))
        remarks += [
            Remark(Trouble.UNREPLICATED, f"{point.point_id} at {location}: {copy.worst.words}")
            for location, copy in found.copies.get(point.point_id, {}).items()
            if copy.worst in (Replication.FAILED, Replication.NONE)
        ]
    return remarks


def _damage(points: Sequence[RecoveryPoint]) -> list[Remark]:
    known = {point.point_id for point in points}
    remarks = []
    for point in points:
        missing = [base for base in bases_of(point) if base not in known]
        if missing:
            remarks.append(Remark(Trouble.DAMAGED, f"{point.point_id} needs {missing[0]}, which is not there"))
        elif point.verdict is not None and _is_bad(point):
            remarks.append(
                Remark(Trouble.DAMAGED, f"{point.point_id} is {point.verdict.state}: {point.verdict.reason}")
            )
    return remarks


def _disbelieved(found: GroupInventory) -> list[Remark]:
    documents = [f"{each.key} at {each.location}: {each.reason}" for each in found.survey.rejected]
    documents += [f"{key} at {reason}" for key, reason in found.sets.rejected.items()]
    return [Remark(Trouble.DISBELIEVED, text) for text in documents]


def _wal(found: GroupInventory) -> list[Remark]:
    remarks = [Remark(Trouble.DISBELIEVED, text) for text in found.wal.disbelieved]
    for location in found.wal.locations:
        remarks += [Remark(Trouble.UNREADABLE, f"{location.location}: {error}") for error in location.errors]
        remarks += [
            Remark(
                Trouble.GAP,
                f"WAL of timeline {timeline.ancestry} from {start} to {end} is not at {location.location}",
            )
            for server in location.servers
            for timeline in server.timelines
            for start, end in timeline.gaps
        ]
    return remarks


def _is_bad(point: RecoveryPoint) -> bool:
    return point.verdict is not None and point.verdict.state in BAD
