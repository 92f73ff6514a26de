"""Restores of PostgreSQL recovery points: physical ones into this host, logical ones into a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from recovery.adapters.key_ring import KeyRing
from recovery.adapters.logins import Logins
from recovery.adapters.postgres.canary import OWN_SCHEMA
from recovery.adapters.postgres.connection import connected
from recovery.adapters.wal_archives import PostgresWalArchives
from recovery.adapters.wal_recovery import WalRecovery, comparable, open_recovery
from recovery.backup.catalogue import Catalogue
from recovery.backup.chains import bases_in, open_chain
from recovery.backup.progress import noting
from recovery.backup.reader import check_key, open_point
from recovery.domain.chains import bytes_to_restore
from recovery.domain.group import GroupSnapshot, PostgresAt
from recovery.domain.plan import RestoredServer
from recovery.domain.recovery_point import BackupKind, CheckResult, RecoveryPoint, kind_of
from recovery.domain.words import size
from recovery.errors import BadInput, NotOurs, RecoveryError, RestoreFailed
from recovery.ports.postgres import PostgresLogin, PostgresPlace, PostgresRecovery, Restored, RestoreOptions
from recovery.ports.recovery_points import Progress, RestoreOrder

PROBE_TABLE = f"""
    {OWN_SCHEMA}
    CREATE TABLE IF NOT EXISTS recovery_plans.probe (run_id text PRIMARY KEY, at timestamptz NOT NULL);
"""
HOLDS_OBJECTS = """
    SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
                      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                                         AND d.objid = c.oid AND d.deptype = 'e'))
        OR EXISTS (SELECT FROM pg_largeobject_metadata)
"""
AVAILABLE = "SELECT name::text AS name FROM pg_available_extensions"
DATABASES = "SELECT datname::text AS name FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1"
HEADROOM = 1.1  # a restored cluster grows a little while it replays its WAL


@dataclass
class PostgresRestores:
    """``recovery.ports.recovery_points.Restores``."""

    catalogue: Callable[[GroupSnapshot], Catalogue]
    keys: KeyRing
    postgres: Callable[[str, str], PostgresRecovery]  # (group, region)
    logins: Logins
    here: Callable[[str, str], PostgresAt | None] | None = None
    """(group, region) -> where this worker reaches it: the run's snapshot may name another vantage point's address."""
    archives: PostgresWalArchives | None = None  # for recoveries that go on with archived WAL

    async def verify_infrastructure(self, order: RestoreOrder) -> list[CheckResult]:
        """See the port."""
        point = await self._point(order)
        checks = [
            CheckResult(name="recovery point", passed=True, detail=f"{point.point_id} at {', '.join(point.locations)}"),
            await self._checked("key", self._check_key(order, point)),
        ]
        if order.recovery is not None:
            checks.append(await self._checked("archived WAL", self._check_wal(order)))
        if point.manifest.kind is BackupKind.PHYSICAL:
            return checks + await self._check_host(order, point)
        return checks + await self._check_server(order, point)

    async def restore(self, order: RestoreOrder, progress: Progress) -> RestoredServer:
        """See the port."""
        point = await self._point(order)
        if point.manifest.kind is BackupKind.PHYSICAL:
            return await self._restore_physical(order, point, progress)
        return await self._restore_logical(order, point, progress)

    async def remove(self, order: RestoreOrder) -> bool:
        """See the port. The point need not be readable any more: its id and the configuration say what was made."""
        engine = self.postgres(order.group.name, order.region)
        if kind_of(order.point_id) is BackupKind.PHYSICAL:
            return await _if_ours(engine.remove_restored(self._place(order), order.restore_id))
        login = await self.logins.admin(order.group.name, order.region)
        names = [order.target_database] if order.target_database else order.group.logical_databases
        names = names or (await self._point(order)).manifest.postgres.databases
        removed = [await _if_ours(engine.remove_restored_database(login, name, order.restore_id)) for name in names]
        return any(removed)

    async def verify(self, group: GroupSnapshot, restored: RestoredServer) -> list[CheckResult]:
        """See the port."""
        point = await self.catalogue(group).point(group.name, restored.point_id)
        renamed = restored.kind is BackupKind.LOGICAL and len(restored.databases) == 1
        login, manifest = await self._login(group, restored), point.manifest
        if restored.reached is not None:
            async with connected(login, "list its databases") as session:
                manifest = comparable(manifest, [row["name"] for row in await session.fetch(DATABASES)])
        return await self.postgres(group.name, restored.region).verify_restored(
            manifest,
            login,
            group.critical_tables,
            database=restored.database if renamed else None,
        )

    async def open_writes(self, group: GroupSnapshot, restored: RestoredServer) -> None:
        """See the port."""
        engine = self.postgres(group.name, restored.region)
        if restored.kind is BackupKind.PHYSICAL:
            await engine.set_read_only(_place_of(restored), False)
            return
        login = await self._login(group, restored)
        for database in restored.databases:
            await engine.set_database_read_only(login, database, False)

    async def accepts_writes(self, group: GroupSnapshot, restored: RestoredServer) -> bool:
        """See the port."""
        async with connected(await self._login(group, restored), "look whether it accepts writes") as session:
            return bool(await session.fetchval("SELECT NOT current_setting('transaction_read_only')::boolean"))

    async def write_probe(self, group: GroupSnapshot, restored: RestoredServer, run_id: str) -> datetime:
        """See the port. The row stays: it is evidence, one per run."""
        login = await self.logins.admin(group.name, restored.region)
        at = replace(login, host=restored.host, port=restored.port)
        async with connected(at, "write a probe row") as session:
            await session.execute(PROBE_TABLE)
            moment: datetime = await session.fetchval(
                "INSERT INTO recovery_plans.probe VALUES ($1, clock_timestamp())"
                " ON CONFLICT (run_id) DO UPDATE SET at = recovery_plans.probe.at RETURNING at",
                run_id,
            )
            return moment

    # Parts of the above.

    async def _point(self, order: RestoreOrder) -> RecoveryPoint:
        return await self.catalogue(order.group).point(order.group.name, order.point_id)

    def _at(self, order: RestoreOrder) -> PostgresAt:
        at = order.group.region(order.region).postgres
        if at is None:
            raise BadInput(
                f"region {order.region} of group {order.group.name} has no PostgreSQL: set "
                f"groups.{order.group.name}.regions.{order.region}.postgres in the configuration"
            )
        own = self.here(order.group.name, order.region) if self.here is not None else None
        return at.model_copy(update={"host": own.host, "port": own.port}) if own is not None else at

    def _place(self, order: RestoreOrder) -> PostgresPlace:
        at = self._at(order)
        directory = order.target_directory or at.data_directory
        if directory is None:
            raise BadInput(
                f"a physical recovery point needs a folder: set groups.{order.group.name}.regions.{order.region}."
                "postgres.data_directory, or name one with --target-directory"
            )
        return PostgresPlace(at.host, order.target_port or at.port, Path(directory), at.run_as)

    async def _check_key(self, order: RestoreOrder, point: RecoveryPoint) -> str:
        catalogue = self.catalogue(order.group)
        bases = await bases_in(catalogue, point)
        for member in [*bases, point]:
            await check_key(member.manifest, self.keys.opening(), catalogue.stores_of(member))
        return f"opens the recovery point{f' and the {len(bases)} that it builds on' if bases else ''}"

    async def _check_wal(self, order: RestoreOrder) -> str:
        """That the recovery's first segment is there, and opens."""
        recovery = await self._recovery(order)
        assert recovery is not None, "only asked where there is one"
        return f"{recovery.chosen.target}: {await recovery.first_segment()} opens"

    async def _check_host(self, order: RestoreOrder, point: RecoveryPoint) -> list[CheckResult]:
        host = self.postgres(order.group.name, order.region).host
        place = self._place(order)
        majors = await host.majors()
        wanted = point.manifest.postgres.major
        known = ", ".join(f"{major} ({version})" for major, version in sorted(majors.items())) or "none"
        free = await host.free_bytes(place.data_directory)
        try:
            chain = [*await bases_in(self.catalogue(order.group), point), point]
        except RecoveryError:
            chain = [point]  # the check of the key says what is wrong
        needed = int(bytes_to_restore([member.manifest for member in chain]) * HEADROOM)
        empty = await host.is_empty(place)
        extensions = await host.extensions(wanted) if wanted in majors else None
        return [
            _check_extensions(point, extensions, "on this machine"),
            CheckResult(
                name="server version",
                passed=wanted in majors,
                detail=f"PostgreSQL {wanted} is needed; installed here: {known}",
            ),
            CheckResult(
                name="disk space",
                passed=free >= needed,
                detail=f"{size(needed)} needed at {place.data_directory}, {size(free)} free",
            ),
            CheckResult(
                name="empty target",
                passed=empty,
                detail=f"{place.data_directory} and {place.host}:{place.port} are free"
                if empty
                else f"{place.data_directory} is not empty or {place.host}:{place.port} is in use: nothing is "
                "overwritten; name another target, or move what is there",
            ),
        ]

    async def _check_server(self, order: RestoreOrder, point: RecoveryPoint) -> list[CheckResult]:
        login = await self.logins.admin(order.group.name, order.region)
        wanted = point.manifest.postgres.major
        try:
            async with connected(login, "connect") as session:
                version = str(await session.fetchval("SHOW server_version"))
                major = session.get_server_version().major
                there = {row["name"] for row in await session.fetch("SELECT datname::text AS name FROM pg_database")}
                available = {row["name"] for row in await session.fetch(AVAILABLE)}
                folder = await session.fetchval("SELECT setting FROM pg_settings WHERE name = 'data_directory'")
            names = [order.target_database] if order.target_database else point.manifest.postgres.databases
            occupied = [name for name in names if name in there and await _is_occupied(login.at(name))]
        except RecoveryError as error:
            return [CheckResult(name="target server", passed=False, detail=str(error))]
        return [
            CheckResult(name="target server", passed=True, detail=f"{login.address} is PostgreSQL {version}"),
            _check_extensions(point, available, f"at {login.address}"),
            CheckResult(
                name="server version",
                passed=major >= wanted,
                detail=f"PostgreSQL {wanted} or later is needed; {login.address} is {version}",
            ),
            await self._check_room(order, point, login, folder),
            CheckResult(
                name="empty target",
                passed=not occupied,
                detail=f"{', '.join(names)} at {login.address}: free"
                if not occupied
                else f"database {', '.join(occupied)} at {login.address} is not empty: a restore overwrites nothing. "
                "Name another one with --target-database, or drop it yourself",
            ),
        ]

    async def _check_room(
        self, order: RestoreOrder, point: RecoveryPoint, login: PostgresLogin, folder: str | None
    ) -> CheckResult:
        """Where the server's disk is this machine's; of any other one nothing is known before it is full."""
        if folder is None or not await asyncio.to_thread(_serves_here, Path(folder), login.port):
            return CheckResult(
                name="disk space", passed=True, detail=f"not known: {login.address} has a disk of its own"
            )
        free = await self.postgres(order.group.name, order.region).host.free_bytes(Path(folder))
        needed = int(point.manifest.postgres.cluster_bytes * HEADROOM)
        enough = free >= needed
        advice = "" if enough else ": free some, or restore into a server with a larger disk"
        return CheckResult(
            name="disk space",
            passed=enough,
            detail=f"{size(needed)} needed at {folder}, {size(free)} free{advice}",
        )

    @staticmethod
    async def _checked(name: str, question: object) -> CheckResult:
        try:
            return CheckResult(name=name, passed=True, detail=str(await question))  # type: ignore[misc]
        except RecoveryError as error:
            return CheckResult(name=name, passed=False, detail=str(error))

    async def _restore_physical(self, order: RestoreOrder, point: RecoveryPoint, progress: Progress) -> RestoredServer:
        place = self._place(order)
        catalogue = self.catalogue(order.group)
        recovery = await self._recovery(order)
        restored = await self.postgres(order.group.name, order.region).restore_physical(
            await open_chain(catalogue, point, self.keys.opening()),
            place,
            RestoreOptions(
                restore_id=order.restore_id,
                recovery=recovery.options if recovery is not None else None,
                proven=point.is_valid,
            ),
            noting(progress, "restoring the cluster"),
        )
        if recovery is not None:
            await _demand_target(recovery, restored)
        return RestoredServer(
            region=order.region,
            host=place.host,
            port=place.port,
            database=self._at(order).database,
            kind=BackupKind.PHYSICAL,
            data_directory=str(place.data_directory),
            run_as=place.run_as,
            point_id=order.point_id,
            restored_bytes=restored.restored_bytes,
            last_commit_at=restored.last_commit_at or point.manifest.postgres.last_commit_at,
            read_only=True,
            reached=restored.reached,
        )

    async def _recovery(self, order: RestoreOrder) -> WalRecovery | None:
        if order.recovery is None:
            return None
        if self.archives is None:
            raise BadInput("this worker has no WAL archive to recover from")
        return await open_recovery(self.archives, order.group, order.recovery)

    async def _restore_logical(self, order: RestoreOrder, point: RecoveryPoint, progress: Progress) -> RestoredServer:
        login = await self.logins.admin(order.group.name, order.region)
        databases = point.manifest.postgres.databases
        if order.target_database is not None and len(databases) != 1:
            raise BadInput(
                f"recovery point {point.point_id} holds {', '.join(databases) or 'no database'}: one target name fits "
                "only one database; restore without a name"
            )
        catalogue, total = self.catalogue(order.group), 0
        for source in databases:
            restored = await self.postgres(order.group.name, order.region).restore_logical(
                open_point(catalogue.stores_of(point), point.manifest, self.keys.opening()),
                login,
                RestoreOptions(restore_id=order.restore_id),
                source_database=source,
                database=order.target_database,
                progress=noting(progress, f"restoring {source}"),
            )
            total += restored.restored_bytes
        return RestoredServer(
            region=order.region,
            host=login.host,
            port=login.port,
            database=order.target_database or databases[0],
            databases=[order.target_database] if order.target_database else databases,
            kind=BackupKind.LOGICAL,
            point_id=order.point_id,
            restored_bytes=total,
            last_commit_at=point.manifest.postgres.last_commit_at,
            read_only=True,
        )

    async def _login(self, group: GroupSnapshot, restored: RestoredServer) -> PostgresLogin:
        login = await self.logins.admin(group.name, restored.region)
        return replace(login, host=restored.host, port=restored.port, database=restored.database)


async def _demand_target(recovery: WalRecovery, restored: Restored) -> None:
    """Raises RestoreFailed where the recovery did not end at its target: nobody is let in there."""
    if restored.reached is None:
        raise RestoreFailed("the restored server went on with archived WAL and does not say where it ended")
    check = await recovery.check(restored.reached)
    if not check.passed:
        raise RestoreFailed(f"the recovery did not end at its target: {check.detail}")


def _check_extensions(point: RecoveryPoint, available: Collection[str] | None, where: str) -> CheckResult:
    """A cluster starts without the files of its extensions, and what needs one works as soon as they are installed: no
    reason to leave a service down. (From 18 on they may be in a folder that only its configuration names, too.) A dump
    is not taken without them.
    """
    source, starts = point.manifest.postgres, point.manifest.kind is BackupKind.PHYSICAL
    if available is None:
        return CheckResult(name="extensions", passed=True, detail=f"not known: which of them PostgreSQL has {where}")
    missing = [name for name in source.extension_names if name not in available]
    detail = f"all {len(source.extension_names)} that the point uses are installed {where}"
    if missing:
        detail = (
            f"PostgreSQL {source.major} {where} lacks {', '.join(missing)}: install the packages that carry them (on "
            f"Debian often named postgresql-{source.major}-{missing[0].replace('_', '-')})"
            f"{'; until then whatever needs them fails' if starts else ', or name another target'}"
        )
    warning = detail if missing and starts else ""
    return CheckResult(name="extensions", passed=starts or not missing, detail=detail, warning=warning)


def _serves_here(folder: Path, port: int) -> bool:
    """Whether the server of this folder on this machine is the one at that port."""
    try:
        return (folder / "postmaster.pid").read_text().splitlines()[3] == str(port)
    except (OSError, IndexError):
        return False


async def _is_occupied(login: PostgresLogin) -> bool:
    async with connected(login, "look into the database") as session:
        return bool(await session.fetchval(HOLDS_OBJECTS))


async def _if_ours(removal: Awaitable[bool]) -> bool:
    """What stands in the place of a restore that never came to it is somebody else's, and stays."""
    try:
        return await removal
    except NotOurs:
        return False


def _place_of(restored: RestoredServer) -> PostgresPlace:
    if restored.data_directory is None:
        raise BadInput("the restored server has no folder on this host")
    return PostgresPlace(restored.host, restored.port, Path(restored.data_directory), restored.run_as)
