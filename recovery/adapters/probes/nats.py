"""NATS: the server answers, its JetStream has a leader, and the group's streams are there."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nats.aio.client import Client
from nats.errors import AuthorizationError
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import StreamInfo

from recovery.adapters.nats.credentials import UserCredentials
from recovery.adapters.probes.kept import GIVEN_UP_AFTER, KeptSession
from recovery.adapters.probes.reach import Limits, framed, reach
from recovery.domain.addresses import address_of
from recovery.domain.health import Finding, Part

CHECK = "nats"


@dataclass(frozen=True)
class NatsLogin:
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    credentials: UserCredentials | None = None
    tls: ssl.SSLContext | None = None
    domain: str | None = None
    server_name: str | None = None  # in the server's certificate, where it differs from the host

    @contextlib.asynccontextmanager
    async def connected(self, seconds: float) -> AsyncIterator[Client]:
        """One connection, without reconnecting. Raises what the driver raises."""
        client = await self.connect(seconds)
        try:
            yield client
        finally:
            await drop(client)

    async def connect(self, seconds: float) -> Client:
        """As ``connected``; whoever calls it ends it with ``drop``."""
        options: dict[str, Any] = {}
        if self.tls is not None:
            options |= {"tls": self.tls, "tls_hostname": self.server_name or self.host}
        if self.credentials is not None:
            options |= self.credentials.options()
        elif self.user is not None:
            options |= {"user": self.user, "password": self.password or ""}
        client = Client()
        try:
            await client.connect(
                f"{'tls' if self.tls else 'nats'}://{address_of(self.host, self.port)}",
                name="recovery-plans",
                connect_timeout=max(int(seconds), 1),
                allow_reconnect=False,
                max_reconnect_attempts=0,
                error_cb=_heard,
                **options,
            )
        except ConnectionError as error:
            if self.tls is None or not client._server_info.get("tls_verify"):  # nats-py says it nowhere else
                raise
            # With TLS 1.3 a server says so after the handshake, and nats-py, which writes first, does not hear it.
            raise ssl.SSLError(1, "the server demands a certificate, and took none from us") from error
        return client


async def drop(client: Client) -> None:
    """Ends a connection within a second."""
    with contextlib.suppress(NatsError, OSError, TimeoutError):
        async with asyncio.timeout(1):
            await client.close()


async def _heard(error: Exception) -> None:
    """The driver would print to standard error what the call raises anyway."""


class NatsProbe:
    """The owner's streams accept messages; elsewhere mirrors follow, which is shown and not vital.

    Args:
        streams: their names; None: all of the account.
    """

    def __init__(self, login: NatsLogin, streams: Sequence[str] | None, limits: Limits) -> None:
        self._login, self._streams, self._limits = login, streams, limits
        self._session = KeptSession(self._open, self._ask, drop, limits.answer)

    async def look(self, part: Part) -> list[Finding]:
        """See ``recovery.ports.health.StoreProbe``."""

        async def ask() -> Finding:
            await reach(self._login.host, self._login.port, self._limits)
            try:
                return await self._session.answer(part)
            except NatsError as error:
                if not isinstance(error, AuthorizationError) and "authorization" not in str(error).lower():
                    raise
                # It answers, and our login is wrong.
                return Finding(check=CHECK, passed=False, vital=False, detail=f"{error} (check groups.<name>.nats)")

        found = await framed(CHECK, self._limits.answer, ask, (NatsError,), tls="groups.<name>.nats.tls")
        return [found.model_copy(update={"vital": found.vital and part is Part.OWNER})]

    async def close(self) -> None:
        await self._session.close()

    async def _open(self) -> Client:
        return await self._login.connect(self._limits.answer * GIVEN_UP_AFTER)

    async def _ask(self, client: Client, part: Part) -> Finding:
        """All questions at once: JetStream's leader answers them, or nobody does."""
        stream_api = client.jetstream(timeout=self._limits.answer * GIVEN_UP_AFTER, domain=self._login.domain)
        account, infos = await asyncio.gather(stream_api.account_info(), infos_of(stream_api, self._streams))
        if self._streams is None and len(infos) < account.streams:  # a list leaves out those without a leader
            words = f"{account.streams - len(infos)} of {account.streams} streams do not say how they are"
            return Finding(check=CHECK, passed=False, detail=words)
        return _judged(infos, part)


async def infos_of(stream_api: JetStreamContext, streams: Sequence[str] | None) -> list[StreamInfo]:
    """Of these streams, or (None) of all that the account has. Raises what the driver raises."""
    if streams is not None:
        return list(await asyncio.gather(*(stream_api.stream_info(name) for name in streams)))
    found: list[StreamInfo] = []
    total = (await stream_api.account_info()).streams
    while len(found) < total and (page := await stream_api.streams_info(offset=len(found))):
        found += page
    return found


def _judged(infos: list[StreamInfo], part: Part) -> Finding:
    leaderless = [info.config.name for info in infos if info.cluster is not None and not info.cluster.leader]
    if leaderless:
        return Finding(check=CHECK, passed=False, detail=f"no leader of stream {', '.join(map(str, leaderless))}")
    mirrors = [info for info in infos if info.mirror is not None]
    if part is Part.OWNER and mirrors:
        names = ", ".join(str(info.config.name) for info in mirrors)
        return Finding(check=CHECK, passed=False, detail=f"{names}: a mirror, which accepts no messages")
    lag = sum(info.mirror.lag or 0 for info in mirrors if info.mirror is not None)
    words = f"{len(infos)} streams" + (f", {len(mirrors)} of them mirrors, {lag} messages behind" if mirrors else "")
    return Finding(check=CHECK, passed=True, detail=words)
