"""Names of everything that a recovery point stores, relative to the location's root.

<group>/<store>/<point id>/manifest.json
<group>/<store>/<point id>/attempt-<n>-<run nonce>/<artefact>.<000000>.zst.age  (.zst where it is not encrypted)
<group>/<store>/<point id>/verdicts/<validated at>-<run>.json

The store (``postgres``, ``nats``, ``redis``, ``search``) is that of the kind which the point's id names.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from recovery.domain.recovery_point import Manifest, Verdict, store_of
from recovery.errors import BadInput, Corrupt

MANIFEST = "manifest.json"
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class PointIdentity:
    """Who writes which point: minted before the first byte, so that every attempt and every undo knows the names.

    ``started_at`` is when the backup began, the same for all of its attempts.
    """

    point_id: str
    group: str
    attempt: int
    run_id: str
    region: str
    started_at: datetime
    epoch: int | None = None

    @property
    def folder(self) -> str:
        """Name of this attempt's folder within the point."""
        return attempt_folder(self.attempt, self.run_id)


def attempt_folder(attempt: int, run_id: str) -> str:
    return f"attempt-{attempt}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def is_safe(text: str) -> bool:
    """Whether it can be one segment of a key; what has another name is none of ours."""
    return _SAFE.fullmatch(text) is not None


def safe_name(text: str, what: str) -> str:
    """The text, when it can be one segment of a key and one file name.

    Raises:
        BadInput: it is empty, begins with a dot, or has a slash or another special character.
    """
    if not is_safe(text):
        raise BadInput(f"{what} {text!r} cannot be used in a key: expected letters, digits, dot, dash and underscore")
    return text


def points_prefix(group: str, store: str) -> str:
    return f"{safe_name(group, 'group')}/{store}/"


def point_prefix(group: str, point_id: str) -> str:
    return f"{points_prefix(group, store_of(point_id))}{safe_name(point_id, 'recovery point')}/"


def manifest_key(group: str, point_id: str) -> str:
    return point_prefix(group, point_id) + MANIFEST


def verdicts_prefix(group: str, point_id: str) -> str:
    return point_prefix(group, point_id) + "verdicts/"


def verdict_key(verdict: Verdict) -> str:
    """Sorts by time; two validations of one run and second differ in their digest."""
    at = f"{verdict.validated_at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}"
    nonce = hashlib.sha256(f"{verdict.run_id}\n{verdict.location}".encode()).hexdigest()[:8]
    return f"{verdicts_prefix(verdict.group, verdict.point_id)}{at}-{nonce}.json"


def object_key(identity: PointIdentity, artefact: str, index: int, *, sealed: bool = True) -> str:
    prefix = point_prefix(identity.group, identity.point_id)
    return f"{prefix}{identity.folder}/{quote(artefact, safe='')}.{index:06d}.zst{'.age' if sealed else ''}"


def attempt_prefixes(manifest: Manifest) -> set[str]:
    """The folders that hold the objects of a point (one, for points that this version wrote)."""
    return {entry.key.rpartition("/")[0] + "/" for artefact in manifest.artefacts for entry in artefact.objects}


def check_manifest_place(manifest: Manifest, group: str, point_id: str) -> None:
    """A signed manifest speaks only for the place that it names, and only of objects in that place.

    Raises:
        Corrupt: it was copied here from another point or names foreign objects.
    """
    if (manifest.group, manifest.point_id) != (group, point_id):
        raise Corrupt(f"it belongs to {manifest.group}/{manifest.point_id}")
    prefix = point_prefix(group, point_id)
    for artefact in manifest.artefacts:
        for entry in artefact.objects:
            if not entry.key.startswith(prefix) or "/../" in entry.key:
                raise Corrupt(f"it names an object outside its point: {entry.key}")
