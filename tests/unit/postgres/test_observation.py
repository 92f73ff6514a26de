"""A server that is ended while it is read proves nothing about its tables."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from recovery.adapters.postgres import observation
from recovery.adapters.postgres.connection import translated
from recovery.adapters.postgres.fingerprint import Checksum, Content, Table
from recovery.adapters.postgres.observation import Observation
from recovery.errors import Unreachable
from recovery.ports.postgres import PostgresLogin

LOGIN = PostgresLogin("127.0.0.1", 5432)
ENDED = [
    asyncpg.AdminShutdownError("terminating connection due to administrator command"),
    asyncpg.CrashShutdownError("terminating connection because of crash of another server process"),
    asyncpg.CannotConnectNowError("the database system is shutting down"),
    asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
]


class Session:
    """Its one index is looked at with ``error``."""

    error: Exception

    async def fetchval(self, statement: str) -> bool:
        return True

    async def fetch(self, statement: str) -> list[dict[str, Any]]:
        return [{"oid": 1, "schema": "public", "name": "orders_pkey", "sorted": []}]

    async def execute(self, statement: str) -> None:
        if "bt_index_check" in statement:
            raise self.error


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    session = Session()

    @asynccontextmanager
    async def connected(login: PostgresLogin, what: str, **options: Any) -> AsyncIterator[Session]:
        with translated(what, login, options["failure"]):
            yield session

    monkeypatch.setattr(observation, "connected", connected)
    return session


def tables() -> list[Table]:
    return [
        Table(
            oid=size, database="shop", schema="public", name=name, kind="r", persistence="p", bytes=size, filenode=0,
            changes=0, populated=True, of_extension=False, hashed=[], worded=[],
        )
        for name, size in (("first", 2), ("last", 1))
    ]  # fmt: skip


@pytest.mark.parametrize("error", ENDED)
async def test_a_server_that_is_ended_at_the_last_table_is_unreachable(
    error: Exception, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_content(connection: Session, table: Table, checksum: Checksum) -> Content:
        if table.name == "last":
            raise error
        return Content(rows=1, checksum=None)

    monkeypatch.setattr(observation, "read_content", read_content)
    seen = Observation()
    with pytest.raises(Unreachable, match="could not read tables at 127"):
        await observation._read_all(LOGIN, tables(), Checksum.TEXT, seen)
    assert seen.unreadable == {}


@pytest.mark.parametrize("error", ENDED)
async def test_a_server_that_is_ended_while_its_indexes_are_checked_is_unreachable(
    error: Exception, session: Session
) -> None:
    session.error, seen = error, Observation()
    with pytest.raises(Unreachable, match="could not check indexes"):
        await observation._check_indexes(LOGIN, "shop", seen)
    assert seen.broken_indexes == {}


async def test_a_damaged_table_is_still_one_that_cannot_be_read(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_content(connection: Session, table: Table, checksum: Checksum) -> Content:
        raise asyncpg.DataCorruptedError("invalid page in block 7")

    monkeypatch.setattr(observation, "read_content", read_content)
    seen = Observation()
    assert await observation._read_all(LOGIN, tables(), Checksum.TEXT, seen) == {}
    assert set(seen.unreadable) == {"shop.public.first", "shop.public.last"}
