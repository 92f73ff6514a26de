"""Chains of base backups: a full one, and incremental ones that each hold what changed since the one before. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from recovery.domain.point_order import newest_first
from recovery.domain.recovery_point import BackupKind, Manifest, RecoveryPoint, VerdictState

POSTGRES_MANIFEST = "backup_manifest"
"""PostgreSQL's own manifest: of a backup that others build on it is readable without a private key."""
FIRST_MAJOR = 17
BAD = frozenset({VerdictState.CORRUPT, VerdictState.RESTORE_FAILED})


def bases_of(point: RecoveryPoint) -> list[str]:
    """Ids of the points without which this one cannot be restored, the full one first."""
    return list(getattr(point.manifest.source, "bases", []))


def no_incrementals(address: str, version: str) -> str:
    return f"PostgreSQL {version} at {address} takes no incremental base backups: version {FIRST_MAJOR} and later do"


def next_base(
    points: Iterable[RecoveryPoint],
    *,
    system_identifier: str,
    timeline: int,
    incrementals: int,
    locations: Collection[str],
    canaries: Collection[str],
) -> tuple[RecoveryPoint | None, str]:
    """The newest base backup of this server, if the next one may be incremental to it; else why that is a full one.

    A chain is of one cluster and timeline, has at most ``incrementals`` after its full one, is believed and whole at
    every one of ``locations``, and none of it was found bad.

    Args:
        canaries: those in the server. Two recoveries of one cluster may take the same timeline number: only a server
            that has a backup's canary went on from what the backup holds. PostgreSQL looks at numbers alone.
    """
    known = {point.point_id: point for point in points}
    physical = [
        point
        for point in newest_first(known.values())
        if point.manifest.kind is BackupKind.PHYSICAL and point.manifest.source.identity == system_identifier
    ]
    if not physical:
        return None, "there is none of this cluster yet"
    followed = [point for point in physical if point.manifest.postgres.canary in canaries]
    if not followed:
        why = "it may have gone on from other data"
        return None, f"the server has no canary of {physical[0].point_id}, nor of an earlier one: {why}"
    newest = followed[0]
    if missing := missing_bases(newest, known):
        return None, f"{newest.point_id} needs {missing[0]}, which is missing"
    chain = [*(known[point_id] for point_id in bases_of(newest)), newest]
    reason = _unfit(chain, timeline, incrementals, locations)
    return (None, reason) if reason else (newest, "")


def _unfit(chain: Sequence[RecoveryPoint], timeline: int, incrementals: int, locations: Collection[str]) -> str:
    newest = chain[-1]
    if newest.manifest.postgres.timeline != timeline:
        return f"{newest.point_id} is of timeline {newest.manifest.postgres.timeline}, and the server is on {timeline}"
    if len(chain) > incrementals:
        return f"{newest.point_id} ends a chain of {incrementals} incremental ones"
    if all(artefact.sealed for artefact in newest.manifest.artefacts if artefact.name == POSTGRES_MANIFEST):
        return f"PostgreSQL's manifest of {newest.point_id} is encrypted"
    for point in chain:
        if point.verdict is not None and point.verdict.state in BAD:
            return f"{point.point_id} is {point.verdict.state}"
        if absent := sorted(set(locations) - set(point.locations)):
            return f"{point.point_id} is not at {', '.join(absent)}"
    return ""


def is_recoverable(point: RecoveryPoint, known: Collection[str]) -> bool:
    """Whether it is VALID, and all that it builds on is among ``known``, the ids of what can be had now."""
    return point.is_valid and not missing_bases(point, known)


def standing(point: RecoveryPoint, known: Collection[str]) -> str:
    """Its newest verdict, and what it needs and cannot be had."""
    said = point.verdict.state.value if point.verdict else "not validated"
    missing = missing_bases(point, known)
    return f"{said}, without {', '.join(missing)}" if missing else said


def missing_bases(point: RecoveryPoint, known: Collection[str]) -> list[str]:
    """Ids of what it builds on and is not among ``known``: without them it cannot be restored, whatever its verdict."""
    return [point_id for point_id in bases_of(point) if point_id not in known]


def judged_as_chains(points: Iterable[RecoveryPoint]) -> list[RecoveryPoint]:
    """A point that was VALID counts so no more once something that it builds on is found bad."""
    listed = list(points)
    known = {point.point_id: point for point in listed}
    return [_judged_with(point, [known[base] for base in bases_of(point) if base in known]) for point in listed]


def _judged_with(point: RecoveryPoint, bases: Sequence[RecoveryPoint]) -> RecoveryPoint:
    own = point.verdict
    if own is None or own.state is not VerdictState.VALID:
        return point
    for base in bases:
        found = base.verdict
        if found is not None and found.state in BAD and found.validated_at > own.validated_at:
            reason = f"{base.point_id}, which it builds on, is {found.state}: {found.reason}"
            update = {"state": found.state, "reason": reason, "validated_at": found.validated_at}
            return point.model_copy(update={"verdict": own.model_copy(update=update)})
    return point


def as_trees(points: Iterable[RecoveryPoint]) -> list[tuple[int, RecoveryPoint]]:
    """Points in the order given, and below each full base backup the incremental ones of its chain, in theirs.

    A tree stands where the first of its points does. Each point comes with its depth: how many it needs. One whose full
    backup is missing stands by itself.
    """
    ordered = list(points)
    known = {point.point_id for point in ordered}
    trees: dict[str, list[RecoveryPoint]] = {}
    for point in ordered:
        needed = bases_of(point)
        root = needed[0] if needed and needed[0] in known else point.point_id
        trees.setdefault(root, []).append(point)
    for members in trees.values():
        members.sort(key=lambda point: len(bases_of(point)))
    return [(len(bases_of(point)), point) for members in trees.values() for point in members]


def bytes_to_restore(manifests: Sequence[Manifest]) -> int:
    """Room that a restore takes: of a chain (the full one first) all of its members, and what they are combined to."""
    read = sum(manifest.plain_bytes for manifest in manifests)
    if len(manifests) == 1:
        return read
    return read + max(manifests[0].plain_bytes, manifests[-1].postgres.cluster_bytes)
