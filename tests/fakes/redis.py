"""A Redis on a socket, as far as a backup asks it: login, INFO, REPLCONF and PSYNC; what it sends can be made wrong.

No key is there, however many it counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from recovery.adapters.redis.connection import RedisLogin, RedisServer
from recovery.domain.redis import KeyCount, RedisSource
from tests.fakes.points import NOW

REPLID = "0123456789abcdef0123456789abcdef01234567"
MARK = b"0123456789abcdefghij0123456789ABCDEFGHIJ"

Send = Callable[[bytes], Awaitable[None]]


def text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()


def a_dump(
    payload: bytes = b"", *, version: bytes = b"REDIS0009", offset: int = 1234, checksum: bytes = b"\x01" * 8
) -> bytes:
    """As a server writes it, but for the keys: ``payload`` stands in their place."""
    fields = {"redis-ver": "6.2.14", "repl-id": REPLID}
    head = version + b"".join(b"\xfa" + text(name) + text(value) for name, value in fields.items())
    return head + b"\xfa" + text("repl-offset") + b"\xc1" + offset.to_bytes(2, "little") + payload + b"\xff" + checksum


def redis_source() -> RedisSource:
    """What a point of a quiet Redis 7.0 says of it."""
    return RedisSource(
        product="redis", server_version="7.0.15", taken_from="replica", address="10.0.0.1:6379", replid=REPLID,
        offset=1234, form="mark", rdb_product="redis", rdb_version=10, rdb_bytes=99, crc64="01" * 8,
        checked="300 keys read", keys={"0": KeyCount(before=290, after=300), "3": KeyCount(before=7, after=7)},
        functions={"shop": ["price"]}, began_at=NOW, finished_at=NOW,
    )  # fmt: skip


@dataclass
class FakeRedis:
    """``sync`` sends what follows a PSYNC. ``said``: the commands that came, in order."""

    dump: bytes = field(default_factory=a_dump)
    offset: int = 1234
    role: str = "master"
    password: str | None = None
    user: str | None = None
    version: str = "6.2.14"
    keys: Sequence[int] = (3,)  # of database 0, one look after the other; the last one stays
    moves: bool = False  # whether the offset grows with each look
    link: str = "up"
    upstream: tuple[str, int] = ("127.0.0.1", 1)  # of a replica
    replid: str = REPLID
    replicas: Sequence[FakeRedis] = ()
    answers: dict[str, bytes] = field(default_factory=dict)  # to a command, instead of ours
    sync: Callable[[FakeRedis, Send], Awaitable[None]] | None = None
    said: list[list[str]] = field(default_factory=list)
    looks: int = 0
    full_syncs: int = 0  # that a replica has begun, one more with each look
    port: int = 0

    @property
    def server(self) -> RedisServer:
        return RedisServer("127.0.0.1", self.port, RedisLogin(self.user, self.password))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[RedisServer]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield self.server
        finally:
            listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        allowed = self.password is None
        try:
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2].decode())
                self.said.append(words)
                if words[0] == "AUTH":
                    allowed = words[1:] == [word for word in (self.user, self.password) if word is not None]
                    await send(b"+OK\r\n" if allowed else b"-WRONGPASS invalid username-password pair\r\n")
                elif not allowed:
                    await send(b"-NOAUTH Authentication required.\r\n")
                elif words[0] in self.answers:
                    await send(self.answers[words[0]])
                elif words[0] == "PSYNC":
                    await (self.sync or diskless())(self, send)
                    writer.close()
                    return
                else:
                    await send(self._answer(words))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    def _answer(self, words: list[str]) -> bytes:
        if words[0] == "INFO":
            body = self._info(words[1]).encode()
            return b"$%d\r\n%s\r\n" % (len(body), body)
        if words[0] == "REPLCONF":
            return b"+OK\r\n"
        if words[0] == "GET":
            return b"$-1\r\n"
        return b"-ERR unknown command\r\n"

    def _info(self, section: str) -> str:
        if section == "server":
            return f"redis_version:{self.version}\r\nrun_id:x\r\n"
        if section == "keyspace":
            count = self.keys[min(self.looks, len(self.keys) - 1)]
            return f"db0:keys={count},expires=0,avg_ttl=0\r\n" if count else ""
        if section == "memory":
            self.looks += 1  # each look asks for it once, after the keys
            return "used_memory_dataset:1000\r\nmaxmemory:0\r\n"
        if section == "stats":
            self.full_syncs += bool(self.full_syncs)
            return f"sync_full:{self.full_syncs}\r\n"
        if section != "replication":
            return ""
        at = self.offset + (self.looks if self.moves else 0)
        lines = [f"role:{self.role}", f"master_replid:{self.replid}", f"master_replid2:{'0' * 40}"]
        lines += ["second_repl_offset:-1", f"master_repl_offset:{at}", "repl_backlog_active:1"]
        if self.role == "slave":
            lines += [f"master_host:{self.upstream[0]}", f"master_port:{self.upstream[1]}"]
            lines += [f"master_link_status:{self.link}"]
            lines += [f"slave_repl_offset:{at}", "master_last_io_seconds_ago:0", "slave_read_only:1"]
        lines += [
            f"slave{number}:ip=127.0.0.1,port={each.port},state=online,offset={each.offset},lag=0"
            for number, each in enumerate(self.replicas)
        ]
        return "\r\n".join(lines) + "\r\n"


def full(fake: FakeRedis) -> bytes:
    return f"+FULLRESYNC {fake.replid} {fake.offset}\r\n".encode()


def diskless(
    *, pieces: int = 1013, keep_alive: bool = False, cut: int | None = None
) -> Callable[[FakeRedis, Send], Awaitable[None]]:
    """``$EOF``: in ``pieces`` of so many bytes, so that the mark lies across several; ``cut``: bytes that come."""

    async def sync(fake: FakeRedis, send: Send) -> None:
        if keep_alive:
            await send(b"\n\n")
        await send(full(fake) + (b"\n\n\n" if keep_alive else b"") + b"$EOF:" + MARK + b"\r\n")
        data = (fake.dump + MARK)[:cut]
        for start in range(0, len(data), pieces):
            await send(data[start : start + pieces])
            await asyncio.sleep(0)

    return sync


def from_disk(
    *, keep_alive: float | None = None, cut: int | None = None, silent: bool = False
) -> Callable[[FakeRedis, Send], Awaitable[None]]:
    """``$<length>``; ``keep_alive``: newlines for so many seconds before it; ``silent``: nothing after ``cut``."""

    async def sync(fake: FakeRedis, send: Send) -> None:
        await send(full(fake))
        if keep_alive is not None:
            for _ in range(10):
                await asyncio.sleep(keep_alive / 10)
                await send(b"\n")
        await send(b"$%d\r\n" % len(fake.dump) + fake.dump[:cut])
        if silent:
            await asyncio.sleep(60)

    return sync


def saying(line: bytes) -> Callable[[FakeRedis, Send], Awaitable[None]]:
    async def sync(fake: FakeRedis, send: Send) -> None:
        await send(line)

    return sync


async def preparing(fake: FakeRedis, send: Send) -> None:
    """For ever."""
    await send(full(fake))
    while True:
        await send(b"\n")
        await asyncio.sleep(0.01)
