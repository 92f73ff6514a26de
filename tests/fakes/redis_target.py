"""A Redis that is restored into, or as which a scratch server answers: texts in database 0, settings, roles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fakes.redis import FakeRedis

OK = b"+OK\r\n"


@dataclass
class FakeTarget(FakeRedis):
    """``told`` may change what a REPLICAOF made of it. ``sent`` has what changed something.

    ``written_after``: so many looks pass before an application writes a key.
    """

    data: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=lambda: {"masteruser": "", "masterauth": ""})
    told: Callable[[FakeTarget], None] = lambda target: None
    written_after: int | None = None
    queued: list[bytes] | None = None

    @property
    def sent(self) -> list[str]:
        changing = ("SET", "DEL", "FLUSHALL", "REPLICAOF", "RESTORE", "CONFIG SET")
        return [" ".join(words) for words in self.said if " ".join(words).startswith(changing)]

    def _answer(self, words: list[str]) -> bytes:
        if words[0] == "MULTI":
            self.queued = []
            return OK
        if words[0] == "EXEC":
            replies, self.queued = self.queued or [], None
            return b"*%d\r\n" % len(replies) + b"".join(replies)
        if self.queued is not None:
            self.queued.append(self._done(words))
            return b"+QUEUED\r\n"
        return self._done(words)

    def _done(self, words: list[str]) -> bytes:
        match words:
            case ["GET", name]:
                return bulk(self.data.get(name))
            case ["SET", name, value]:
                self.data[name] = value
                return OK
            case ["DEL", name]:
                return b":%d\r\n" % (self.data.pop(name, None) is not None)
            case ["FLUSHALL"]:
                self.data.clear()
                return OK
            case ["SELECT", _] | ["ACL", "SETUSER", *_]:
                return OK
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

    def _info(self, section: str) -> str:
        if section == "keyspace":
            if self.written_after is not None and self.looks >= self.written_after:
                self.data.setdefault("written", "by an application")
            return f"db0:keys={len(self.data)},expires=0,avg_ttl=0\r\n" if self.data else ""
        return super()._info(section)


def bulk(value: str | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value.encode()), value.encode())
