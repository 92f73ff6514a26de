"""Validation of a recovery point: a real restore into a scratch server, and every check on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from recovery.adapters.postgres.checks import NOT_AVAILABLE, judge, matches
from recovery.adapters.postgres.connection import connected
from recovery.adapters.postgres.fingerprint import Checksum
from recovery.adapters.postgres.host import LocalPostgresHost, tail
from recovery.adapters.postgres.logical import GLOBALS_NAME, dump_name
from recovery.adapters.postgres.observation import Scope, observe
from recovery.adapters.postgres.restore import PhysicalRestore, is_restored
from recovery.adapters.postgres.restore_logical import restore_logical
from recovery.adapters.postgres.scratch import ACTING_LIBRARIES, PORT, ScratchSpace, running_server, scratch_space
from recovery.adapters.process import closing
from recovery.domain.recovery_point import BackupKind, CheckResult, Manifest, VerdictState
from recovery.errors import (
    Corrupt,
    NoSpace,
    NotFound,
    Permanent,
    RecoveryError,
    RestoreFailed,
    SourceFailed,
    Unreachable,
)
from recovery.ports.postgres import PointReader, PostgresLogin, PostgresPlace, Progress, RestoreOptions

START_SECONDS = 3600.0
DATABASE_GROWTH = 1.3  # room for a logical restore: the source's size, and WAL

Outcome = tuple[VerdictState, str, list[CheckResult]]


class OwnTrouble(Permanent):
    """This machine cannot validate the point: the point itself may be good."""


async def validate_point(
    host: LocalPostgresHost,
    reader: PointReader,
    scratch_folder: Path,
    critical_tables: Sequence[str] = (),
    progress: Progress | None = None,
) -> Outcome:
    """Verdict, its reason in a sentence, and all checks that were made.

    ``CORRUPT``: bytes differ from what was backed up. ``RESTORE_FAILED``: the server does not start on them, or a check
    failed. ``FAILED``: this machine or the location kept us from finding out. The scratch server is removed in every
    case, on cancellation, too.
    """
    checks: list[CheckResult] = []
    try:
        async with scratch_space(host, scratch_folder) as space:
            validation = _Validation(host, reader, space, critical_tables, progress, checks)
            await validation.run()
    except Corrupt as error:
        return VerdictState.CORRUPT, str(error), checks
    except (RestoreFailed, SourceFailed) as error:
        return VerdictState.RESTORE_FAILED, str(error), checks
    except RecoveryError as error:
        return VerdictState.FAILED, str(error), checks
    except OSError as error:
        return VerdictState.FAILED, f"the scratch server could not be set up in {scratch_folder}: {error}", checks
    failed = [check for check in checks if not check.passed]
    if failed:
        reason = "; ".join(f"check {check.name}: {check.detail}" for check in failed)
        return VerdictState.RESTORE_FAILED, reason, checks
    unavailable = [check.name for check in checks if check.detail.startswith(NOT_AVAILABLE)]
    made = f"restored, and all {len(checks) - len(unavailable)} checks passed"
    reason = made + (f"; not available: {', '.join(unavailable)}" if unavailable else "")
    return VerdictState.VALID, "; ".join([reason, *(check.warning for check in checks if check.warning)]), checks


async def verify_restored(
    manifest: Manifest,
    login: PostgresLogin,
    critical_tables: Sequence[str] = (),
    *,
    database: str | None = None,
    everything: bool = False,
) -> list[CheckResult]:
    """The checks on a server that was restored for good, before applications are let in.

    ``database``: name under which the point's only database was restored. ``everything`` reads all tables instead of
    the critical ones: that takes as long as a validation.

    Raises:
        Unreachable, Refused, RestoreFailed: a database cannot be opened.
    """
    names = {name: name for name in manifest.postgres.databases}
    if database is not None:
        names = {name: database for name in names if name == database or len(names) == 1}
    scope = Scope(
        checksum=recorded_checksum(manifest),
        only=None if everything else lambda table: any(matches(table.key, name) for name in critical_tables),
        large_objects=list(names) if everything else (),
    )
    return judge(manifest, await observe(login, names, scope), critical_tables)


def recorded_checksum(manifest: Manifest) -> Checksum:
    """How the point's tables were summed: by their text in dumps, and in base backups that were taken before 0.2."""
    by_values = any(entry.hashes is not None for entry in manifest.postgres.tables)
    return Checksum.VALUES if by_values else Checksum.TEXT


class _Validation:
    def __init__(
        self,
        host: LocalPostgresHost,
        reader: PointReader,
        space: ScratchSpace,
        critical_tables: Sequence[str],
        progress: Progress | None,
        checks: list[CheckResult],
    ) -> None:
        self._host = host
        self._reader = reader
        self._manifest = reader.manifest
        self._space = space
        self._critical_tables = critical_tables
        self._progress = progress
        self._checks = checks
        self._superuser = reader.manifest.postgres.superuser or "postgres"

    async def run(self) -> None:
        physical = self._manifest.kind is BackupKind.PHYSICAL
        async with AsyncExitStack() as stack:
            await (self._restore_physical(stack) if physical else self._restore_logical(stack))
            await self._read_the_rest()
            source = self._manifest.postgres
            scope = Scope(
                checksum=recorded_checksum(self._manifest),
                catalogue=physical,
                indexes=physical,
                large_objects=source.databases,
            )
            names = {name: name for name in source.databases}
            try:
                seen = await observe(self._space.login(self._superuser), names, scope)
            except Unreachable as error:
                words = await tail(self._space.folder / "log")
                raise RestoreFailed(f"the restored server went away while it was read: {words or error}") from error
            self._checks += judge(self._manifest, seen, self._critical_tables)

    @asynccontextmanager
    async def _step(self, name: str, detail: str) -> AsyncIterator[None]:
        began = time.monotonic()
        try:
            yield
        except RecoveryError as error:
            self._add(name, False, str(error), began)
            raise
        self._add(name, True, detail, began)

    def _add(self, name: str, passed: bool, detail: str, began: float) -> None:
        seconds = time.monotonic() - began
        self._checks.append(CheckResult(name=name, passed=passed, detail=detail, seconds=seconds))

    async def _restore_physical(self, stack: AsyncExitStack) -> None:
        space, major = self._space, self._manifest.postgres.major
        place = PostgresPlace("", PORT, space.data, space.user)
        source = self._manifest.postgres
        libraries = [name for name in source.preload_libraries if name not in ACTING_LIBRARIES]
        options = RestoreOptions(
            restore_id="validation", read_only=False, settings=space.settings(), durable=False, start=False
        )
        restore = PhysicalRestore(self._host, self._reader, place, options, self._progress, libraries=libraries)
        await restore.refuse_unsuitable()
        await asyncio.to_thread(space.data.mkdir, 0o700)
        async with self._step("read", f"{self._manifest.plain_bytes} bytes were read, checked and unpacked"):
            await restore.unpack()
        async with self._step("pg_verifybackup", "every file has its size and checksum, and the WAL is complete"):
            await restore.verify_files()
        async with self._step(
            "start", f"PostgreSQL {source.server_version} recovered to {source.stop_lsn} and started"
        ):
            await restore.configure()
            await stack.enter_async_context(running_server(self._host, space, major, timeout=START_SECONDS))

    async def _restore_logical(self, stack: AsyncExitStack) -> None:
        space, source = self._space, self._manifest.postgres
        await self._prepare_server(stack)
        login = space.login(self._superuser)
        async with self._step("restore", f"roles and {len(source.databases)} databases were restored"):
            for database in source.databases:
                options = RestoreOptions(restore_id=f"validation-{database}", read_only=False, durable=False)
                keeper = login.at("template1") if database == "postgres" else login
                await restore_logical(
                    self._host.binaries,
                    self._reader,
                    keeper,
                    options,
                    source_database=database,
                    progress=self._progress,
                )

    async def _prepare_server(self, stack: AsyncExitStack) -> None:
        space, source = self._space, self._manifest.postgres
        needed, free = int(source.cluster_bytes * DATABASE_GROWTH), await self._host.free_bytes(space.folder)
        if needed > free:
            raise NoSpace(
                f"{self._manifest.point_id} needs about {needed >> 20} MiB in {space.folder.parent}, and {free >> 20} "
                "MiB are free there: free some space or name a scratch folder on a larger disk"
            )
        try:
            await self._host.initialise(source.major, space.data, superuser=self._superuser, run_as=space.user)
            settings = {**space.settings(), "max_wal_senders": "0", "wal_level": "minimal"}
            await asyncio.to_thread(_append_settings, space.data / "postgresql.conf", settings)
            await stack.enter_async_context(running_server(self._host, space, source.major, timeout=60))
            await self._refuse_missing_extensions()
        except RestoreFailed as error:  # an empty server of our own says nothing about the point
            raise OwnTrouble(str(error)) from error

    async def _refuse_missing_extensions(self) -> None:
        login = self._space.login(self._superuser)
        async with connected(login, "list extensions", failure=RestoreFailed) as connection:
            rows = await connection.fetch("SELECT name::text AS name FROM pg_available_extensions")
        available = {row["name"] for row in rows}
        if missing := [name for name in self._manifest.postgres.extension_names if name not in available]:
            raise NotFound(
                f"PostgreSQL {self._manifest.postgres.major} on this machine lacks extensions of the point: "
                f"{', '.join(missing)}. Install their packages."
            )

    async def _read_the_rest(self) -> None:
        """Artefacts that the restore had no use for: no byte of a point may go unchecked."""
        if self._manifest.kind is BackupKind.PHYSICAL:
            used = {name for artefact in self._manifest.artefacts if is_restored(name := artefact.name)}
        else:
            used = {GLOBALS_NAME, *(dump_name(database) for database in self._manifest.postgres.databases)}
        for artefact in self._manifest.artefacts:
            if artefact.name not in used:
                async with closing(self._reader.stream(artefact.name)) as chunks:
                    async for _ in chunks:
                        pass


def _append_settings(path: Path, settings: dict[str, str]) -> None:
    with path.open("a") as file:
        for name, value in settings.items():
            escaped = value.replace("'", "''")
            file.write(f"{name} = '{escaped}'\n")
