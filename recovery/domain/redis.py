"""What a recovery point of a Redis came from, and which servers read which dumps (RDB files)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

from pydantic import Field

from recovery.domain.base import Recorded

Product = Literal["redis", "valkey"]
Way = Literal["replicate", "keys"]
"""How a running server gets the data: as a replica of a scratch server that loaded them, all at once; or by one
RESTORE for each key, where REPLICAOF is not to be had (managed services, servers under a guard)."""

RDB_VERSIONS: dict[Product, tuple[tuple[tuple[int, int], int], ...]] = {
    "redis": (
        ((2, 6), 6),
        ((3, 2), 7),
        ((4, 0), 8),
        ((5, 0), 9),
        ((7, 0), 10),
        ((7, 2), 11),
        ((7, 4), 12),
        ((8, 6), 13),
        ((8, 8), 14),
        ((8, 10), 15),
    ),
    "valkey": (((7, 2), 11), ((9, 0), 80)),
}
"""From which release on a server writes and reads which version of the format, in ascending order.

Sources: ``RDB_VERSION`` in ``src/rdb.h`` of each release of Redis (13 and 14 also in redis/librdb's release notes 2.2
and 2.3) and of Valkey, which left Redis's numbers after 11 (valkey-io/valkey#2422): it calls its own from 80 on, and
refuses 12 to 79. A running server from 7.0 on is asked instead.
"""
FIRST_VALKEY_VERSION = 80
LAST_SHARED_VERSION = 11

_NAMES: dict[Product, str] = {"redis": "Redis", "valkey": "Valkey"}


def rdb_version_of(product: Product, version: str) -> int:
    """What a server of this release writes, and the newest that it reads: 9 of ``6.2.14``.

    A release that is newer than the table is taken for the newest one in it. Raises ValueError: no such release.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    release = (int(found[1]), int(found[2])) if found else (0, 0)
    known = [number for first, number in RDB_VERSIONS[product] if first <= release]
    if not known:
        raise ValueError(f"{version!r} is no release of {_NAMES[product]} that is known here")
    return known[-1]


def reads(product: Product, newest: int, rdb_version: int) -> bool:
    """Whether a server of ``product`` whose own version of the format is ``newest`` loads ``rdb_version``."""
    if product == "valkey":
        return rdb_version <= min(newest, LAST_SHARED_VERSION) or FIRST_VALKEY_VERSION <= rdb_version <= newest
    return rdb_version <= newest


def written_by(rdb_version: int) -> str:
    """Who writes this version, in words: ``Redis 7.4 or later``."""
    for product, table in RDB_VERSIONS.items():
        for first, number in table:
            if number == rdb_version:
                return f"{_NAMES[product]} {first[0]}.{first[1]} or later"
    return "a server that is newer than this software"


def server_name(product: Product, version: str) -> str:
    return f"{_NAMES[product]} {version}"


class KeyCount(Recorded):
    """Keys of one database right before and right after the moment that the dump holds. Expired ones may count."""

    before: int
    after: int


class RedisSource(Recorded):
    """The Redis (or Valkey) that a dump is of.

    The dump holds exactly what was written up to ``offset`` of history ``replid``. ``crc64`` are its last eight bytes:
    zeros where the server computes no checksum (``rdbchecksum no``).
    """

    product: Product
    server_version: str
    taken_from: Literal["replica", "primary"]
    address: str  # host:port of the server that sent it
    replid: str
    offset: int
    primary_offset: int | None = None  # of its primary when the backup began; None where it did not say
    form: Literal["length", "mark"]  # how it was sent: $<length>, or $EOF:<mark> by a diskless server
    rdb_product: Product
    rdb_version: int
    rdb_bytes: int
    crc64: str
    checked: str | None = None  # what redis-check-rdb said; None where it was not at hand
    keys: dict[str, KeyCount] = Field(default_factory=dict)  # by number of the database
    quiet: bool = False  # nothing was written beside it: the second count is the dump's
    functions: dict[str, list[str]] | None = None  # libraries and their functions; None: 6.2, or we may not ask
    began_at: datetime
    finished_at: datetime
    notes: list[str] = Field(default_factory=list)

    @property
    def identity(self) -> str:
        """What retention and order keep apart: a Redis that came back empty never pushes out what was saved before.

        The replication id is no such thing: every promotion takes a new one, and so does a primary without replicas
        that is asked for its first synchronisation in an hour (``syncCommand``, ``repl-backlog-ttl``).
        """
        return "data" if any(count.before or count.after for count in self.keys.values()) or self.functions else "empty"

    @property
    def position(self) -> tuple[int, int] | None:
        """None: offsets of different histories cannot be compared, so the points' times say which is newer."""
        return None

    @property
    def held_until(self) -> datetime | None:
        """What was acknowledged before this moment is in the point; None where a replica may have lacked some."""
        if self.taken_from == "primary" or (self.primary_offset is not None and self.offset >= self.primary_offset):
            return self.began_at
        return None

    @property
    def window(self) -> tuple[datetime, datetime] | None:
        return self.began_at, self.finished_at
