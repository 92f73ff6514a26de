"""What a group's WAL archive holds, and how its archiver is, for the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import ValidationError
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from recovery.adapters.wal_status import LocationArchive, archived_wal
from recovery.backup.catalogue import Catalogue
from recovery.backup.signing import Verifier
from recovery.domain.recovery_point import RecoveryPoint
from recovery.domain.recovery_target import Window
from recovery.domain.wal_progress import WalProgress
from recovery.errors import RecoveryError
from workers.wiring import Wiring


@dataclass(frozen=True)
class ArchiveStatus:
    """``windows``: what recoveries reach, the newest point first; ``unknown``: why that could not be found out."""

    group: str
    configured: bool
    locations: list[LocationArchive]
    windows: list[Window]
    unknown: str = ""


async def archive_status(wiring: Wiring, name: str) -> ArchiveStatus:
    """From the names of the objects at each location, and the signed manifests of the recovery points."""
    group = wiring.config.snapshot(name)
    stores = (await wiring.locations())(group)
    verifier = Verifier(wiring.config.keys.trusted_signers)
    points: list[RecoveryPoint] = []
    unknown = ""
    try:
        points = await Catalogue(stores, verifier).points(name)
    except RecoveryError as error:
        unknown = str(error)
    found = await archived_wal(stores, name, verifier, points)
    if not found.is_known:
        unknown = unknown or "no location's WAL archive could be listed"
    return ArchiveStatus(name, group.wal is not None, found.locations, found.windows, unknown)


@dataclass(frozen=True)
class ArchiverStatus:
    """``state``: a word for people; ``progress`` None: no session tells how far it is."""

    state: str
    progress: WalProgress | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


async def archiver_status(client: Client, group: str) -> ArchiverStatus:
    """How the run ``wal/<group>`` and its session are, from the session's heartbeats."""
    try:
        description = await client.get_workflow_handle(f"wal/{group}").describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return ArchiverStatus("it was never started: run drctl worker in a region of the group")
        raise
    if description.status is None or description.status.name != "RUNNING":
        ended = "unknown" if description.status is None else description.status.name.lower()
        return ArchiverStatus(f"its run has ended ({ended}): a worker of the group starts it again when it begins")
    for pending in description.raw_description.pending_activities:
        if pending.activity_type.name != "wal.archive":
            continue
        if pending.HasField("heartbeat_details") and pending.heartbeat_details.payloads:
            try:
                payloads = list(pending.heartbeat_details.payloads)
                found = (await client.data_converter.decode(payloads, [WalProgress]))[0]
            except (ValidationError, RuntimeError, IndexError):
                continue
            if isinstance(found, WalProgress):
                return ArchiverStatus("archives", found)
        return ArchiverStatus("its session begins")
    return ArchiverStatus("no session runs: it waits for a worker of the owner, or the last session failed")
