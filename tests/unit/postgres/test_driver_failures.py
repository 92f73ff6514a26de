"""A driver that is confused by a dying server: a failure of the server's, never a mistake of ours."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from unittest.mock import AsyncMock, create_autospec

import asyncpg
import pytest

from recovery.adapters.postgres.connection import (
    DRIVER_FAILURES,
    close_connection,
    connected,
    open_connection,
    translated,
)
from recovery.adapters.postgres.replication_state import write_probe
from recovery.adapters.probes.postgres import PostgresProbe
from recovery.adapters.probes.reach import Limits
from recovery.domain.health import Part
from recovery.errors import Unreachable
from recovery.ports.postgres import PostgresLogin

TLS, CANCEL = 80877103, 80877102  # requests in the place of a protocol's version
CONFUSED = asyncpg.InternalClientError("got result for unknown protocol state 3")


@pytest.fixture
async def login(monkeypatch: pytest.MonkeyPatch) -> PostgresLogin:
    """A port that accepts, and a driver that does not understand what comes after."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    monkeypatch.setattr(asyncpg, "connect", AsyncMock(side_effect=CONFUSED))
    return PostgresLogin("127.0.0.1", server.sockets[0].getsockname()[1])


@pytest.mark.parametrize("part", list(Part))
async def test_a_look_that_confuses_the_driver_is_a_failed_look(login: PostgresLogin, part: Part) -> None:
    probe = PostgresProbe(login, "outside", Limits(answer=1.0, connect=1.0))
    (finding,) = await probe.look(part)
    assert not finding.passed
    assert finding.vital
    assert "unknown protocol state" in finding.detail
    await probe.close()


async def test_a_write_that_confuses_the_driver_was_not_acknowledged(login: PostgresLogin) -> None:
    found = await write_probe(login, vantage="outside", timeout=1.0)
    assert not found.written
    assert "unknown protocol state" in found.reason


@pytest.mark.parametrize("error", [CONFUSED, asyncpg.InterfaceError("connection is closed"), OSError("reset")])
def test_what_the_driver_raises_by_itself_is_worth_another_attempt(error: Exception, login: PostgresLogin) -> None:
    assert isinstance(error, DRIVER_FAILURES)
    with pytest.raises(Unreachable, match="could not look"), translated("look", login):
        raise error


async def test_a_cancelled_goodbye_ends_the_session_and_is_still_a_cancellation() -> None:
    """Otherwise whoever was cancelled while it said goodbye would go on as if nothing had been asked."""
    connection = create_autospec(asyncpg.Connection, instance=True)
    connection.close.side_effect = _hang
    goodbye = asyncio.create_task(close_connection(connection))
    await asyncio.sleep(0)
    goodbye.cancel()
    with pytest.raises(asyncio.CancelledError):
        await goodbye
    connection.terminate.assert_called_once()


async def _hang(timeout: float) -> None:
    await asyncio.Event().wait()


async def test_a_goodbye_that_the_driver_itself_cancelled_is_over() -> None:
    connection = create_autospec(asyncpg.Connection, instance=True)
    connection.close.side_effect = asyncio.CancelledError
    await close_connection(connection)
    connection.terminate.assert_called_once()


@pytest.mark.parametrize("error", [None, CONFUSED], ids=["cancelled", "failed"])
async def test_a_session_that_does_not_get_ready_is_ended(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Whoever asked for it never gets it, so nobody else could end it at the server."""
    asked = asyncio.Event()

    async def execute(query: str) -> str:
        asked.set()
        if error is not None:
            raise error
        return str(await asyncio.Event().wait())

    connection = create_autospec(asyncpg.Connection, instance=True)
    connection.execute.side_effect = execute
    monkeypatch.setattr(asyncpg, "connect", AsyncMock(return_value=connection))
    opening = asyncio.create_task(open_connection(PostgresLogin("127.0.0.1", 1), stable_text=True))
    await asked.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError if error is None else asyncpg.InternalClientError):
        await opening
    connection.terminate.assert_called_once()


async def _frozen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that lets clients in and then stands still, as after SIGSTOP: its kernel goes on taking connections."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", len(body) + 4) + body

    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            size, code = struct.unpack("!II", await reader.readexactly(8))
            await reader.readexactly(size - 8)
            if code == TLS:
                writer.write(b"N")
            elif code != CANCEL:
                let_in = message(b"R", struct.pack("!I", 0)) + message(b"S", b"server_version\x0018.4\x00")
                writer.write(let_in + message(b"K", struct.pack("!II", 1, 2)) + message(b"Z", b"I"))
                break


async def test_a_frozen_server_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver asks it to cancel the statement first, and earlier versions waited for that without end."""
    monkeypatch.setattr("recovery.adapters.postgres.connection.GOODBYE_SECONDS", 0.1)
    async with await asyncio.start_server(_frozen, "127.0.0.1", 0) as server:
        login = PostgresLogin("127.0.0.1", server.sockets[0].getsockname()[1])
        async with asyncio.timeout(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), connected(login, "look") as session:
                    await session.fetchrow("SELECT 1")
