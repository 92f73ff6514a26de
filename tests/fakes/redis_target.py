"""A Redis that is restored into, or as which a scratch server answers: texts in database 0, settings, roles."""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fakes.redis import FakeRedis

OK = b"+OK\r\n"


@dataclass
class FakeTarget(FakeRedis):
    """``told`` may change what a REPLICAOF made of it. ``sent`` has what changed something.

    ``written_after``: so many looks pass before an application writes a key. ``slots``: of a cluster's shard.
    """

    data: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=lambda: {"masteruser": "", "masterauth": ""})
    told: Callable[[FakeTarget], None] = lambda target: None
    written_after: int | None = None
    slots: range | None = None
    queued: list[list[str]] | None = None
    watched: dict[str, str | None] = field(default_factory=dict)

    @property
    def sent(self) -> list[str]:
        changing = ("SET", "DEL", "FLUSHALL", "REPLICAOF", "RESTORE", "CONFIG SET")
        return [" ".join(words) for words in self.said if " ".join(words).startswith(changing)]

    def _answer(self, words: list[str]) -> bytes:
        if words[0] == "MULTI":
            self.queued = []
            return OK
        if words[0] == "WATCH":
            self.watched = {name: self.data.get(name) for name in words[1:]}
            return OK
        if words[0] == "EXEC":
            queued, self.queued = self.queued or [], None
            watched, self.watched = self.watched, {}
            if any(self.data.get(name) != value for name, value in watched.items()):
                return b"*-1\r\n"
            replies = [self._done(words) for words in queued]
            return b"*%d\r\n" % len(replies) + b"".join(replies)
        if self.queued is not None:
            self.queued.append(words)
            return b"+QUEUED\r\n"
        return self._done(words)

    def _done(self, words: list[str]) -> bytes:
        if self.slots is not None and words[0] in ("GET", "SET", "DEL"):
            tag = words[1].partition("{")[2].partition("}")[0]
            slot = binascii.crc_hqx((tag or words[1]).encode(), 0) % 16384
            if slot not in self.slots or (self.role == "slave" and ["READONLY"] not in self.said):
                return b"-MOVED %d 127.0.0.1:1\r\n" % slot
        match words:
            case ["GET", name]:
                return bulk(self.data.get(name))
            case ["SET", name, value] | ["SET", name, value, "EX", _]:
                self.data[name] = value
                return OK
            case ["DEL", name]:
                return b":%d\r\n" % (self.data.pop(name, None) is not None)
            case ["FLUSHALL"]:
                self.data.clear()
                return OK
            case ["SELECT", _] | ["ACL", "SETUSER", *_] | ["READONLY"]:
                return OK
            case ["CLUSTER", "NODES"] if self.slots is not None:
                return bulk(self._nodes())
            case ["CONFIG", "GET", name]:
                return b"*2\r\n" + bulk(name) + bulk(self.config[name]) if name in self.config else b"*0\r\n"
            case ["CONFIG", "SET", name, value]:
                self.config[name] = value
                return OK
            case ["REPLICAOF", "NO", "ONE"]:
                self.role = "master"
                return OK
            case ["REPLICAOF", host, port]:
                self.role, self.upstream = "slave", (host, int(port))
                self.told(self)
                return OK
        return super()._answer(words)

    def _nodes(self) -> str:
        assert self.slots is not None
        there = f" {self.slots[0]} {self.slots[1]}-{self.slots[-1]} [77->-ccc]" if self.slots else ""
        lines = [
            "aaa 127.0.0.1:1@2 master - 0 1 1 connected 16000-16383",
            f"bbb 127.0.0.1:3@4 {'myself,' if self.role == 'master' else ''}master - 0 1 2 connected{there}",
        ]
        if self.role == "slave":
            lines.append("ddd 127.0.0.1:5@6 myself,slave bbb 0 1 2 connected")
        return "\n".join(lines) + "\n"

    def _info(self, section: str) -> str:
        if section == "cluster" and self.slots is not None:
            return "cluster_enabled:1\r\n"
        if section == "keyspace":
            if self.written_after is not None and self.looks >= self.written_after:
                self.data.setdefault("written", "by an application")
            return f"db0:keys={len(self.data)},expires=0,avg_ttl=0\r\n" if self.data else ""
        return super()._info(section)


def bulk(value: str | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value.encode()), value.encode())
