"""What keeps a group's WAL archive going: who owns the group, and the long session at that region."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from temporalio import activity
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from activities.boundary import report_progress, service
from activities.monitoring import while_worker_stays
from activities.recovery_points import GROUP_MEMO
from recovery.domain.group import GroupSnapshot, WalRule
from recovery.domain.recovery_point import BackupKind
from recovery.domain.wal_progress import HeldWal, WalOrder, WalProgress
from recovery.domain.words import size
from recovery.errors import RecoveryError
from recovery.ports.configuration import Configuration
from recovery.ports.health import OwnershipReader
from recovery.ports.notify import Notifier, Severity
from recovery.ports.wal_archives import WalArchives, WalMeasurements

ARCHIVE_FOR = timedelta(hours=23)
"""One session; less than the activity's start-to-close timeout."""
TOLD_FAILURES = 5
"""Sessions in a row that failed, after which people are told."""
LOOK_SECONDS = 5.0
ANSWER_SECONDS = 4.0  # of a standby, or of the owner about its slot
BASE_SECONDS = 60.0  # between two looks whether a recovery point leads to the archived WAL
BACKUP_AGAIN_SECONDS = 3600.0
NEARLY_ALL = 0.9  # of what the server keeps for the slot: what comes then is removed, a gap
EASED = 0.8  # of a limit: below it people are told that it is over

StartBackup = Callable[[WalOrder, str], Awaitable[bool]]
"""Starts a base backup, with the reason; False where it could not be started now."""

log = structlog.get_logger("recovery.wal")


class WalArchiving:
    def __init__(
        self,
        configuration: Configuration,
        ownership: OwnershipReader,
        archives: WalArchives,
        measurements: WalMeasurements,
        notifier: Notifier,
        start_backup: StartBackup | None = None,
    ) -> None:
        self._configuration = configuration
        self._ownership = ownership
        self._archives = archives
        self._measurements = measurements
        self._notifier = notifier
        self._start_backup = start_backup or start_base_backup

    @service("wal.find_owner")
    async def find_owner(self, group: str) -> WalOrder:
        """Where the group's WAL is archived now: at the region that owns it."""
        snapshot = self._configuration.snapshot(group)
        if snapshot.wal is None:
            return WalOrder(group=group)
        region, epoch = await self._owner(snapshot)
        queue, control = snapshot.region(region).task_queue, activity.info().task_queue
        return WalOrder(group=group, region=region, queue=queue, control_queue=control, epoch=epoch)

    @service("wal.archive")
    async def archive(self, order: WalOrder) -> str:
        """Archives the owner's WAL for hours, and returns why it ended in order; a failed session raises."""
        snapshot = self._configuration.snapshot(order.group)
        if snapshot.wal is None:
            return "the group has no WAL archive any more"
        session = _Session(
            self, snapshot, snapshot.wal, order.model_copy(update={"run_id": activity.info().workflow_run_id or ""})
        )
        try:
            async with asyncio.timeout(ARCHIVE_FOR.total_seconds()):
                return await while_worker_stays(session.run())
        except TimeoutError:
            return "the session was long enough"

    async def _owner(self, group: GroupSnapshot) -> tuple[str, int]:
        found = await self._ownership.read(group.name)
        return (group.home_region, 0) if found is None else (found[0].region, found[0].epoch)


@dataclass
class _Session:
    """One session: the archiver, and beside it a look at owner, standbys, slot and recovery points."""

    steps: WalArchiving
    group: GroupSnapshot
    rule: WalRule
    order: WalOrder
    progress: WalProgress | None = None
    standbys: dict[str, str] = field(default_factory=dict)
    held: HeldWal | None = None
    level: Severity | None = None  # of the slot's retained WAL, as people were told
    gap: str | None = None
    told_behind: set[str] = field(default_factory=set)
    base_looked_at: float = 0.0
    backup_started_at: float | None = None

    async def run(self) -> str:
        """Raises what ended the archiver."""
        archiving = asyncio.ensure_future(self.steps._archives.archive(self.group, self.order, self._report))
        looking = asyncio.ensure_future(self._look_around())
        try:
            await asyncio.wait({archiving, looking}, return_when=asyncio.FIRST_COMPLETED)
            if archiving.done():
                archiving.result()
            return looking.result() if looking.done() else "the archiver ended"
        finally:
            for task in (archiving, looking):
                task.cancel()
            await asyncio.gather(archiving, looking, return_exceptions=True)
            self.steps._measurements.wal_archive_left(self.group.name)

    def _report(self, progress: WalProgress) -> None:
        self.progress = progress.model_copy(update={"standbys": dict(self.standbys), "held": self.held})
        report_progress(self.progress)
        self.steps._measurements.wal_archived(self.group.name, self.progress)

    async def _look_around(self) -> str:
        """Returns why the session has to end."""
        recovered = False
        while True:
            moved = await self._moved()
            if moved is not None:
                return moved
            progress = self.progress
            if progress is not None:
                if not recovered and self.order.failed >= TOLD_FAILURES:
                    await self._tell(Severity.INFO, "is archived again", f"at {progress.region}, {progress.archived}")
                recovered = True
                await self._gap(progress)
                await self._behind(progress)
                await asyncio.gather(self._look_at_slot(progress), *map(self._follow, self._others()))
                await self._need_base(progress)
            await asyncio.sleep(LOOK_SECONDS if progress is not None else LOOK_SECONDS / 10)

    async def _moved(self) -> str | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                region, epoch = await self.steps._owner(self.group)
        except (RecoveryError, TimeoutError) as error:
            # Names of pieces carry content and epoch, so going on harms nothing; stopping would cost an RPO.
            log.warning("who owns the group could not be read", group=self.group.name, why=str(error))
            return None
        if (region, epoch) == (self.order.region, self.order.epoch):
            return None
        return f"{region} owns the group with epoch {epoch}"

    def _others(self) -> list[str]:
        return [each.name for each in self.group.regions if each.name != self.order.region and each.postgres]

    async def _follow(self, region: str) -> None:
        archived = self.progress.archived if self.progress is not None else "0/0"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                self.standbys[region] = await self.steps._archives.follow(self.group, region, archived)
        except (RecoveryError, TimeoutError) as error:
            words = str(error) or f"no answer within {ANSWER_SECONDS:g} s"
            if self.standbys.get(region) != words:
                log.warning("a standby does not hold the archive's WAL", region=region, why=words)
            self.standbys[region] = words

    async def _look_at_slot(self, progress: WalProgress) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                self.held = await self.steps._archives.held(self.group, progress.region)
        except (RecoveryError, TimeoutError) as error:
            log.warning("the archive's slot could not be looked at", region=progress.region, why=str(error))
            return
        if self.held is None:
            return
        level = _level(self.held, self.rule, self.level)
        if level is self.level:
            return
        held = f"the slot {self.rule.slot} at {progress.region} holds {size(self.held.retained_bytes)} of WAL"
        if level is None:
            await self._tell(Severity.INFO, "is archived in time again", held)
        else:
            left = "" if self.held.safe_bytes is None else f"; it is given up after {size(self.held.safe_bytes)} more"
            await self._tell(
                level,
                "is not archived fast enough",
                f"{held}{left}. The server's disk fills. {progress.archived} is archived of {progress.server_position}:"
                " look at the locations and at the network to them",
            )
        self.level = level

    async def _gap(self, progress: WalProgress) -> None:
        if progress.gap is None or progress.gap == self.gap:
            return
        self.gap = progress.gap
        self.base_looked_at = 0.0
        await self._tell(
            Severity.CRITICAL,
            "has a gap in its archive",
            f"{progress.gap} was removed at {progress.region} before it was archived. No recovery gets across it from "
            "an earlier recovery point: a new base backup is started",
        )

    async def _behind(self, progress: WalProgress) -> None:
        """Of a location that the server's WAL is to wait for, people hear when it does not any more."""
        missing = sorted(set(progress.behind) - set(self.rule.optional_locations) - self.told_behind)
        self.told_behind |= set(missing)
        for name in missing:
            await self._tell(
                Severity.WARNING,
                f"is archived without {name}",
                f"{progress.behind[name]}. What it misses is copied to it when it answers; until then the WAL has one "
                "location less",
            )

    async def _need_base(self, progress: WalProgress) -> None:
        """Starts a backup where no recovery point leads to what is archived now: after a gap, or at the beginning."""
        now = time.monotonic()
        if progress.pieces == 0:
            return  # what is archived now is not known yet
        if self.base_looked_at and now < self.base_looked_at + BASE_SECONDS:
            return
        self.base_looked_at = now
        if self.backup_started_at is not None and now < self.backup_started_at + BACKUP_AGAIN_SECONDS:
            return
        try:
            why = await self.steps._archives.lacks_base(
                self.group, progress.system_identifier, progress.timeline, progress.archived
            )
        except RecoveryError as error:
            log.warning("the recovery points could not be read", group=self.group.name, why=str(error))
            return
        if why is not None and await self.steps._start_backup(self.order, why):
            self.backup_started_at = now

    async def _tell(self, severity: Severity, title: str, body: str) -> None:
        try:
            await self.steps._notifier.send(severity, f"WAL of {self.group.name} {title}", body)
        except RecoveryError as error:
            log.warning("people could not be told", what=title, why=str(error))


async def start_base_backup(order: WalOrder, why: str) -> bool:
    """Starts the group's physical backup as a run of its own; False while another one runs, which may be too old."""
    kind = BackupKind.PHYSICAL.value
    try:
        await activity.client().start_workflow(
            "Backup",
            {"group": order.group, "kind": kind, "reason": why, "requested_by": "WAL archive"},
            id=f"backup/{order.group}/{kind}",
            task_queue=order.control_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            memo={GROUP_MEMO: order.group},
            static_summary=f"Backup of {order.group}",
            static_details=f"Requested by the WAL archive: {why}",
        )
    except WorkflowAlreadyStartedError:
        return False
    log.warning("a base backup was started", group=order.group, why=why)
    return True


def _level(held: HeldWal, rule: WalRule, told: Severity | None) -> Severity | None:
    """What people are to be told; a level that was told ends only well below its limit."""
    if held.safe_bytes is not None and held.retained_bytes:  # max_slot_wal_keep_size is set
        used = held.retained_bytes / (held.retained_bytes + max(0, held.safe_bytes))
        if used >= NEARLY_ALL or (told is Severity.CRITICAL and used >= EASED * NEARLY_ALL):
            return Severity.CRITICAL
    for severity, limit in ((Severity.CRITICAL, rule.retained_critical), (Severity.WARNING, rule.retained_warning)):
        if held.retained_bytes >= limit or (told is severity and held.retained_bytes >= EASED * limit):
            return severity
    return Severity.CRITICAL if held.state in ("unreserved", "lost") else None
