"""Which standby a base backup is streamed from: one of the same cluster that has, soon enough, what the primary has.

How close it is, is measured by its replay alone: two servers' clocks need not agree, and an idle primary's standby is
not taken for one that lags.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import asyncpg

from recovery.adapters.postgres.connection import Connection, connected
from recovery.errors import RecoveryError, Refused
from recovery.ports.postgres import PostgresLogin

_POLL_SECONDS = 0.1

_SERVER = """
SELECT system.system_identifier::text AS system_identifier, pg_is_in_recovery() AS in_recovery,
       CASE WHEN pg_is_in_recovery() THEN checkpoint.timeline_id
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END::text AS position
FROM pg_control_system() system, pg_control_checkpoint() checkpoint
"""


@dataclass(frozen=True)
class ChosenStandby:
    """``login`` is None where no candidate will do. ``passed_over``: candidate -> why not, in the order of asking."""

    name: str | None = None
    login: PostgresLogin | None = None
    passed_over: dict[str, str] = field(default_factory=dict)


async def choose_standby(
    primary: PostgresLogin, candidates: Mapping[str, PostgresLogin], seconds: float
) -> ChosenStandby:
    """The first candidate that replays within ``seconds`` what the primary has now.

    Raises:
        Unreachable, Refused, SourceFailed: the primary does not answer, or refuses in its own words.
    """
    async with connected(primary, "read its position") as session:
        there = await session.fetchrow(_SERVER)
    assert there is not None
    passed_over: dict[str, str] = {}
    if there["in_recovery"]:
        return ChosenStandby(passed_over=dict.fromkeys(candidates, f"{primary.address} is a standby itself"))
    for name, login in candidates.items():
        try:
            reason = await _unfit(login, there, seconds)
        except RecoveryError as error:
            reason = str(error)
        if not reason:
            return ChosenStandby(name, login, passed_over)
        passed_over[name] = reason
    return ChosenStandby(passed_over=passed_over)


async def _unfit(login: PostgresLogin, primary: asyncpg.Record, seconds: float) -> str:
    """Why no backup is to be streamed from there; empty when nothing speaks against it."""
    async with connected(login, "look at the standby") as session:
        row = await session.fetchrow(_SERVER)
        assert row is not None
        if not row["in_recovery"]:
            return f"{login.address} is no standby"
        if row["system_identifier"] != primary["system_identifier"]:
            return f"{login.address} is of another cluster ({row['system_identifier']})"
        if row["timeline"] != primary["timeline"]:
            return (
                f"{login.address} restarts from timeline {row['timeline']}, and the primary is on timeline "
                f"{primary['timeline']}: it changes with its next checkpoint"
            )
        if not await wait_replayed(session, primary["position"], seconds):
            return f"{login.address} did not replay {primary['position']} within {seconds:g} s"
    return ""


async def await_standby(login: PostgresLogin, system_identifier: str, position: str, seconds: float) -> bool:
    """Whether the standby replays ``position`` within ``seconds``. Raises Refused: it is of another cluster."""
    async with connected(login, "wait for its replay") as session:
        row = await session.fetchrow(_SERVER)
        assert row is not None
        if row["system_identifier"] != system_identifier:
            raise Refused(
                f"the standby at {login.address} is of cluster {row['system_identifier']}, and the primary of "
                f"{system_identifier}: correct the address of one of them"
            )
        return bool(row["in_recovery"]) and await wait_replayed(session, position, seconds)


async def wait_replayed(session: Connection, position: str, seconds: float) -> bool:
    """Polls until the standby has replayed the LSN; asks at least once. Raises what the driver raises."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await session.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", position):
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True
