"""What tests ask PostgreSQL, and folders that are copied as they are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import asyncpg


async def execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def value_of(dsn: str, sql: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def at_the_source(dsn: str) -> list[str]:
    """What a backup or restore may have left in a running server."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            """
            SELECT 'slot ' || slot_name AS what FROM pg_replication_slots
            UNION ALL SELECT 'session ' || application_name || ' ' || left(query, 60) FROM pg_stat_activity
                       WHERE application_name LIKE 'recovery-plans%'
            UNION ALL SELECT 'database ' || d.datname FROM pg_database d
                       WHERE shobj_description(d.oid, 'pg_database') LIKE 'recovery-plans restore % incomplete'
            UNION ALL SELECT 'backup in progress' FROM pg_stat_progress_basebackup
            """
        )
        return [row["what"] for row in rows]
    finally:
        await connection.close()


def copy_folder(source: Path, target: Path) -> None:
    """With owners and modes."""
    subprocess.run(["cp", "-a", f"{source}/.", _made(target, source)], check=True)


def _made(target: Path, like: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    state = like.stat()
    os.chown(target, state.st_uid, state.st_gid)
    target.chmod(state.st_mode & 0o777)
    return target
