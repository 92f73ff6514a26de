"""Patroni: switchover, failover and standby clusters over its REST API.

Two ways of spanning regions are known, and told apart by what `GET /cluster` says:

- *one cluster* with members in several regions: the leader's lock in its DCS keeps two leaders apart. A member of the
  target becomes leader by `POST /switchover` while there is a leader, by `POST /failover` when there is none.
- *a cluster for each region*, all but one of them standby clusters: `PATCH /config` without `standby_cluster` makes one
  a primary, with it a former primary follows. Nothing but this order keeps two primaries apart: each has its own DCS.

Source: Patroni's documentation ("Patroni REST API", "Standby cluster"), and the answers of version 4.1.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx

from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import Promotion
from recovery.errors import BadInput, Contended, NotFound, RecoveryError, Refused, Unreachable

LOOK_SECONDS = 5.0
ORDER_SECONDS = 15.0  # Patroni itself watches an order for 20 s; what counts is who leads, and that is looked at
CHANGE = timedelta(seconds=25)  # within a step's attempt
RUNNING = ("running", "streaming", "in archive recovery")
LOOK_EVERY = 0.5
_STANDBY_LEADER = "standby_leader"


@dataclass(frozen=True)
class PatroniAccess:
    """``members``: REST addresses of the region's members; any of them speaks for the cluster."""

    members: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Member:
    name: str
    role: str  # leader, standby_leader, sync_standby, quorum_standby, replica
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
class ClusterState:
    scope: str
    members: tuple[Member, ...]
    paused: bool = False

    @property
    def leader(self) -> Member | None:
        return next((member for member in self.members if member.role in ("leader", _STANDBY_LEADER)), None)

    @property
    def is_standby(self) -> bool:
        """The whole cluster follows another one."""
        return self.leader is not None and self.leader.role == _STANDBY_LEADER

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
        self._http = httpx.AsyncClient(auth=auth, verify=access.tls or True, trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    async def state(self) -> ClusterState:
        """The cluster, from the first member that answers."""
        found: dict[str, Any] = await self._ask("GET", "/cluster", None, self._look)
        try:
            return _state(found)
        except (KeyError, TypeError, ValueError) as error:
            raise Unreachable(f"{self._where} gave no usable answer to GET /cluster: {error!r}") from error

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

    async def config(self) -> dict[str, Any]:
        found: dict[str, Any] = await self._ask("GET", "/config", None, self._look)
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


class PatroniPromotion:
    """``recovery.ports.promotion.PostgresPromotion`` for groups whose PostgreSQL Patroni manages.

    Args:
        clusters: the cluster as the members of one region see it, by group and region.
        within: how long a change of roles may take.
    """

    def __init__(
        self,
        clusters: Callable[[str, str], Awaitable[tuple[PatroniCluster, PatroniAccess]]],
        within: timedelta = CHANGE,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self._clusters = clusters
        self._within = within.total_seconds()
        self._look_every = look_every

    async def fence(self, group: GroupSnapshot, source: str, target: str) -> str | None:
        """See the port. None where the source's own cluster does not answer: its DCS knows nothing of the target's."""
        there, _ = await self._clusters(group.name, target)
        state = await there.state()
        if not state.is_standby:
            return (
                f"Patroni cluster {state.scope}: its DCS has one lock for all regions, and a new leader only when the "
                "old one gave it back or its ttl ended"
            )
        assert state.leader is not None, "a standby cluster is known by its leader"
        here, _ = await self._clusters(group.name, source)
        follow = {
            "host": state.leader.host,
            "port": state.leader.port or 5432,
            "create_replica_methods": ["basebackup"],
        }
        try:
            await here.patch_config({"standby_cluster": follow})
            await self._until(
                here, lambda seen: all(member.role != "leader" for member in seen.members), "has no leader"
            )
        except Unreachable:
            return None
        return f"Patroni made the cluster in {source} a standby cluster: none of its members is a primary"

    async def unfence(self, group: GroupSnapshot, source: str) -> None:
        """See the port."""
        here, _ = await self._clusters(group.name, source)
        state = await here.state()
        if not state.is_standby and "standby_cluster" not in await here.config():
            return
        await here.patch_config({"standby_cluster": None})
        await self._until(here, _has_primary, "has a leader again")

    async def promote(self, group: GroupSnapshot, region: str, epoch: int) -> Promotion:
        """See the port. An order whose outcome is unknown is judged by the cluster's state."""
        cluster, access = await self._clusters(group.name, region)
        state = await cluster.state()
        if state.is_standby:
            return await self._promote_cluster(cluster, state, region, epoch)
        local = state.inside(access.members)
        if state.leader in local and state.leader is not None and state.leader.runs:
            return _promotion(state.leader, epoch, already=True)
        candidate = _candidate(state, local, region)
        try:
            if state.leader is not None:
                said = await cluster.switchover(state.leader.name, candidate.name)
            else:
                said = await cluster.failover(candidate.name)
        except Unreachable:
            # The answer was lost, or Patroni gave up watching; what counts is who leads in the end.
            said = ""
        except Refused as error:
            await self._excuse(cluster, state, error)
            raise
        leads = await self._until(
            cluster,
            lambda seen: _has_primary(seen) and seen.leader in seen.inside(access.members),
            f"has a leader in {region}" + (f" ({said})" if said else ""),
        )
        assert leads.leader is not None, "it was waited for"
        return _promotion(leads.leader, epoch, before=candidate.position, note=said)

    @staticmethod
    async def _excuse(cluster: PatroniCluster, before: ClusterState, error: Refused) -> None:
        """An earlier attempt's order may be on its way: then Patroni refuses this one, and another look is due."""
        now = await cluster.state()
        names = [each.leader.name if each.leader else None for each in (before, now)]
        if names[0] != names[1]:
            raise Contended(f"the leader of Patroni cluster {now.scope} is changing: {error}") from None

    async def _promote_cluster(
        self, cluster: PatroniCluster, state: ClusterState, region: str, epoch: int
    ) -> Promotion:
        before = state.leader.position if state.leader else None
        await cluster.patch_config({"standby_cluster": None})
        now = await self._until(cluster, _has_primary, f"is no standby cluster any more in {region}")
        assert now.leader is not None, "it was waited for"
        return _promotion(now.leader, epoch, before=before, note=f"cluster {now.scope} is no standby cluster any more")

    async def _until(self, cluster: PatroniCluster, ready: Callable[[ClusterState], bool], words: str) -> ClusterState:
        deadline = time.monotonic() + self._within
        while True:
            try:
                state = await cluster.state()
            except Unreachable as error:
                if time.monotonic() > deadline:
                    raise error
            else:
                if ready(state):
                    return state
                if time.monotonic() > deadline:
                    roles = ", ".join(f"{member.name} is {member.role}, {member.state}" for member in state.members)
                    raise Unreachable(f"Patroni cluster {state.scope}: not within {self._within:g} s {words}: {roles}")
            await asyncio.sleep(self._look_every)


def tls_context(ca_file: str | None, certificate: str | None = None, key_file: str | None = None) -> ssl.SSLContext:
    """Raises BadInput with the file that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if certificate is not None:
            context.load_cert_chain(certificate, key_file)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(f"the TLS files for Patroni cannot be used ({ca_file}, {certificate}): {error}") from None
    return context


def _has_primary(state: ClusterState) -> bool:
    return state.leader is not None and state.leader.role == "leader" and state.leader.state == "running"


def _candidate(state: ClusterState, local: list[Member], region: str) -> Member:
    """The member of the region that lags least; those that Patroni would refuse are left out."""
    able = [
        member
        for member in local
        if member.runs and not member.tags.get("nofailover") and member.tags.get("failover_priority", 1) != 0
    ]
    if not able:
        seen = ", ".join(f"{member.name} is {member.state}" for member in local) or "none is in the cluster"
        # What a member says of itself is as old as its last round (loop_wait): another look may find it well.
        raise Unreachable(f"no member of Patroni cluster {state.scope} in {region} can become leader now: {seen}")
    return min(able, key=lambda member: (member.role == "replica", member.lag is None, member.lag or 0, member.name))


def _promotion(
    leader: Member, epoch: int, *, before: str | None = None, already: bool = False, note: str = ""
) -> Promotion:
    """A new leader's timeline is left out: for a round of its loop the API still shows the one that it left."""
    return Promotion(
        store="postgres",
        epoch=epoch,
        at=datetime.now(UTC),
        timeline=leader.timeline if already else None,
        before=before,
        already=already,
        note=note,
    )


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
