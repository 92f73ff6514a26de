"""What is found at the locations, as programs get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recovery.domain.chains import bases_of
from recovery.domain.copies import Copy
from recovery.domain.recovery_point import RecoveryPoint
from recovery.domain.recovery_set import SetState

if TYPE_CHECKING:
    from recovery.backup.copies import Copies
    from recovery.backup.survey import Survey
    from recovery.ports.recovery_points import ListedSets


def survey_document(group: str, survey: Survey, copies: Copies) -> dict[str, Any]:
    return {
        "group": group,
        "points": [
            point_document(point, copies.get(point.point_id, {}), survey.lacking.get(point.point_id, []))
            for point in survey.points
        ],
        "unfinished": survey.unfinished,
        "rejected": [
            {"point_id": e.point_id, "location": e.location, "key": e.key, "reason": e.reason} for e in survey.rejected
        ],
        "unreachable": survey.unreachable,
    }


def point_document(point: RecoveryPoint, copies: Mapping[str, Copy], lacking: Sequence[str] = ()) -> dict[str, Any]:
    """The point without the list of its objects, which ``backup show`` gives.

    Args:
        copies: by location.
        lacking: ids of what it builds on and cannot be had now: it cannot be restored then, whatever its verdict.
    """
    manifest = point.manifest
    return {
        "point_id": point.point_id,
        "kind": manifest.kind.value,
        "store": manifest.store,
        "region": manifest.source_region,
        "started_at": manifest.started_at.isoformat(),
        "finished_at": manifest.finished_at.isoformat(),
        "bytes": manifest.plain_bytes,
        "stored_bytes": manifest.stored_bytes,
        "builds_on": bases_of(point),
        "locations": point.locations,
        "copies": copies_document(copies),
        "lacking": list(lacking),
        "recoverable": point.is_valid and not lacking,
        "valid": point.is_valid,
        "verdict": point.verdict.model_dump(mode="json", exclude={"checks"}) if point.verdict else None,
    }


def copies_document(copies: Mapping[str, Copy]) -> dict[str, Any]:
    return {location: copy.model_dump(mode="json") for location, copy in copies.items()}


def sets_document(group: str, listed: ListedSets, states: Mapping[str, SetState]) -> dict[str, Any]:
    return {
        "group": group,
        "sets": [
            {
                **found.model_dump(mode="json", exclude={"group", "format"}),
                "began_at": found.window[0].isoformat(),
                "finished_at": found.window[1].isoformat(),
                "state": states[found.set_id].value,
            }
            for found in listed.sets
        ],
        "rejected": listed.rejected,
        "unreachable": listed.unreachable,
    }
