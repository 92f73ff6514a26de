"""Validation of a search engine's recovery point: its snapshot is looked at, and restored in a cluster for that."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from recovery.adapters.search.marks import VALIDATION
from recovery.domain.recovery_point import CheckResult, Manifest, VerdictState
from recovery.domain.words import size
from recovery.errors import Corrupt, RecoveryError, RestoreFailed, Unreachable
from recovery.ports.search import SearchAdvance, SearchRecovery, SearchRestoreOptions

WITHIN_SECONDS = 2 * 3600.0
LEFT_AFTER = timedelta(hours=24)
"""After which what a validation restored is what a lost worker left; a validation has less time."""

_NOT_HERE = (
    "index.routing.allocation.require.*",
    "index.routing.allocation.include.*",
    "index.lifecycle.*",
    "index.plugins.index_state_management.*",
)
"""Settings that only the source's own cluster can keep, or by which this one would change or delete the copy."""

Outcome = tuple[VerdictState, str, list[CheckResult]]
Progress = Callable[[int, int], None]

log = structlog.get_logger("recovery.search")


async def validate_snapshot(
    manifest: Manifest, search: SearchRecovery, scratch: SearchRecovery | None, progress: Progress | None = None
) -> Outcome:
    """Verdict, its reason in a sentence, and the checks.

    ``VALID``: restored in the scratch cluster under other names, compared, and deleted again; the cluster that took it
    may be lost. ``CORRUPT``: the snapshot is gone or not what was taken. ``RESTORE_FAILED``: the scratch cluster could
    not restore it, or what it restored differs. ``FAILED``: we were kept from finding out; nothing is called valid that
    nobody restored.
    """
    checks: list[CheckResult] = []
    notes: list[str] = []
    try:
        try:
            checks.append(await _looked(manifest, search))
        except Unreachable as error:
            if scratch is None:
                raise
            notes.append(f"not looked at by the cluster that took it: {error}")
        if scratch is None:
            return VerdictState.FAILED, _unproven(manifest, checks[0]), checks
        await _sweep(scratch)
        restored = await _restored(manifest, scratch, progress)
    except Corrupt as error:
        return VerdictState.CORRUPT, str(error), checks
    except RestoreFailed as error:
        return VerdictState.RESTORE_FAILED, str(error), checks
    except RecoveryError as error:
        return VerdictState.FAILED, str(error), checks
    return VerdictState.VALID, "; ".join([restored.detail, *notes]), [*checks, restored]


def _unproven(manifest: Manifest, looked: CheckResult) -> str:
    return (
        f"its snapshot is there and complete ({looked.detail}), and was not restored: name a cluster for that in "
        f"groups.{manifest.group}.elasticsearch.scratch"
    )


async def _looked(manifest: Manifest, search: SearchRecovery) -> CheckResult:
    """By the cluster that took it: the repository's trial, the snapshot's state, and the files of each shard."""
    began, source = time.monotonic(), manifest.search
    nodes = await search.verify(source.repository)
    detail = await search.inspect(source, source.repository)
    words = f"{detail}; repository {source.repository} tried by {', '.join(nodes)}"
    return CheckResult(name="snapshot", passed=True, detail=words, seconds=_since(began))


async def _restored(manifest: Manifest, scratch: SearchRecovery, progress: Progress | None) -> CheckResult:
    began, source = time.monotonic(), manifest.search
    server = await scratch.server()
    repository = await scratch.attach(source, foreign_name(manifest))
    nonce = secrets.token_hex(4)
    restore_id = f"{VALIDATION}{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{nonce}"
    options = SearchRestoreOptions(
        restore_id,
        repository=repository,
        rename_pattern="^(.+)$",
        rename_replacement=f"{VALIDATION}{nonce}-$1",
        aliases=False,
        keep_mark=True,
        replicas=0,
        ignore_settings=_NOT_HERE,
        within_seconds=WITHIN_SECONDS,
    )

    def tell(state: SearchAdvance) -> None:
        if progress is not None:
            progress(state.bytes, state.of_bytes)

    try:
        done = await scratch.restore(source, options, tell)
    finally:
        removed = await _removed(scratch, restore_id)
    internal = len(source.indices) - len(done.indices)
    without = f" ({internal} internal ones, whose names begin with a dot, were not)" if internal else ""
    after = "deleted again" if removed else "not deleted yet, which a later validation does"
    proven = len(source.not_comparable(done.indices)) < len(done.indices)
    detail = "; ".join(
        [
            f"restored at {server.title}, cluster {server.cluster}, under other names and {after}:"
            f" {len(done.indices)} indices{without} with {done.docs} documents, {size(source.bytes)}"
            + (", are as they were taken" if proven else ""),
            *done.notes,
        ]
    )
    return CheckResult(name="restore", passed=True, detail=detail, seconds=_since(began))


async def _removed(scratch: SearchRecovery, restore_id: str) -> bool:
    """What could not be removed now is removed by the sweep of a later validation."""
    try:
        await scratch.remove_restored(restore_id)
    except RecoveryError as error:
        log.warning("what a validation restored was not removed", restore=restore_id, reason=str(error))
        return False
    return True


async def _sweep(scratch: SearchRecovery) -> None:
    """What validations left whose worker was lost."""
    for restore_id in await scratch.unfinished():
        if restore_id.startswith(VALIDATION) and _is_left(restore_id):
            await _removed(scratch, restore_id)


def _is_left(restore_id: str) -> bool:
    try:
        at = datetime.strptime(restore_id.split("-")[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except (ValueError, IndexError):
        return False
    return datetime.now(UTC) - at > LEFT_AFTER


def foreign_name(manifest: Manifest) -> str:
    """What another cluster calls the repository of the point's region."""
    return f"{manifest.search.repository}-{manifest.source_region}"


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
