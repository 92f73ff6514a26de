"""What a Redis says of its part in replication (INFO replication, keyspace, server)."""

from __future__ import annotations

from dataclasses import dataclass

from recovery.adapters.redis.connection import Connection

NOWHERE = ("127.0.0.1", 1)
"""The primary of a Redis at rest: nobody listens there."""


@dataclass(frozen=True)
class Replica:
    """A replica as its primary sees it."""

    address: str
    online: bool
    offset: int
    silent_for: int  # seconds since its last acknowledgement, in whole seconds


@dataclass(frozen=True)
class Replication:
    """``offset`` is the position in the stream of ``replid``; ``replid2`` was valid up to before ``second_offset``."""

    is_primary: bool
    read_only: bool
    upstream: tuple[str, int] | None
    link_up: bool
    syncing: bool
    last_heard: int  # seconds, -1 while there is no link
    replid: str
    offset: int
    replid2: str
    second_offset: int
    counts: bool  # whether its offset counts: it has no backlog before its first replica came
    keys: int
    run_id: str
    replicas: tuple[Replica, ...] = ()

    @property
    def at_rest(self) -> bool:
        return self.upstream == NOWHERE

    @property
    def accepts_writes(self) -> bool:
        return self.is_primary or not self.read_only

    def descends_from(self, other: Replication) -> bool:
        """Whether everything up to ``other``'s position is in the history that this one goes on writing."""
        if not other.counts and other.keys:
            return False
        if other.replid == self.replid:
            return other.offset <= self.offset
        return other.replid == self.replid2 and other.offset < self.second_offset


async def replication(connection: Connection) -> Replication:
    """Asks. Raises what the connection raises."""
    info = await connection.info("replication", "keyspace", "server")
    is_primary = info["role"] == "master"
    return Replication(
        is_primary=is_primary,
        read_only=info.get("slave_read_only", "1") == "1",
        upstream=None if is_primary else (info["master_host"], int(info["master_port"])),
        link_up=info.get("master_link_status") == "up",
        syncing=info.get("master_sync_in_progress") == "1",
        last_heard=int(info.get("master_last_io_seconds_ago", -1)),
        replid=info["master_replid"],
        offset=int(info["master_repl_offset"] if is_primary else info["slave_repl_offset"]),
        replid2=info["master_replid2"],
        second_offset=int(info["second_repl_offset"]),
        counts=info.get("repl_backlog_active") == "1",
        keys=sum(keys_in(info).values()),
        run_id=info.get("run_id", ""),
        replicas=tuple(_replica(value) for name, value in info.items() if _names_replica(name)),
    )


def keys_in(info: dict[str, str]) -> dict[int, int]:
    """By number of the database, of INFO keyspace: ``db0:keys=20,expires=0,avg_ttl=0``."""
    return {
        int(name[2:]): int(_pairs(value).get("keys", 0))
        for name, value in info.items()
        if name.startswith("db") and name[2:].isdigit()
    }


def _names_replica(name: str) -> bool:
    return name.startswith("slave") and name[5:].isdigit()


def _replica(value: str) -> Replica:
    pairs = _pairs(value)
    return Replica(
        address=f"{pairs.get('ip')}:{pairs.get('port')}",
        online=pairs.get("state") == "online",
        offset=int(pairs.get("offset", 0)),
        silent_for=int(pairs.get("lag", 0)),
    )


def _pairs(value: str) -> dict[str, str]:
    return dict(part.partition("=")[::2] for part in value.split(","))
