"""The archive's slot on a standby: nobody streams from it, and it must hold WAL all the same.

A physical slot survives the promotion of its standby. So the server that becomes the primary still has all WAL that the
archive lacks, if its slot followed what was archived and no more.
"""

from __future__ import annotations

from recovery.adapters.postgres.connection import connected
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.errors import Refused
from recovery.ports.postgres import PostgresLogin

_SLOT = """
SELECT slot_type, active, restart_lsn::text AS restart, wal_status,
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END)::text AS here
FROM pg_replication_slots WHERE slot_name = $1
"""


async def follow_archive(login: PostgresLogin, slot: str, archived: str) -> str:
    """Makes the slot when it is missing and moves it to ``archived`` (LSN), never beyond, never back.

    Call it on every standby after each report of the archiver, or every few seconds.

    Returns:
        The LSN from which on this server keeps WAL.

    Raises:
        Refused: somebody streams from the slot, or it is another kind of slot.
        Unreachable, SourceFailed: in the server's words.
    """
    async with connected(login, f"move the slot {slot}") as connection:
        row = await connection.fetchrow(_SLOT, slot)
        if row is not None and (row["slot_type"] != "physical" or row["active"]):
            raise Refused(
                f"the slot {slot} at {login.address} is in use or no physical one: on a standby it belongs to the WAL "
                "archive alone. Stop what streams from it, or name another slot for the archive."
            )
        if row is not None and (row["restart"] is None or row["wal_status"] == "lost"):
            await connection.execute("SELECT pg_drop_replication_slot($1)", slot)
            row = None
        if row is None:
            await connection.execute("SELECT pg_create_physical_replication_slot($1, true)", slot)
            row = await connection.fetchrow(_SLOT, slot)
        if row is None or row["restart"] is None:
            raise Refused(f"the slot {slot} at {login.address} reserves no WAL: wal_level must be replica or logical")
        restart = lsn_order(row["restart"])
        target = min(lsn_order(archived), lsn_order(row["here"]))
        if target > restart:
            await connection.execute("SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)", slot, lsn_text(target))
        return lsn_text(max(restart, target))
