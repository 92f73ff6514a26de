"""Connections to a NATS server and requests to its JetStream API.

The API's subjects and JSON are those of https://docs.nats.io/reference/reference-protocols/nats_api_reference. They are
asked for as they are: nats-py's own types drop fields of configurations that it does not know, and a stream that is
made again must have all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client

from recovery.adapters.nats.credentials import UserCredentials
from recovery.domain.addresses import address_of
from recovery.errors import Refused, Unreachable

PROBE_SUFFIX = "-probe"

NOT_FOUND = frozenset({10014, 10059, 10037})
"""Error codes of JetStream: no such consumer, stream, message."""


class ApiError(Exception):
    """JetStream's answer was an error, in its own words."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


@dataclass(frozen=True)
class NatsLogin:
    """Who may do everything in the group's account, fenced or not: ``user`` and ``password``, or ``credentials``.

    ``domain``: of JetStream, where it is not the one of the server that is connected to.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    server_name: str | None = None  # in the server's certificate, where it differs from the host
    credentials: UserCredentials | None = None
    domain: str | None = None

    def options(self) -> dict[str, Any]:
        """Who it is, as arguments of nats-py's ``connect``."""
        if self.credentials is not None:
            return self.credentials.options()
        return {"user": self.user, "password": self.password} if self.user else {}


@dataclass(frozen=True)
class NatsServer:
    host: str
    port: int
    login: NatsLogin = NatsLogin()

    def __str__(self) -> str:
        return address_of(self.host, self.port)

    @property
    def probe(self) -> NatsServer:
        """The same server, logged in as one to whom the fence applies: the same password, another name."""
        return replace(self, login=replace(self.login, user=f"{self.login.user or 'recovery'}{PROBE_SUFFIX}"))


class DomainClient(Client):
    """A connection that asks the JetStream of one domain. Without one: that of the server itself."""

    def __init__(self, domain: str | None) -> None:
        super().__init__()
        self.domain = domain


def api_prefix(client: Client) -> str:
    """Of JetStream's requests: a domain's are mapped to its servers' own."""
    domain = client.domain if isinstance(client, DomainClient) else None
    return f"$JS.{domain}.API" if domain else "$JS.API"


def cluster_of(client: Client) -> str | None:
    """The name of the cluster that the server belongs to, by its INFO; None: it stands alone.

    A server that joins others as a leaf node calls itself its own cluster (tried with 2.15.1).
    """
    said = client._server_info  # nats-py says it nowhere else
    name = said.get("cluster")
    if not name or (name == said.get("server_name") and not said.get("connect_urls")):
        return None
    return str(name)


LOST = (OSError, TimeoutError, nats.errors.Error)
"""What nats-py raises when a server is gone, silent, or does not let us in."""


@contextlib.asynccontextmanager
async def connected(
    server: NatsServer, on_error: Callable[[Exception], None] = lambda error: None
) -> AsyncIterator[Client]:
    """One connection that is never built again by itself; bounded by the caller's ``asyncio.timeout``.

    Raises what is in LOST.
    """
    login = server.login
    client = DomainClient(login.domain)

    async def heard(error: Exception) -> None:
        on_error(error)

    options = login.options()
    if login.tls is not None:
        options |= {"tls": login.tls, "tls_hostname": login.server_name or server.host}
    try:
        await client.connect(
            f"{'tls' if login.tls else 'nats'}://{server}",
            name="recovery-guard",
            error_cb=heard,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # 0 would be for ever
            reconnect_time_wait=0,  # else a refused connection costs two seconds
            connect_timeout=5,
            **options,
        )
        yield client
    finally:
        with contextlib.suppress(*LOST, asyncio.CancelledError):
            async with asyncio.timeout(0.2):
                await client.close()


async def api(client: Client, subject: str, body: dict[str, Any] | None = None, timeout: float = 2.0) -> dict[str, Any]:
    """One request to JetStream's API. Raises ApiError for its refusals, and what is in LOST."""
    message = await client.request(
        f"{api_prefix(client)}.{subject}", json.dumps(body).encode() if body else b"", timeout=timeout
    )
    answer: dict[str, Any] = json.loads(message.data)
    error = answer.get("error")
    if error:
        raise ApiError(int(error.get("err_code", 0)), str(error.get("description", error)))
    return answer


async def stream_info(client: Client, stream: str) -> dict[str, Any] | None:
    """Configuration and state; None where there is no such stream."""
    try:
        return await api(client, f"STREAM.INFO.{stream}")
    except ApiError as error:
        if error.code not in NOT_FOUND:
            raise
        return None


@contextlib.asynccontextmanager
async def asking(server: NatsServer, seconds: float, purpose: str) -> AsyncIterator[Client]:
    """As ``connected``, within ``seconds`` in all, with this library's errors.

    Raises:
        Unreachable: no answer in time.
        Refused: JetStream answered that it will not.
    """
    try:
        async with asyncio.timeout(seconds), connected(server) as client:
            yield client
    except ApiError as error:
        raise Refused(f"NATS {server} refused to {purpose}: {error}") from error
    except TimeoutError as error:
        raise Unreachable(f"NATS {server} did not answer within {seconds:g} s, asked to {purpose}.") from error
    except LOST as error:
        raise Unreachable(f"NATS {server} could not be asked to {purpose}: {error}") from error
