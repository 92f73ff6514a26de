"""How far replicas are behind: PostgreSQL's standbys, JetStream's mirrors, Redis' replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from nats.errors import Error as NatsError

from recovery.adapters.postgres.connection import connected as postgres_session
from recovery.adapters.probes.nats import NatsLogin, infos_of
from recovery.adapters.redis.connection import RedisServer, asking
from recovery.domain.group import GroupSnapshot, ReplicaRule
from recovery.domain.health import ReplicaLag
from recovery.errors import RecoveryError
from recovery.ports.postgres import PostgresLogin

ASK_SECONDS = 5.0
OWN_NAME = "recovery-plans"  # application_name of our own sessions: base backups, and the WAL archive's

# A standby that has replayed everything reports no lag at all while nothing is written.
_STANDBYS = """
    SELECT r.application_name AS name, host(r.client_addr) AS address, r.state,
           r.sent_lsn::text AS sent, r.write_lsn::text AS written, r.flush_lsn::text AS flushed,
           r.replay_lsn::text AS replayed, r.sync_state AS synchronous,
           pg_wal_lsn_diff(pg_current_wal_lsn(), r.replay_lsn)::bigint AS lag_bytes,
           CASE WHEN r.replay_lsn >= pg_current_wal_lsn() THEN 0.0
                ELSE EXTRACT(EPOCH FROM r.replay_lag)::float8 END AS lag_seconds,
           s.slot_name AS slot, s.active AS slot_active, s.wal_status AS slot_state,
           pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint AS retained_bytes
    FROM pg_stat_replication r
    FULL JOIN (SELECT * FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary) s
           ON s.active_pid = r.pid
    ORDER BY r.application_name NULLS LAST, s.slot_name
"""

log = structlog.get_logger("recovery.replication")


@dataclass(frozen=True)
class Places:
    """Where a group's stores are, by region; a store whose login is not on this machine is left out."""

    postgres: Mapping[str, PostgresLogin] = field(default_factory=dict)
    redis: Mapping[str, RedisServer] = field(default_factory=dict)
    nats: Mapping[str, NatsLogin] = field(default_factory=dict)


class Replicas:
    """``recovery.ports.health.ReplicationProbe``."""

    def __init__(self, group: GroupSnapshot, places: Places) -> None:
        self._group, self._places = group, places

    async def replicas(self, owner: str) -> Sequence[ReplicaLag]:
        """See the port. A store that does not answer is one line that says so."""
        found = await asyncio.gather(self._standbys(owner), self._redis(owner), self._mirrors(owner))
        return [replica for replicas in found for replica in replicas]

    # PostgreSQL.

    async def _standbys(self, owner: str) -> list[ReplicaLag]:
        login = self._places.postgres.get(owner)
        if login is None:
            return []
        try:
            async with asyncio.timeout(ASK_SECONDS), postgres_session(login, "look at replication") as connection:
                rows = await connection.fetch(_STANDBYS)
        except (RecoveryError, TimeoutError) as error:
            return [_unknown("postgres", owner, owner, error)]
        own = [self._archive(owner, dict(row)) for row in rows if row["name"] == OWN_NAME and row["slot"] is not None]
        found = [*own, *(self._standby(owner, dict(row)) for row in rows if row["name"] != OWN_NAME)]
        return [*found, *self._missing(owner, found)]

    def _archive(self, owner: str, row: dict[str, Any]) -> ReplicaLag:
        """The session of our WAL archive is no standby: it replays nothing, and only what its slot keeps counts."""
        shown = {key: row[key] for key in ("state", "slot", "slot_active", "slot_state", "retained_bytes")}
        return ReplicaLag(store="postgres", source=owner, name=f"slot {row['slot']}", **shown)

    def _standby(self, owner: str, row: dict[str, Any]) -> ReplicaLag:
        is_connected = row["name"] is not None
        rule = self._rule(row["name"] or row["slot"], row["address"])
        limit = rule.lag_limit if rule is not None else self._group.replication.max_lag
        return ReplicaLag(
            store="postgres",
            source=owner,
            name=row["name"] or f"slot {row['slot']}",
            target=(self._region_of(rule) if rule is not None else None)
            or self._region_called(row["name"] or row["slot"])
            or self._region_at(row["address"]),
            connected=is_connected,
            limit=limit if is_connected or rule is not None else None,
            priority=rule.priority if rule is not None else None,
            **{key: row[key] for key in _COLUMNS if row[key] is not None},
        )

    def _missing(self, owner: str, found: list[ReplicaLag]) -> list[ReplicaLag]:
        """Standbys that the configuration names and that are not connected."""
        known = {replica.name.removeprefix("slot ") for replica in found} | {replica.target for replica in found}
        return [
            ReplicaLag(
                store="postgres", source=owner, name=rule.name or rule.region, target=self._region_of(rule),
                connected=False, state="not connected", limit=rule.lag_limit, priority=rule.priority,
            )
            for rule in self._group.replication.replicas
            if rule.name not in known and self._region_of(rule) not in {*known, owner}
        ]  # fmt: skip

    def _rule(self, name: str | None, address: str | None) -> ReplicaRule | None:
        """By its name; one without a name by its region."""
        rules = self._group.replication.replicas
        for rule in rules:
            if rule.name is not None and rule.name == name:
                return rule
        here = self._region_called(name) or self._region_at(address)
        return next((rule for rule in rules if here is not None and self._region_of(rule) == here), None)

    def _region_of(self, rule: ReplicaRule) -> str | None:
        """A rule may name an availability zone of a region."""
        return self._group.region_of(rule.region)

    def _region_called(self, name: str | None) -> str | None:
        """Guards name standbys, and their slots, by their region: standby_us_east_1."""
        found = [region.name for region in self._group.regions if name and name.endswith(_as_name(region.name))]
        return found[0] if len(found) == 1 else None

    def _region_at(self, address: str | None) -> str | None:
        """Where only one region's PostgreSQL has this address."""
        at = [region.name for region in self._group.regions if region.postgres and region.postgres.host == address]
        return at[0] if len(at) == 1 else None

    # Redis.

    async def _redis(self, owner: str) -> list[ReplicaLag]:
        server = self._places.redis.get(owner)
        if server is None:
            return []
        try:
            async with asking(server, ASK_SECONDS, "show its replicas") as connection:
                state = await connection.info("replication")
        except RecoveryError as error:
            return [_unknown("redis", owner, owner, error)]
        offset = int(state.get("master_repl_offset", "0"))
        lines = (state[f"slave{number}"] for number in range(int(state.get("connected_slaves", "0"))))
        return [self._replica(owner, offset, dict(part.split("=", 1) for part in line.split(","))) for line in lines]

    def _replica(self, owner: str, offset: int, fields: dict[str, str]) -> ReplicaLag:
        address = f"{fields.get('ip')}:{fields.get('port')}"
        hosts = {server.host: region for region, server in self._places.redis.items()}
        return ReplicaLag(
            store="redis",
            source=owner,
            name=address,
            target=hosts.get(fields.get("ip", "")),
            address=fields.get("ip"),
            state=fields.get("state", ""),
            sent=str(offset),
            replayed=fields.get("offset"),
            lag_bytes=max(offset - int(fields.get("offset", "0")), 0),
            lag_seconds=float(fields.get("lag", "0")),
            limit=self._group.replication.max_lag,
        )

    # JetStream.

    async def _mirrors(self, owner: str) -> list[ReplicaLag]:
        others = [(region, login) for region, login in self._places.nats.items() if region != owner]
        found = await asyncio.gather(*(self._mirrors_in(owner, region, login) for region, login in others))
        return [replica for replicas in found for replica in replicas]

    async def _mirrors_in(self, owner: str, region: str, login: NatsLogin) -> list[ReplicaLag]:
        try:
            async with asyncio.timeout(ASK_SECONDS), login.connected(ASK_SECONDS) as client:
                stream_api = client.jetstream(timeout=ASK_SECONDS, domain=login.domain)
                infos = await infos_of(stream_api, self._group.chosen_streams)
        except (NatsError, OSError, TimeoutError) as error:
            return [_unknown("nats", owner, region, error)]
        return [
            ReplicaLag(
                store="nats", source=owner, name=str(info.config.name), target=region, state="mirror",
                replayed=str(info.state.last_seq), lag_entries=info.mirror.lag or 0,
                lag_seconds=_since(info.mirror.active) if info.mirror.lag else 0.0,
                limit=self._group.replication.max_lag,
            )
            for info in infos
            if info.mirror is not None
        ]  # fmt: skip


_COLUMNS = (
    "address", "state", "sent", "written", "flushed", "replayed", "lag_bytes", "lag_seconds", "synchronous", "slot",
    "slot_active", "slot_state", "retained_bytes",
)  # fmt: skip


def _as_name(region: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in region.lower())


def _since(active: object) -> float | None:
    """Seconds since the mirror heard of its source; the server says nanoseconds, and -1 where it never did."""
    if isinstance(active, timedelta):
        return active.total_seconds()
    return float(active) / 1e9 if isinstance(active, int | float) and active >= 0 else None


def _unknown(store: str, source: str, region: str, error: BaseException) -> ReplicaLag:
    words = " ".join(str(error).split()) or f"no answer within {ASK_SECONDS:g} s"
    log.info("a store could not be asked for its replicas", store=store, region=region, error=words)
    return ReplicaLag(store=store, source=source, name="unknown", state=f"{region} cannot be asked: {words}"[:300])
