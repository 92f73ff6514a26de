"""Putting one database of a logical recovery point into a running server, under the same or another name."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from psycopg.conninfo import make_conninfo

from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.connection import (
    DRIVER_FAILURES,
    Connection,
    close_connection,
    connected,
    literal,
    open_connection,
    quoted,
)
from recovery.adapters.postgres.globals import LARGEST_BYTES, apply_globals
from recovery.adapters.postgres.logical import GLOBALS_NAME, dump_name
from recovery.adapters.process import Child, clean_environment, closing, password_file
from recovery.backup.bounded import to_the_end
from recovery.domain.recovery_point import BackupKind, DatabaseProperties
from recovery.errors import BadInput, Contended, Corrupt, NoSpace, NotOurs, Refused, RestoreFailed
from recovery.ports.postgres import PointReader, PostgresLogin, Progress, RestoredDatabase, RestoreOptions

_MARK = re.compile(r"recovery-plans restore (\S+) (incomplete|complete)\b")
_DROP_SECONDS = 60.0
_LIST_SETTINGS = {
    "search_path",
    "temp_tablespaces",
    "local_preload_libraries",
    "session_preload_libraries",
}

_HOLDS_OBJECTS = """
    SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
                     AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                                     AND d.objid = c.oid AND d.deptype = 'e'))
        OR EXISTS (SELECT FROM pg_namespace WHERE oid >= 16384 AND nspname !~ '^pg_(toast|temp)')
        OR EXISTS (SELECT FROM pg_largeobject_metadata)
"""


@dataclass
class _Target:
    login: PostgresLogin  # to the restored database
    keeper: PostgresLogin  # to another database of the same server
    notes: list[str] = field(default_factory=list)
    done: int = 0

    @property
    def database(self) -> str:
        return self.login.database


async def restore_logical(
    binaries: PostgresBinaries,
    reader: PointReader,
    login: PostgresLogin,
    options: RestoreOptions,
    *,
    source_database: str,
    database: str | None = None,
    progress: Progress | None = None,
) -> RestoredDatabase:
    """Roles first, then the database, marked with ``options.restore_id`` in its comment.

    A repeated call with the same id starts over, or returns the finished work. On every failure, cancellation included,
    the database is dropped again; roles stay.

    Raises:
        Refused: the database exists and holds something, or the server is older than the source.
        Contended: another attempt of this restore is at work.
        Corrupt, WrongKey: from the reader.
        NoSpace: the server's disk became full.
        RestoreFailed: the server or pg_restore refused something, in their own words.
        Unreachable: the server does not answer.
    """
    target = _target(login, database or source_database)
    properties = _refuse_unsuitable(reader, source_database)
    async with connected(target.keeper, "prepare the restore", failure=RestoreFailed) as keeper:
        await keeper.execute("SET default_transaction_read_only = off")
        major = int(keeper.get_server_version().major)
        _refuse_older(reader, login, major)
        if not await keeper.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", options.restore_id):
            raise Contended(f"another attempt of restore {options.restore_id} is still at work at {login.address}")
        found = await _mark_of(keeper, target.database)
        if found == (options.restore_id, True):
            return RestoredDatabase(target.database, reader.manifest.plain_bytes)
        await _refuse_occupied(keeper, target, found, options.restore_id)
        globals_sql = await _read_globals(reader)
        applied = await apply_globals(keeper, globals_sql)
        if applied.skipped_tablespaces:
            target.notes.append(f"tablespaces are not recreated: {', '.join(applied.skipped_tablespaces)}")
        try:
            await _create(keeper, target, properties, options.restore_id)
            await _fill(binaries, reader, target, major, source_database, progress)
            await _finish(keeper, target, properties, options)
        except BaseException:
            await to_the_end(_drop_after_failure(target, options.restore_id))
            raise
    return RestoredDatabase(target.database, target.done, applied.skipped_roles, target.notes)


async def remove_restored_database(login: PostgresLogin, database: str, restore_id: str) -> bool:
    """Drops the database if its comment names this restore. False when it does not exist. Idempotent.

    Raises:
        Refused: the database is not the work of this restore.
    """
    target = _target(login, database)
    async with connected(target.keeper, "remove the restored database", failure=RestoreFailed) as keeper:
        if not await keeper.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database):
            return False
        found = await _mark_of(keeper, database)
        if found is None or found[0] != restore_id:
            raise NotOurs(f"database {database!r} is not the work of restore {restore_id}: it was not touched")
        await keeper.execute("SET default_transaction_read_only = off")
        await keeper.execute(f"DROP DATABASE IF EXISTS {quoted(database)} WITH (FORCE)")
        return True


async def set_database_read_only(login: PostgresLogin, database: str, read_only: bool) -> None:
    """Makes new sessions of the database read-only by default, or not: a courtesy to clients, never a fence."""
    async with connected(_target(login, database).keeper, "change the database", failure=RestoreFailed) as keeper:
        await keeper.execute("SET default_transaction_read_only = off")
        verb = "SET default_transaction_read_only = on" if read_only else "RESET default_transaction_read_only"
        await keeper.execute(f"ALTER DATABASE {quoted(database)} {verb}")


def _target(login: PostgresLogin, database: str) -> _Target:
    other = next(name for name in (login.database, "postgres", "template1") if name != database)
    return _Target(login.at(database), login.at(other))


def _refuse_unsuitable(reader: PointReader, database: str) -> DatabaseProperties:
    manifest = reader.manifest
    if manifest.kind is not BackupKind.LOGICAL:
        raise BadInput(f"{manifest.point_id} is a {manifest.kind} point: it is restored into a folder, not a database")
    names = {artefact.name for artefact in manifest.artefacts}
    properties = manifest.postgres.database_properties.get(database)
    if dump_name(database) not in names or properties is None:
        raise BadInput(
            f"{manifest.point_id} holds no database {database!r}: it has {', '.join(manifest.postgres.databases)}"
        )
    return properties


def _refuse_older(reader: PointReader, login: PostgresLogin, major: int) -> None:
    needed = reader.manifest.postgres.major
    if major < needed:
        raise Refused(
            f"{reader.manifest.point_id} is of PostgreSQL {needed}, and the server at {login.address} is PostgreSQL "
            f"{major}: restore into version {needed} or later"
        )


async def _mark_of(keeper: Connection, database: str) -> tuple[str, bool] | None:
    comment = await keeper.fetchval(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1", database
    )
    found = _MARK.match(comment or "")
    return (found[1], found[2] == "complete") if found else None


async def _refuse_occupied(
    keeper: Connection, target: _Target, found: tuple[str, bool] | None, restore_id: str
) -> None:
    name = target.database
    if not await keeper.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
        return
    if found is not None and found[0] == restore_id:  # our own interrupted work
        await keeper.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")
        return
    async with connected(target.login, "look into the database", failure=RestoreFailed) as inside:
        occupied = await inside.fetchval(_HOLDS_OBJECTS)
    if occupied:
        raise Refused(
            f"database {name!r} at {target.login.address} is not empty: a restore overwrites nothing. Drop it yourself "
            "or name another database."
        )


async def _read_globals(reader: PointReader) -> str:
    text = bytearray()
    async for chunk in reader.stream(GLOBALS_NAME):
        text += chunk
        if len(text) > LARGEST_BYTES:
            raise Corrupt(f"{GLOBALS_NAME} is larger than {LARGEST_BYTES >> 20} MiB: roles never are")
    return text.decode()


async def _create(keeper: Connection, target: _Target, properties: DatabaseProperties, restore_id: str) -> None:
    name = quoted(target.database)
    if not await keeper.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", target.database):
        options = [
            "TEMPLATE template0",
            f"OWNER {quoted(properties.owner)}",
            f"ENCODING {literal(properties.encoding)}",
            f"LC_COLLATE {literal(properties.collate)}",
            f"LC_CTYPE {literal(properties.ctype)}",
        ]
        if properties.provider == "i" and properties.locale:
            options += ["LOCALE_PROVIDER icu", f"ICU_LOCALE {literal(properties.locale)}"]
        elif properties.provider == "b" and properties.locale:
            options += ["LOCALE_PROVIDER builtin", f"BUILTIN_LOCALE {literal(properties.locale)}"]
        await keeper.execute(f"CREATE DATABASE {name} {' '.join(options)}")
    await _mark(keeper, target.database, restore_id, "incomplete")


async def _mark(keeper: Connection, database: str, restore_id: str, state: str) -> None:
    await keeper.execute(
        f"COMMENT ON DATABASE {quoted(database)} IS {literal(f'recovery-plans restore {restore_id} {state}')}"
    )


async def _fill(
    binaries: PostgresBinaries,
    reader: PointReader,
    target: _Target,
    major: int,
    source_database: str,
    progress: Progress | None,
) -> None:
    login = target.login
    where = make_conninfo(host=login.host, port=login.port, user=login.user, dbname=login.database)
    arguments: list[str | Path] = [
        await _tool(binaries, major),
        "--exit-on-error",
        "--no-password",
        "--no-tablespaces",
        f"--dbname={where}",
    ]
    with password_file(login) as (extra, descriptors):
        environment = clean_environment(login) | extra | {"PGOPTIONS": "-c default_transaction_read_only=off"}
        async with Child(arguments, environment=environment, descriptors=descriptors, stdin=True) as child:
            whole = await child.feed(_counted(reader, dump_name(source_database), target, progress))
            code = await child.wait()
            if code != 0 or not whole:
                raise _failure(child.stderr, code, login)


async def _tool(binaries: PostgresBinaries, major: int) -> Path:
    newer = [known for known in await binaries.versions() if known >= major]
    return await binaries.tool(min(newer, default=major), "pg_restore")


async def _counted(
    reader: PointReader, artefact: str, target: _Target, progress: Progress | None
) -> AsyncIterator[bytes]:
    async with closing(reader.stream(artefact)) as chunks:
        async for chunk in chunks:
            yield chunk
            target.done += len(chunk)
            if progress is not None:
                progress(target.done, reader.manifest.plain_bytes)


def _failure(stderr: str, code: int, login: PostgresLogin) -> RestoreFailed | NoSpace:
    # Only the errors themselves: details, contexts and commands may hold rows of the database.
    lines = [line for line in stderr.splitlines() if "error:" in line or "ERROR:" in line]
    words = "; ".join(lines[:3])[:600] or f"pg_restore ended with code {code}"
    if "No space left on device" in words:
        return NoSpace(
            f"the disk of the server at {login.address} became full; the database was dropped again: {words}"
        )
    return RestoreFailed(f"pg_restore into {login.database} at {login.address} failed: {words}")


async def _finish(keeper: Connection, target: _Target, properties: DatabaseProperties, options: RestoreOptions) -> None:
    name = quoted(target.database)
    for setting in properties.settings:
        key, _, value = setting.partition("=")
        await keeper.execute(
            f"ALTER DATABASE {name} SET {quoted(key) if '.' not in key else key} TO "
            f"{(value or literal('')) if key in _LIST_SETTINGS else literal(value)}"
        )
    await _grant(keeper, target, properties.privileges)
    if options.durable:
        async with connected(target.login, "analyse the tables", failure=RestoreFailed) as inside:
            await inside.execute("SET default_transaction_read_only = off")
            await inside.execute("ANALYZE")
    if options.read_only:
        await keeper.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await _mark(keeper, target.database, options.restore_id, "complete")


async def _grant(keeper: Connection, target: _Target, privileges: list[str]) -> None:
    if not privileges:
        return
    name = quoted(target.database)
    rows = await keeper.fetch(
        """
        SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee)::text END AS role,
               a.privilege_type AS what, a.is_grantable AS grantable
        FROM unnest($1::text[]) AS item, LATERAL aclexplode(ARRAY[item::aclitem]) a
        """,
        privileges,
    )
    await keeper.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    for row in rows:
        whom = "PUBLIC" if row["role"] is None else quoted(row["role"])
        option = " WITH GRANT OPTION" if row["grantable"] else ""
        await keeper.execute(f"GRANT {row['what']} ON DATABASE {name} TO {whom}{option}")


async def _drop_after_failure(target: _Target, restore_id: str) -> None:
    """With a session of its own: the keeper's may have died with what failed. The first failure is what is reported.

    Bounded: what cannot be dropped now is found by its comment at the next attempt.
    """
    with contextlib.suppress(TimeoutError, asyncpg.PostgresError, *DRIVER_FAILURES):
        async with asyncio.timeout(_DROP_SECONDS):
            await _drop(target, restore_id)


async def _drop(target: _Target, restore_id: str) -> None:
    session = await open_connection(target.keeper)
    try:
        found = await _mark_of(session, target.database)
        if found is not None and found[0] == restore_id:
            await session.execute("SET default_transaction_read_only = off")
            await session.execute(f"DROP DATABASE IF EXISTS {quoted(target.database)} WITH (FORCE)")
    finally:
        await close_connection(session)
