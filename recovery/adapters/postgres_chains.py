"""What the next base backup of a group is incremental to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from recovery.adapters.postgres.canary import read_canaries
from recovery.adapters.postgres.connection import connected
from recovery.backup.catalogue import Catalogue
from recovery.backup.reader import open_point
from recovery.domain.chains import FIRST_MAJOR, POSTGRES_MANIFEST, bases_of, next_base, no_incrementals
from recovery.domain.group import GroupSnapshot
from recovery.domain.recovery_point import RecoveryPoint
from recovery.domain.words import size
from recovery.errors import RecoveryError, Refused
from recovery.ports.postgres import IncrementalBase, PostgresLogin

MANIFEST_BYTES = 256 << 20
"""About 1.5 million files. It is held in memory while it is uploaded."""

_SERVER = """
SELECT system.system_identifier::text AS system_identifier, current_setting('server_version') AS version,
       current_setting('server_version_num')::int / 10000 AS major,
       coalesce(current_setting('summarize_wal', true), 'off') AS summarize_wal,
       (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')) AS tablespaces,
       CASE WHEN pg_is_in_recovery() THEN checkpoint.timeline_id
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline
FROM pg_control_system() system, pg_control_checkpoint() checkpoint
"""


@dataclass
class PostgresChains:
    """Reads what the locations hold. No private key is needed."""

    catalogue: Callable[[GroupSnapshot], Catalogue]

    async def obstacle(self, login: PostgresLogin) -> str:
        """Why this server gives no incremental base backups; empty when it does. Raises as a login does."""
        return _obstacle(login, await _server(login))

    async def base_for(self, group: GroupSnapshot, login: PostgresLogin) -> tuple[IncrementalBase | None, str]:
        """What a base backup that this server streams builds on; else why it is a full one.

        Raises:
            Unreachable, Refused, SourceFailed: the server does not answer, or refuses in its own words.
        """
        server = await _server(login)
        if obstacle := _obstacle(login, server):
            return None, obstacle
        catalogue = self.catalogue(group)
        try:
            point, reason = next_base(
                await catalogue.points(group.name),
                system_identifier=server["system_identifier"],
                timeline=server["timeline"],
                incrementals=group.base_backup.incrementals,
                locations=group.locations,
                canaries=await _canaries(login),
            )
            if point is None:
                return None, reason
            return IncrementalBase((*bases_of(point), point.point_id), await _manifest(catalogue, point)), ""
        except RecoveryError as error:
            return None, str(error)


async def _server(login: PostgresLogin) -> asyncpg.Record:
    async with connected(login, "look at its base backups") as session:
        row = await session.fetchrow(_SERVER)
    assert row is not None
    return row


async def _canaries(login: PostgresLogin) -> set[str]:
    async with connected(login, "read the canaries of its base backups") as session:
        return await read_canaries(session)


def _obstacle(login: PostgresLogin, server: asyncpg.Record) -> str:
    if server["major"] < FIRST_MAJOR:
        return no_incrementals(login.address, server["version"])
    if server["summarize_wal"] != "on":
        return f"summarize_wal is off at {login.address}: ALTER SYSTEM SET summarize_wal = on; SELECT pg_reload_conf()"
    if server["tablespaces"]:
        return f"the cluster at {login.address} has tablespaces, which are backed up as a whole only"
    return ""


async def _manifest(catalogue: Catalogue, point: RecoveryPoint) -> bytes:
    """PostgreSQL's own. Raises Corrupt, Unreachable."""
    needed = point.manifest.artefact(POSTGRES_MANIFEST).plain_size
    if needed > MANIFEST_BYTES:
        raise Refused(f"PostgreSQL's manifest of {point.point_id} has {size(needed)}: too many files")
    reader = open_point(catalogue.stores_of(point), point.manifest, None)
    return b"".join([chunk async for chunk in reader.stream(POSTGRES_MANIFEST)])
