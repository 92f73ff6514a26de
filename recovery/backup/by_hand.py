"""The page beside a recovery set that says how it is restored without this software: ``RESTORE-BY-HAND.md``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from recovery.domain.recovery_point import Manifest
from recovery.domain.recovery_set import RecoverySet
from recovery.domain.search import SearchSource

_TEMPLATE = Path(__file__).with_name("restore-by-hand.md.j2")
_WAL = Path(__file__).with_name("wal_by_hand.py")  # printed, for a machine that has nothing of ours


def by_hand(found: RecoverySet, manifests: Sequence[Manifest]) -> str:
    """Markdown with the exact commands, for the set's members in their order.

    Args:
        manifests: of the members, and of what incremental base backups among them build on. A member that is missing
            here is left out.

    Raises:
        KeyError: a manifest lacks an artefact that its kind has, or a base backup is missing.
    """
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)  # text
    environment.filters |= {
        "quoted": shlex.quote, "shell_json": _shell_json, "registration": _registration, "restoration": _restoration
    }  # fmt: skip
    known = {manifest.point_id: manifest for manifest in manifests}
    members = [known[member.point_id] for member in found.members if member.point_id in known]

    def chain(manifest: Manifest) -> list[Manifest]:
        return [*(known[point_id] for point_id in manifest.postgres.bases), manifest]

    recipients = list(dict.fromkeys(key for manifest in known.values() for key in manifest.recipients))
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        found=found, group=found.group, manifests=members, recipients=recipients, attempt=_artefact_file, chain=chain,
        wal_by_hand=_WAL.read_text(encoding="utf-8"),
    )  # fmt: skip


def _artefact_file(manifest: Manifest, name: str) -> str:
    """The objects' common beginning within the point's folder, quoted: ``attempt-1-0a1b2c3d/base.tar``."""
    artefact = manifest.artefact(name)
    within = artefact.objects[0].key.split("/", 3)[3]
    return shlex.quote(within.rsplit(".", 3 if artefact.sealed else 2)[0])


def _shell_json(value: Any) -> str:
    return shlex.quote(json.dumps(value))


def _registration(source: SearchSource) -> dict[str, Any]:
    """The body that registers the point's repository, for reading."""
    return {"type": source.repository_type, "settings": {**source.repository_settings, "readonly": "true"}}


def _restoration(source: SearchSource) -> dict[str, Any]:
    """The body that restores everything of the snapshot but what is the old cluster's own."""
    inside = {index for indices in source.data_streams.values() for index in indices}
    plain = [part.index for part in source.indices if part.index not in inside and not part.index.startswith(".")]
    return {
        "indices": ",".join([*plain, *source.data_streams]),
        "include_global_state": False,
        "include_aliases": True,
    }
