"""Redis: PING, role, and the link to its primary."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from recovery.adapters.probes.reach import Limits, framed, reach
from recovery.adapters.redis.connection import RedisServer, ServerSaid, connected, opened
from recovery.domain.health import Finding, Part

CHECK = "redis"
TLS = "groups.<name>.redis.tls"
LISTENED = 0.5  # seconds
_OURS = ("NOAUTH", "WRONGPASS", "NOPERM")
"""It answers, and our login is wrong: no reason to leave a region."""


class RedisProbe:
    """The owner's is a primary; any other one is a replica whose link is up, which is shown and not vital."""

    def __init__(self, server: RedisServer, limits: Limits) -> None:
        self._server, self._limits = server, limits

    async def look(self, part: Part) -> list[Finding]:
        """See ``recovery.ports.health.StoreProbe``."""

        async def ask() -> Finding:
            await reach(self._server.host, self._server.port, self._limits)
            try:
                return _judged(await self._told(), part)
            except ServerSaid as error:
                detail = f"{error} (check groups.<name>.redis)" if error.code in _OURS else str(error)
                return Finding(check=CHECK, passed=False, vital=error.code not in _OURS, detail=detail)

        found = await framed(CHECK, self._limits.answer, ask, (ValueError, asyncio.IncompleteReadError), tls=TLS)
        return [found.model_copy(update={"vital": found.vital and part is Part.OWNER})]

    async def _told(self) -> dict[str, str]:
        """With TLS 1.3 a server says after the handshake that it does not take our certificate, and what we wrote
        meanwhile may cost us its words: then it is listened to, in a connection of its own."""
        try:
            return await self._state()
        except (ConnectionError, asyncio.IncompleteReadError):
            if self._server.login.tls is not None:
                await _listen(self._server)
            raise

    async def _state(self) -> dict[str, str]:
        """Everything in one round: a slow server's answer is waited for once."""
        login = self._server.login
        words = [login.user] if login.user else []
        hello: list[list[str]] = [["AUTH", *words, login.password]] if login.password is not None else []
        without_login = replace(self._server, login=replace(login, password=None))
        async with connected(without_login) as connection:
            replies = await connection.pipeline([*hello, ["PING"], ["INFO", "replication"]])
        for reply in replies:
            if isinstance(reply, ServerSaid):
                raise reply
        lines = (line.partition(":") for line in str(replies[-1]).splitlines())
        return {name: value for name, colon, value in lines if colon}


async def _listen(server: RedisServer) -> None:
    """Raises what TLS has to say, if anything."""
    reader, writer = await opened(server)
    try:
        async with asyncio.timeout(LISTENED):
            await reader.read(1)
    except TimeoutError:
        pass  # it waits for a question, as it should
    finally:
        writer.transport.abort()


def _judged(state: dict[str, str], part: Part) -> Finding:
    role, link = state.get("role", "unknown"), state.get("master_link_status", "unknown")
    if part is Part.OWNER:
        if role != "master":
            return Finding(check=CHECK, passed=False, detail=f"it is a replica (link {link}) and takes no writes")
        return Finding(check=CHECK, passed=True, detail=f"primary, {state.get('connected_slaves', '0')} replicas")
    if role == "master":
        return Finding(check=CHECK, passed=False, detail="it is a primary, and does not own the group")
    heard = int(state.get("master_last_io_seconds_ago", "-1"))
    lag = None if heard < 0 else float(heard)
    return Finding(check=CHECK, passed=link == "up", detail=f"replica, link {link}", lag_seconds=lag)
