"""Logging in, and turning what the drivers raise into errors that say what to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import asyncpg

from recovery.errors import Permanent, RecoveryError, Refused, SourceFailed, Unreachable
from recovery.ports.postgres import PostgresLogin

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

CONNECT_SECONDS = 10.0
GOODBYE_SECONDS = 2.0

# A row's text, and so its checksum, must be the same in every session of every server.
STABLE_TEXT = """
    SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET extra_float_digits = 1;
    SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET search_path = pg_catalog; SET row_security = off;
    SET xmloption = 'content'; SET quote_all_identifiers = off;
    SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN
        ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout', 'idle_session_timeout');
"""

PASSING = (
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.ConnectionFailureError,
)
"""Server states and losses that another attempt may mend: shutting down or starting up, crashed, too many clients. They
say nothing of what was being read."""

DRIVER_FAILURES: tuple[type[Exception], ...] = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What the driver raises by itself when a server or its network goes away. InternalClientError, no subclass of the
others, is its confusion over a connection that died at a bad moment."""
CONNECTION_FAILURES: tuple[type[Exception], ...] = (*DRIVER_FAILURES, asyncpg.PostgresError)
"""The same, and what the server itself says."""


def words_of(error: BaseException) -> str:
    """The server's own words: its message and detail, on one line."""
    if isinstance(error, asyncpg.PostgresError):
        fields: dict[str, Any] = error.as_dict()
        parts = [str(fields.get("message", error)), str(fields.get("detail", ""))]
        return " ".join(part for part in parts if part).strip()
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def translated(what: str, login: PostgresLogin, failure: type[Permanent] = SourceFailed) -> Iterator[None]:
    """Raises this library's errors instead of the driver's. ``what`` completes "could not ..."."""
    try:
        yield
    except RecoveryError:
        raise
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidPasswordError) as error:
        raise Refused(
            f"PostgreSQL at {login.address} did not let user {login.user} in: {words_of(error)}. "
            "Check the user, its password and pg_hba.conf."
        ) from error
    except PASSING as error:
        raise Unreachable(f"could not {what} at {login.address}: {words_of(error)}") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise Refused(
            f"PostgreSQL at {login.address} does not allow user {login.user} to {what}: {words_of(error)}"
        ) from error
    except asyncpg.PostgresError as error:
        raise failure(f"could not {what} at {login.address}: {words_of(error)}") from error
    except DRIVER_FAILURES as error:
        raise Unreachable(
            f"could not {what}: PostgreSQL at {login.address} did not answer: {words_of(error)}"
        ) from error


async def open_connection(
    login: PostgresLogin, *, stable_text: bool = False, timeout: float = CONNECT_SECONDS
) -> Connection:
    """Raises what the driver raises: call it within ``translated``."""
    query: dict[str, str] = {"sslmode": login.sslmode}
    if login.sslrootcert:
        query["sslrootcert"] = login.sslrootcert
    connection: Connection = await asyncpg.connect(
        dsn=f"postgresql://?{urlencode(query)}",
        host=login.host,
        port=login.port,
        user=login.user,
        database=login.database,
        password=login.password if login.password is not None else "",
        timeout=timeout,
        statement_cache_size=0,  # a pooler between us and the server may hand every statement to another session
        server_settings={"application_name": "recovery-plans"},
    )
    if stable_text:
        try:
            await connection.execute(STABLE_TEXT)
        except BaseException:  # nobody else knows of it yet: it would live until the garbage collector comes by
            connection.terminate()
            raise
    return connection


async def close_connection(connection: Connection) -> None:
    """Ends the session within two seconds, politely if the server still listens."""
    try:
        await connection.close(timeout=GOODBYE_SECONDS)
    except asyncio.CancelledError:
        connection.terminate()
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # else it was the driver's own, of a statement that died with it
            raise
    except CONNECTION_FAILURES:
        connection.terminate()


@contextlib.asynccontextmanager
async def connected(
    login: PostgresLogin, what: str, *, failure: type[Permanent] = SourceFailed, stable_text: bool = False
) -> AsyncIterator[Connection]:
    """A session for ``what``; every driver's error inside becomes one of this library's."""
    with translated(what, login, failure):
        connection = await open_connection(login, stable_text=stable_text)
        try:
            yield connection
        finally:
            await close_connection(connection)


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string, also where standard_conforming_strings is off."""
    escaped = text.replace("'", "''")
    return " E'" + escaped.replace("\\", "\\\\") + "'" if "\\" in text else "'" + escaped + "'"
