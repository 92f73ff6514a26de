"""Patroni's REST API: what its clusters and their members say of themselves, and orders to them.

What `GET /cluster` calls a member's role comes from the DCS: the holder of the lock is `leader`, or `standby_leader` as
soon as the configuration says so, whatever its server does by then. What a server does only its own member knows, which
asks it for `GET /patroni`.

Source: Patroni's documentation ("Patroni REST API", "Standby cluster"), and version 4.1.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from recovery.adapters.trust import trusted
from recovery.errors import BadInput, Contended, NotFound, RecoveryError, Refused, Unreachable

LOOK_SECONDS = 5.0
ORDER_SECONDS = 15.0  # Patroni itself watches an order for 20 s; what counts is who leads, and that is looked at
RUNNING = ("running", "streaming", "in archive recovery")
_LEADERS = ("leader", "standby_leader")
_PRIMARIES = ("primary", "master")  # the latter before Patroni 4
_OFF = ("stopped", "crashed", "start failed")


@dataclass(frozen=True)
class PatroniAccess:
    """``members``: REST addresses of the region's members; any of them speaks for the cluster.

    ``spans_regions``: its operator says that one cluster has members in all regions.
    """

    members: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    spans_regions: bool = False


@dataclass(frozen=True)
class Member:
    name: str
    role: str  # leader, standby_leader, sync_standby, quorum_standby, replica: by the DCS, not by its server
    state: str
    address: str  # of its REST API
    host: str | None = None
    port: int | None = None
    timeline: int | None = None
    lag: int | None = None  # bytes behind the leader; None while unknown
    position: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        return self.state in RUNNING


@dataclass(frozen=True)
class Standing:
    """What a member's own server says that it is, or, while that does not run, what its Patroni last made of it."""

    role: str  # primary or replica
    state: str
    timeline: int | None = None

    def __str__(self) -> str:
        return f"{self.role}, {self.state}"

    @property
    def writes(self) -> bool:
        return self.role in _PRIMARIES and self.state == "running"

    @property
    def is_at_rest(self) -> bool:
        """It takes no writes, and will not by itself while its cluster follows another."""
        return self.state in _OFF or (self.role not in _PRIMARIES and self.state != "unknown")


@dataclass(frozen=True)
class ClusterState:
    scope: str
    members: tuple[Member, ...]
    paused: bool = False

    @property
    def leader(self) -> Member | None:
        return next((member for member in self.members if member.role in _LEADERS), None)

    def inside(self, addresses: tuple[str, ...]) -> list[Member]:
        """The members that have one of these REST addresses."""
        wanted = {_authority(address) for address in addresses}
        return [member for member in self.members if _authority(member.address) in wanted]


class PatroniCluster:
    """One Patroni cluster, as one region's members see it. Close it in the end."""

    def __init__(
        self,
        access: PatroniAccess,
        *,
        look_seconds: float = LOOK_SECONDS,
        order_seconds: float = ORDER_SECONDS,
    ) -> None:
        auth = httpx.BasicAuth(access.user, access.password or "") if access.user is not None else None
        self._members = [address.rstrip("/") for address in access.members]
        self._look, self._order = look_seconds, order_seconds
        self._http = httpx.AsyncClient(auth=auth, verify=access.tls or trusted(), trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    async def state(self) -> ClusterState:
        """The cluster, from the first member that answers."""
        found: dict[str, Any] = await self._ask("GET", "/cluster", None, self._look)
        try:
            return _state(found)
        except (KeyError, TypeError, ValueError) as error:
            raise Unreachable(f"{self._where} gave no usable answer to GET /cluster: {error!r}") from error

    async def follows_another(self) -> bool:
        """Whether it is configured as a standby cluster."""
        return bool((await self._ask("GET", "/config", None, self._look)).get("standby_cluster"))

    async def standing(self, member: Member) -> Standing | None:
        """What the member itself says of its server now; None: it does not answer."""
        try:
            async with asyncio.timeout(self._look):
                answer = await self._http.get(member.address, timeout=self._look)
            found = answer.json()
            return Standing(str(found["role"]), str(found["state"]), found.get("timeline"))
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError):
            return None

    async def switchover(self, leader: str, candidate: str) -> str:
        """The leader hands over in order. Returns Patroni's words, which may name another member than the candidate."""
        return await self._command("/switchover", {"leader": leader, "candidate": candidate})

    async def failover(self, candidate: str) -> str:
        """The candidate takes over without a leader."""
        return await self._command("/failover", {"candidate": candidate})

    async def patch_config(self, change: dict[str, Any]) -> dict[str, Any]:
        """Changes the cluster's dynamic configuration; a value of None removes its key. Returns all of it."""
        found: dict[str, Any] = await self._ask("PATCH", "/config", change, self._look)
        return found

    async def _command(self, path: str, body: dict[str, Any]) -> str:
        return str(await self._ask("POST", path, body, self._order))

    @property
    def _where(self) -> str:
        return f"Patroni at {', '.join(self._members)}"

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> Any:
        """Asks one member after the other until one answers; an order that may have arrived is not sent to another."""
        silent: list[str] = []
        for member in self._members:
            try:
                async with asyncio.timeout(seconds):
                    answer = await self._http.request(method, f"{member}{path}", json=body, timeout=seconds)
            except httpx.ConnectError as error:
                silent.append(f"{member}: {_why(error)}")
                continue
            except (httpx.HTTPError, TimeoutError) as error:
                if method == "GET":
                    silent.append(f"{member}: {_why(error)}")
                    continue
                raise Unreachable(
                    f"Patroni at {member} did not answer {method} {path} within {seconds:g} s: it may have been done"
                ) from error
            return _read(answer, member, f"{method} {path}")
        raise Unreachable(f"no member of the Patroni cluster answered: {'; '.join(silent) or 'none is configured'}")


def tls_context(ca_file: str | None, certificate: str | None = None, key_file: str | None = None) -> ssl.SSLContext:
    """Raises BadInput with the file that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if certificate is not None:
            context.load_cert_chain(certificate, key_file)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(f"the TLS files for Patroni cannot be used ({ca_file}, {certificate}): {error}") from None
    return context


def _read(answer: httpx.Response, member: str, what: str) -> Any:
    words = answer.text.strip()[:300]
    if answer.status_code in (200, 202):
        return answer.json() if "json" in answer.headers.get("content-type", "") else words
    raise _failure(answer.status_code, f"Patroni at {member} refused {what} ({answer.status_code}): {words}")


def _failure(status: int, words: str) -> RecoveryError:
    if status in (401, 403):
        return Refused(f"{words}. Check patroni.user and its password, and restapi.allowlist of the members")
    if status == 404:
        return NotFound(words)
    if status == 409:
        return Contended(words)
    if status == 412:
        return Refused(words)
    if status >= 500:
        return Unreachable(words)
    return BadInput(words)


def _state(found: dict[str, Any]) -> ClusterState:
    return ClusterState(
        scope=str(found.get("scope", "")),
        members=tuple(_member(each) for each in found["members"]),
        paused=bool(found.get("pause", False)),
    )


def _member(found: dict[str, Any]) -> Member:
    lag = found.get("lag")
    return Member(
        name=found["name"],
        role=found["role"],
        state=found["state"],
        address=found["api_url"],
        host=found.get("host"),
        port=found.get("port"),
        timeline=found.get("timeline"),
        lag=lag if isinstance(lag, int) else None,
        position=found.get("lsn") if found.get("lsn") != "unknown" else None,
        tags=dict(found.get("tags") or {}),
    )


def _authority(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    return (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
