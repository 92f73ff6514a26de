"""Redis: PING, role, and the link to its primary."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from recovery.adapters.probes.reach import Limits, framed, reach
from recovery.domain.health import Finding, Part

CHECK = "redis"


@dataclass(frozen=True)
class RedisLogin:
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None

    def client(self, seconds: float) -> redis.asyncio.Redis:
        """Without retries: a probe asks once. The caller closes it."""
        options: dict[str, Any] = {"connection_class": redis.asyncio.Connection}
        if self.tls is not None:
            options = {"connection_class": _SecureConnection, "context": self.tls}
        pool = redis.asyncio.ConnectionPool(
            host=self.host,
            port=self.port,
            username=self.user,
            password=self.password,
            socket_connect_timeout=seconds,
            socket_timeout=seconds,
            retry=Retry(NoBackoff(), 0),
            client_name="recovery-plans",
            **options,
        )
        return redis.asyncio.Redis.from_pool(pool)


class _SecureConnection(redis.asyncio.Connection):
    """TLS with a context of our own: the driver's wants a private key as a file."""

    def __init__(self, *, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self._context = context

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._context}


class RedisProbe:
    """The owner's is a primary; any other one is a replica whose link is up, which is shown and not vital."""

    def __init__(self, login: RedisLogin, limits: Limits) -> None:
        self._login, self._limits = login, limits

    async def look(self, part: Part) -> list[Finding]:
        """See ``recovery.ports.health.StoreProbe``."""

        async def ask() -> Finding:
            await reach(self._login.host, self._login.port, self._limits)
            client = self._login.client(self._limits.answer)
            try:
                await client.ping()
                state: dict[str, Any] = await client.info("replication")
            except (AuthenticationError, NoPermissionError) as error:  # it answers, and our login is wrong
                return Finding(check=CHECK, passed=False, vital=False, detail=f"{error} (check groups.<name>.redis)")
            finally:
                await client.aclose()
            return _judged(state, part)

        found = await framed(CHECK, self._limits.answer, ask, (RedisError,))
        return [found.model_copy(update={"vital": found.vital and part is Part.OWNER})]


def _judged(state: dict[str, Any], part: Part) -> Finding:
    role, link = str(state.get("role")), str(state.get("master_link_status", ""))
    if part is Part.OWNER:
        words = f"{role}, {state.get('connected_slaves', 0)} replicas"
        return Finding(
            check=CHECK, passed=role == "master", detail=words if role == "master" else f"{words}: no primary"
        )
    if role == "master":
        return Finding(check=CHECK, passed=False, detail="it is a primary, and does not own the group")
    lag = float(state.get("master_last_io_seconds_ago", -1))
    return Finding(
        check=CHECK, passed=link == "up", detail=f"replica, link {link}", lag_seconds=lag if lag >= 0 else None
    )
