"""The WAL archives of a worker's groups."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy

from activities.wal import WalArchiving
from recovery.adapters.process import server_user, user_id
from recovery.adapters.wal_archives import PostgresWalArchives
from recovery.adapters.wal_socket import WalOutlet, WalSocket
from recovery.config import Config
from recovery.errors import WrongKey
from recovery.telemetry.metrics import RecoveryMetrics
from recovery.telemetry.wal_metrics import WalMetrics
from workers.wiring import Wiring
from workflows.wal_archive import WalArchive, WalArchiveOrder

log = structlog.get_logger("recovery.wal")


def archived_groups(config: Config) -> list[str]:
    """The groups whose WAL is to be archived."""
    return [name for name in config.groups if config.snapshot(name).wal is not None]


async def wal_archiving(config: Config, wiring: Wiring, archives: PostgresWalArchives) -> WalArchiving:
    """The activities that keep the archives going."""
    assert isinstance(wiring.measurements, RecoveryMetrics), "a worker's measurements are metrics"
    metrics = WalMetrics(wiring.measurements, archived_groups(config))
    return WalArchiving(config, await wiring.witness(), archives, metrics, await wiring.notifier())


async def wal_sockets(config: Config, archives: PostgresWalArchives, regions: Sequence[str]) -> list[WalSocket]:
    """The sockets of these regions at which WAL files are handed over; to be opened. Raises NotFound: no such user."""
    found = []
    for name in archived_groups(config):
        for region in sorted(set(regions) & set(config.group(name).regions)):
            place = config.group(name).regions[region].postgres
            if place.wal_socket is None:
                continue
            group, user = config.snapshot(name), place.run_as or server_user()
            users = [await asyncio.to_thread(user_id, user)] if user is not None else []
            try:
                intake = archives.intake(group, region)
            except WrongKey as error:
                log.warning("WAL files are not taken here", socket=place.wal_socket, why=str(error))
                continue
            found.append(WalSocket(Path(place.wal_socket), intake, WalOutlet(archives, group), users))
    return found


async def keep_archiving(client: Client, config: Config, regions: Sequence[str]) -> None:
    """Starts ``wal/<group>`` for each archived group with one of these regions, where it does not run yet."""
    for name in archived_groups(config):
        if set(regions) & set(config.group(name).regions):
            await client.start_workflow(
                WalArchive.run,
                WalArchiveOrder(group=name),
                id=f"wal/{name}",
                task_queue=config.temporal.control_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary=f"WAL archive of {name}",
            )
