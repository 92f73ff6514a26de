"""Putting a physical recovery point back: from the point's stream into an empty data directory."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from pathlib import Path

from recovery.adapters.postgres.archive_recovery import reached_point, recover_from_archive
from recovery.adapters.postgres.combining import combine, make_member, take_over
from recovery.adapters.postgres.folder import (
    MARKER,
    ClaimedFolder,
    FileSystems,
    RestoreMark,
    give_to,
    is_being_restored,
    link_tablespaces,
    make_tablespace,
    no_space,
    read_mark,
    refuse_filled,
    remove_folder,
    sync_files,
    syncfs_tells_failures,
)
from recovery.adapters.postgres.host import INCOMPLETE, LOG, LocalPostgresHost, is_listening, stop_server
from recovery.adapters.postgres.settings import (
    control_data,
    end_recovery,
    loadable_libraries,
    settings_for,
    socket_folder,
    write_configuration,
)
from recovery.adapters.postgres.unpacking import Unpacking
from recovery.adapters.process import clean_environment, closing, run
from recovery.backup.bounded import in_own_thread, opened, through, to_the_end
from recovery.domain.chains import POSTGRES_MANIFEST, bytes_to_restore
from recovery.domain.recovery_point import BackupKind
from recovery.domain.recovery_target import ReachedPoint
from recovery.errors import BadInput, Contended, Corrupt, NoSpace, NotFound, Refused, RestoreFailed
from recovery.ports.postgres import PointReader, PostgresPlace, Progress, Restored, RestoreOptions

OWN_FILES = (INCOMPLETE, MARKER, LOG)  # in the data directory, and not PostgreSQL's
SPACE_FACTOR = 1.1
VERIFY_SECONDS = 6 * 3600.0
EARLY_SECONDS = 0.2  # between one writing of unpacked files to the disk and the next

_TABLESPACE = re.compile(r"(\d+)\.tar")
_LAST_COMMIT = re.compile(r"last completed transaction was at log time (\S+ \S+)")


async def restore_physical(
    host: LocalPostgresHost,
    reader: PointReader,
    place: PostgresPlace,
    options: RestoreOptions,
    progress: Progress | None = None,
) -> Restored:
    """Restores into an empty directory and starts a primary there that ends exactly at the point's stop LSN.

    A repeated call with the same ``restore_id`` starts over where the earlier one was interrupted, and returns the
    finished work where it was not. On every failure, cancellation included, the target is removed again.

    Raises:
        Refused: the target is not empty, or another restore's, or this machine has not the major version needed.
        Contended: an attempt of the same restore is at work there.
        NoSpace: the disk has not enough room, or became full.
        Corrupt: the bytes differ from what was backed up.
        RestoreFailed: the server does not start on them.
    """
    return await PhysicalRestore(host, reader, place, options, progress).run()


async def remove_restored(place: PostgresPlace, restore_id: str) -> bool:
    """Stops the restored server and deletes its folders, if they carry this restore's mark. Idempotent.

    Raises:
        Refused: the folder is not the work of this restore.
        Contended: an attempt of the restore is at work there.
    """
    folder = place.data_directory
    mark = await asyncio.to_thread(read_mark, folder)
    if mark is not None and mark.restore_id == restore_id:
        if await asyncio.to_thread(is_being_restored, folder):
            raise Contended(f"an attempt of restore {restore_id} is still at work in {folder}")
        await stop_server(folder)
    return await through(remove_folder, folder, restore_id)


def plain_bytes_needed(reader: PointReader) -> int:
    """Room that a restore of the point needs: the plain size and a tenth for WAL and growth."""
    return int(bytes_to_restore([each.manifest for each in (*reader.bases, reader)]) * SPACE_FACTOR)


def is_restored(artefact: str) -> bool:
    """Whether a physical restore reads the artefact of this name."""
    return artefact in ("base.tar", POSTGRES_MANIFEST) or _TABLESPACE.fullmatch(artefact) is not None


def _is_left_out(member: str) -> bool:
    """The links of the source's tablespaces name the source's folders. And a source that was restored itself has an
    earlier restore's mark and log: they must not pass for ours."""
    return member.startswith("pg_tblspc/") or member in ("tablespace_map", *OWN_FILES)


class PhysicalRestore:
    """One attempt of one restore. ``validation`` uses its parts with a scratch server of its own."""

    def __init__(
        self,
        host: LocalPostgresHost,
        reader: PointReader,
        place: PostgresPlace,
        options: RestoreOptions,
        progress: Progress | None = None,
        *,
        libraries: list[str] | None = None,
    ) -> None:
        self._libraries = reader.manifest.postgres.preload_libraries if libraries is None else libraries
        self._host = host
        self._reader = reader
        self._place = place
        self._options = options
        self._progress = progress
        self._manifest = reader.manifest
        self._expected = sum(each.manifest.plain_bytes for each in (*reader.bases, reader))
        self._major = reader.manifest.postgres.major
        self._done = 0
        self._notes: list[str] = []
        self._at_end_of_wal = False

    @property
    def _folder(self) -> Path:
        return self._place.data_directory

    async def run(self) -> Restored:
        earlier = await self._earlier_work()
        if earlier is not None:
            return earlier
        await self.refuse_unsuitable()
        mark = RestoreMark(self._options.restore_id, self._manifest.point_id, created_directory=False)
        claimed = ClaimedFolder(self._folder, mark)
        try:
            await through(claimed.claim)
            for space in self._tablespace_folders().values():
                await through(claimed.add_tablespace, space, self._host.user_for(self._place))
            await self._unpack_and_prove()
            await self.configure()
            last_commit = await self._start() if self._options.start else None
            mark.restored_bytes = self._done
            mark.last_commit_at = last_commit.isoformat() if last_commit else None
            mark.notes = self._notes
            reached = await asyncio.to_thread(self._reached, last_commit)
            mark.reached = reached.model_dump(mode="json") if reached is not None else None
            await through(claimed.complete)
        except Contended:
            raise
        except BaseException:
            await to_the_end(self._clear(claimed))
            raise
        finally:
            claimed.__exit__(None, None, None)
        return Restored(self._place, self._done, last_commit, self._notes, reached)

    async def _earlier_work(self) -> Restored | None:
        mark = await asyncio.to_thread(read_mark, self._folder)
        if mark is None or mark.restore_id != self._options.restore_id:
            return None
        if mark.point_id != self._manifest.point_id:
            raise Refused(
                f"restore {mark.restore_id} put {mark.point_id} into {self._folder}, and now asks for "
                f"{self._manifest.point_id}: a restore keeps to its point"
            )
        if not mark.complete:
            await remove_restored(self._place, mark.restore_id)
            return None
        if self._options.start:
            await self._host.start(self._place, timeout=self._options.start_timeout)
        last_commit = datetime.fromisoformat(mark.last_commit_at) if mark.last_commit_at else None
        reached = ReachedPoint.model_validate(mark.reached) if mark.reached is not None else None
        return Restored(self._place, mark.restored_bytes, last_commit, mark.notes, reached)

    async def refuse_unsuitable(self) -> None:
        """Everything that can be known before the first byte is fetched."""
        manifest, folder = self._manifest, self._folder
        if manifest.kind is not BackupKind.PHYSICAL:
            raise BadInput(
                f"{manifest.point_id} is a {manifest.kind} point: only a physical one makes a data directory"
            )
        if not folder.is_absolute():
            raise BadInput(
                f"the target folder {folder} must be an absolute path, for example /var/lib/postgresql/restored"
            )
        majors = await self._host.majors()
        if self._major not in majors:
            known = ", ".join(str(major) for major in sorted(majors)) or "none"
            raise Refused(
                f"{manifest.point_id} is of PostgreSQL {self._major}, and this machine has {known}: a physical point "
                f"runs on its own major version only. Install {self._major} here, or restore a logical point."
            )
        if await self._host.is_running(self._place):
            raise Refused(
                f"a PostgreSQL server is running in {folder}: stop it and empty the folder, or name another one"
            )
        if not await self._host.is_empty(PostgresPlace(self._place.host, 1, folder)):
            raise Refused(
                f"{folder} is not empty: a restore overwrites nothing. Empty it yourself or name another folder."
            )
        for space in self._tablespace_folders().values():
            await asyncio.to_thread(refuse_filled, space)
        if self._options.start and await is_listening(self._place.host, self._place.port):
            raise Refused(
                f"something listens at {self._place.host}:{self._place.port} already: stop it or name another port"
            )
        needed, free = plain_bytes_needed(self._reader), await self._host.free_bytes(folder)
        if needed > free:
            raise NoSpace(
                f"{manifest.point_id} needs {_size(needed)} in {folder}, and {_size(free)} are free there: free some "
                "space or name a folder on a larger disk"
            )

    def _tablespace_folders(self) -> dict[str, Path]:
        chosen = self._options.tablespaces
        beside = self._folder.with_name(self._folder.name + ".tablespaces")
        return {
            oid: Path(chosen.get(location, beside / oid))
            for oid, location in self._manifest.postgres.tablespaces.items()
        }

    async def unpack(self) -> None:
        """All archives, then the manifest of PostgreSQL itself."""
        user = self._host.user_for(self._place)
        await through(self._hand_over, self._folder, user)
        if self._reader.bases:
            await self._unpack_chain(user)
            return
        spaces = self._tablespace_folders()
        for artefact in self._manifest.artefacts:
            tablespace = _TABLESPACE.fullmatch(artefact.name)
            if tablespace is not None:
                target = spaces[tablespace[1]]
                await through(make_tablespace, target, user)
                await self._untar(self._reader, artefact.name, target, user)
            elif artefact.name == "base.tar":
                await self._untar(self._reader, artefact.name, self._folder, user)
        await through(link_tablespaces, self._folder, spaces, user)
        await self._store_manifest(self._reader, self._folder, user)

    async def _unpack_chain(self, user: str | None) -> None:
        """All members are read to their ends, and so checked, before the first of them is combined."""
        members: list[Path] = []
        for number, reader in enumerate((*self._reader.bases, self._reader)):
            members.append(await through(make_member, self._folder, str(number), user))
            await self._untar(reader, "base.tar", members[-1], user)
            await self._store_manifest(reader, members[-1], user)
        await combine(self._host.binaries, self._major, self._folder, members, user)
        await through(take_over, self._folder)

    def _hand_over(self, folder: Path, user: str | None) -> None:
        for path in (folder, folder / INCOMPLETE, folder / MARKER):
            if path.exists():
                give_to(path, user)

    async def _untar(self, reader: PointReader, artefact: str, folder: Path, user: str | None) -> None:
        unpacking = await opened(partial(Unpacking, folder, artefact, user, _is_left_out), Unpacking.close)
        try:
            async with closing(self._counted(reader, artefact)) as chunks:
                async for chunk in chunks:
                    await in_own_thread("unpack", partial(unpacking.write, chunk))
            unpacking.finish()
        finally:
            await to_the_end(in_own_thread("unpack", unpacking.close))

    async def _counted(self, reader: PointReader, artefact: str) -> AsyncIterator[bytes]:
        async with closing(reader.stream(artefact)) as chunks:
            async for chunk in chunks:
                yield chunk
                self._done += len(chunk)
                if self._progress is not None:
                    self._progress(self._done, self._expected)

    async def _store_manifest(self, reader: PointReader, folder: Path, user: str | None) -> None:
        path = folder / POSTGRES_MANIFEST
        with no_space(path):
            file = await opened(lambda: path.open("wb"), lambda file: file.close())
            try:
                async for chunk in self._counted(reader, POSTGRES_MANIFEST):
                    await asyncio.to_thread(file.write, chunk)
            finally:
                await to_the_end(asyncio.to_thread(file.close))
        await through(give_to, path, user)

    async def verify_files(self) -> None:
        """``pg_verifybackup``: every file there, of its size and checksum, and the WAL from start to stop readable.

        The files of a point that was proven are not read a second time: their checksums were compared when it was
        validated, and the bytes that they were unpacked from are those of then, by the SHA-256 of every object. What
        ``pg_combinebackup`` made is not such a copy.

        Raises:
            Corrupt: it is not so, in the tool's words.
            NotFound: the tool is missing or does not run here.
        """
        tool = await self._host.binaries.tool(self._major, "pg_verifybackup")
        arguments: list[str | Path] = [
            tool,
            "--quiet",
            *(part for name in OWN_FILES for part in ("--ignore", name)),
            *(["--skip-checksums"] if self._options.proven and not self._reader.bases else []),
            self._folder,
        ]
        user = self._host.user_for(self._place)
        done = await run(arguments, run_as=user, environment=clean_environment(), timeout=VERIFY_SECONDS)
        if done.code < 0:
            raise NotFound(
                f"pg_verifybackup of PostgreSQL {self._major} crashes on this machine (signal {-done.code}): install "
                "one that works"
            )
        if done.code != 0:
            words = "; ".join(line.removeprefix("pg_verifybackup: ") for line in done.stderr.splitlines()[:5])
            raise Corrupt(f"pg_verifybackup found damage in {self._manifest.point_id}: {words or done.stdout}")

    async def _unpack_and_prove(self) -> None:
        """Files go to the disk while others are unpacked, and while all are read: disk and processor work at once.

        What cannot be written ends it at once. When it is ended, it waits for the chunk that is being written, for its
        folder is given up then, and for no disk besides. A disk that hangs keeps threads of the restore's own.
        """
        if not (self._options.start and self._options.durable):
            await self.unpack()
            await self.verify_files()
            return
        folders = [self._folder, *self._tablespace_folders().values()]
        unpacked = asyncio.Event()
        with contextlib.closing(await opened(partial(FileSystems, folders), lambda disks: disks.close())) as disks:
            proving = asyncio.create_task(self._unpack_and_verify(unpacked))
            keeping = asyncio.create_task(self._keep(disks, unpacked))
            try:
                await asyncio.wait((proving, keeping), return_when=asyncio.FIRST_EXCEPTION)
                for task in (proving, keeping):
                    if task.done():
                        task.result()
            finally:
                proving.cancel()
                keeping.cancel()
                await to_the_end(asyncio.gather(proving, keeping, return_exceptions=True))

    async def _unpack_and_verify(self, unpacked: asyncio.Event) -> None:
        await self.unpack()
        unpacked.set()
        await self.verify_files()

    async def _keep(self, disks: FileSystems, unpacked: asyncio.Event) -> None:
        """Returns when all that was unpacked is on the disk."""
        if not syncfs_tells_failures():
            await unpacked.wait()
            tool, user = await self._host.binaries.tool(self._major, "initdb"), self._host.user_for(self._place)
            done = await run([tool, "--sync-only", "-D", self._folder], run_as=user, timeout=VERIFY_SECONDS)
            if done.code != 0:
                raise RestoreFailed(f"the restored files could not be written to the disk: {done.stderr}")
            return
        whole = False
        while not whole:
            whole = unpacked.is_set()
            await in_own_thread("syncfs", disks.sync)
            if not whole:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(unpacked.wait(), EARLY_SECONDS)

    async def configure(self) -> None:
        """Our configuration files, and the request to recover to the stop LSN."""
        binaries, source, folder = self._host.binaries, self._manifest.postgres, self._folder
        user = self._host.user_for(self._place)
        control = await control_data(binaries, self._major, folder, user)
        if control.get("Database system identifier", source.system_identifier) != source.system_identifier:
            raise Corrupt(f"{self._manifest.point_id} holds another cluster than its manifest says")
        libraries = await loadable_libraries(binaries, self._major, self._libraries)
        if missing := [name for name in self._libraries if name not in libraries]:
            self._notes.append(f"libraries that this machine lacks are not preloaded: {', '.join(missing)}")
        tls = await asyncio.to_thread(lambda: all((folder / name).exists() for name in ("server.crt", "server.key")))
        address = {
            "listen_addresses": self._place.host,
            "port": str(self._place.port),
            "unix_socket_directories": socket_folder(folder),
        }
        chosen = {**address, **self._options.settings}
        settings = settings_for(source, control, libraries, tls, chosen)
        with no_space(folder):
            await through(write_configuration, folder, settings, read_only=self._options.read_only, user=user)

    async def _start(self) -> datetime | None:
        user, recovery = self._host.user_for(self._place), self._options.recovery
        if self._options.durable:
            await asyncio.to_thread(sync_files, self._folder)
        if recovery is None:
            await self._host.launch(self._place, timeout=self._options.start_timeout)
        else:
            limit = self._options.start_timeout
            self._at_end_of_wal = await recover_from_archive(self._host, self._place, recovery, limit)
        await through(end_recovery, self._folder, user)
        return await asyncio.to_thread(last_replayed_commit, self._folder / LOG)

    def _reached(self, last_commit: datetime | None) -> ReachedPoint | None:
        if self._options.recovery is None or not self._options.start:
            return None
        return reached_point(self._folder, last_commit, at_end_of_wal=self._at_end_of_wal)

    async def _clear(self, claimed: ClaimedFolder) -> None:
        await stop_server(self._folder, gentle=False)
        await through(remove_folder, self._folder, claimed.mark.restore_id)


def last_replayed_commit(log: Path) -> datetime | None:
    """Time of the newest transaction that recovery replayed, from the server's log; None when it replayed none."""
    found = _LAST_COMMIT.findall(log.read_text(errors="replace")) if log.exists() else []
    return datetime.fromisoformat(found[-1]) if found else None


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
