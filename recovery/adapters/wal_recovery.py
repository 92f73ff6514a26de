"""A recovery from the WAL archive: what the server is given to read, and whether it got where it was to go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from recovery.adapters.postgres.wal import RECORD_HEADER, record_bytes, record_end
from recovery.adapters.wal_archives import PostgresWalArchives
from recovery.adapters.wal_listing import listed
from recovery.backup.wal.reader import LineageReader, fetch_from_any, readers_of
from recovery.domain.group import GroupSnapshot
from recovery.domain.recovery_point import CheckResult, Manifest
from recovery.domain.recovery_target import ChosenRecovery, ReachedPoint, RecoveryTarget, farthest
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.domain.wal_archive import history_timeline, segment_file
from recovery.errors import Corrupt, NotFound, Unreachable
from recovery.ports.postgres import ArchiveRecovery

CHECK = "recovery target"


@dataclass(frozen=True)
class WalRecovery:
    """One recovery. ``others``: histories of timelines that are no ancestors, by number."""

    chosen: ChosenRecovery
    readers: Sequence[LineageReader]
    others: dict[int, bytes]

    @property
    def options(self) -> ArchiveRecovery:
        """For the restored copy."""
        return ArchiveRecovery(
            timeline=self.chosen.timeline,
            fetch=self.fetch,
            segment_bytes=self.readers[0].segment_bytes,
            settings=_settings(self.chosen.target),
            end_is_enough=self.chosen.target.time is not None,
        )

    async def fetch(self, name: str) -> bytes:
        """See ``recovery.ports.postgres.FetchWal``.

        A server that ends its recovery looks for the first timeline without a history, to take it for its own. So it
        gets those of other branches too, or it would take a number that is in use; it reads nothing else of them.
        """
        try:
            return await fetch_from_any(self.readers, name, until=lsn_order(self.chosen.until))
        except NotFound:
            number = history_timeline(name)
            if number is None or number <= self.chosen.timeline or number not in self.others:
                raise
            return self.others[number]

    async def first_segment(self) -> str:
        """Reads the segment in which the recovery point ends, and returns its name. Raises as ``fetch``."""
        start, size = lsn_order(self.chosen.start) - 1, self.readers[0].segment_bytes
        name = segment_file(self.chosen.branch.stretch_at(start).branch.timeline, start, size)
        await self.fetch(name)
        return name

    async def check(self, reached: ReachedPoint) -> CheckResult:
        """Whether the recovery ended at its target."""
        wrong = await self._wrong(reached)
        detail = f"{self.chosen.target}: {reached}" if wrong is None else f"{self.chosen.target}: {wrong} ({reached})"
        return CheckResult(name=CHECK, passed=wrong is None, detail=detail)

    async def _wrong(self, reached: ReachedPoint) -> str | None:
        target, lsn = self.chosen.target, lsn_order(reached.lsn)
        expected = self.chosen.branch.stretch_at(max(lsn - 1, 0)).branch.timeline
        if reached.timeline != expected:
            return f"it ended where timeline {expected} is to be followed: say so with --timeline {expected}"
        if not lsn_order(self.chosen.start) <= lsn <= lsn_order(self.chosen.until):
            return f"it ended outside of {self.chosen.start} to {self.chosen.until}"
        if target.time is not None:
            if reached.last_commit_at is not None and reached.last_commit_at > target.time:
                return f"it holds a commit of {reached.last_commit_at}"
            # PostgreSQL stopped before a commit that is later, unless its WAL ended first.
            return await self._left_out(lsn) if reached.at_end_of_wal else None
        if target.must_be_met:
            return None  # PostgreSQL itself does not start without it
        return await self._left_out(lsn)

    async def _left_out(self, lsn: int) -> str | None:
        """A whole record between the end of the recovery and the target: it ended too early, whatever it said."""
        until, size = lsn_order(self.chosen.until), self.readers[0].segment_bytes
        first = lsn - lsn % size
        known: dict[int, bytes] = {}
        for position in range(first, min(until, first + 2 * size), size):
            # Where a fork lies in it, the newer timeline's segment has the older one's bytes, too.
            newest = self.chosen.branch.stretch_at(min(position + size, until) - 1).branch.timeline
            name = segment_file(newest, position, size)
            try:
                known[position] = await fetch_from_any(self.readers, name, until=until)
            except (NotFound, Corrupt) as error:
                return f"{name} holds WAL before the target and cannot be read any more: {error}"

        def read(position: int, count: int) -> bytes:
            begin = position - position % size
            body = known.get(begin, b"")
            return body[position - begin : min(position - begin + count, max(until - begin, 0))]

        end = record_end(read, lsn, size)
        if end is not None and end <= until:
            return f"the record from {lsn_text(lsn)} on was not replayed"
        header, _ = record_bytes(read, lsn, RECORD_HEADER, size)
        if end is None and until - first > 2 * size and any(header):
            return f"more than {2 * size} bytes before the target were not replayed"
        return None


def reached_text(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


async def open_recovery(archives: PostgresWalArchives, group: GroupSnapshot, chosen: ChosenRecovery) -> WalRecovery:
    """Opens the archive at every location that has any of the lineage.

    Raises:
        WrongKey: this worker has no key that opens archived WAL. NotFound, Corrupt: of the last location.
        Unreachable: none answers, or those that do have less than it was chosen for.
    """
    found = await listed(await archives.archives(group, chosen.system_identifier, opened=True))
    readers = await asyncio.to_thread(readers_of, found, chosen.branch)
    end = farthest((each.ranges for each in readers), lsn_order(chosen.start), readers[0].segment_bytes)
    if end < lsn_order(chosen.until):
        answering = ", ".join(archive.location for archive, _ in found)
        raise Unreachable(
            f"the locations that answer ({answering}) have the WAL up to {lsn_text(end)}, and not that up to "
            f"{chosen.until}: without the others the recovery would end early"
        )
    known = [each.record for _, timelines in found for each in timelines]
    return WalRecovery(chosen, readers, {each.timeline: each.history.encode() for each in known if each.history})


def _settings(target: RecoveryTarget) -> dict[str, str]:
    """PostgreSQL's own target. Of an LSN it has none: nothing behind it is served, so that is where its WAL ends."""
    if target.time is not None:
        return {"recovery_target_time": target.time.isoformat(sep=" ")}
    if target.xid is not None:
        return {"recovery_target_xid": str(target.xid)}
    return {} if target.name is None else {"recovery_target_name": target.name}


def comparable(manifest: Manifest, databases: Sequence[str]) -> Manifest:
    """The manifest without what later WAL may have changed since: names and contents are the target's, not the point's.

    ``databases``: those that the recovered server has.
    """
    source = manifest.postgres.model_copy(
        update={
            "databases": list(databases), "extensions": [], "roles": [], "canary": None, "tables": [],
            "sequences": {}, "sequences_after": {}, "large_objects": 0, "large_object_checksums": {},
            "fingerprints_taken": None, "table_count": 0,
            "notes": ["no canary is compared: the recovery went on after the backup"],
        }
    )  # fmt: skip
    return manifest.model_copy(update={"source": source})
