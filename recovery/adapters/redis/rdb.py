"""What can be told of a dump (RDB file) while it passes by: who wrote it, and whether it is whole.

Format (``rdbSaveRio`` of Redis's ``src/rdb.c``): nine bytes ``REDIS0009`` or ``VALKEY080``; fields about the server,
each an opcode 0xFA and two strings; functions and databases; an opcode 0xFF; eight bytes of CRC64, zeros where the
server computes none. A length in a string is of 6, 14, 32 or 64 bits, or says that an integer of 1, 2 or 4 bytes
follows.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from recovery.domain.redis import Product, RedisSource, rdb_version_of, reads, server_name, written_by
from recovery.errors import Corrupt, Refused

HEAD_BYTES = 16 << 10  # the fields take some 200
_MAGIC_BYTES = 9
_FIELD = 0xFA
_END = 0xFF
_TAIL_BYTES = 9
_FIRST_WITH_CHECKSUM = 5
_NO_CHECKSUM = bytes(8)


@dataclass(frozen=True)
class DumpHead:
    """``fields``: ``redis-ver``, ``ctime``, ``used-mem``, ``repl-id``, ``repl-offset`` and others, as texts."""

    product: Product
    rdb_version: int
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def position(self) -> tuple[str, int] | None:
        """Replication id and offset; None where the writer took no part in replication."""
        if "repl-id" not in self.fields or not self.fields.get("repl-offset", "").isdigit():
            return None
        return self.fields["repl-id"], int(self.fields["repl-offset"])

    @property
    def server(self) -> str:
        """Who wrote it, in words."""
        version = self.fields.get("valkey-ver") or self.fields.get("redis-ver")
        return server_name(self.product, version) if version else written_by(self.rdb_version)


class DumpCheck:
    """Fed with all bytes of one dump. The checksum itself is for redis-check-rdb and the server that loads it."""

    def __init__(self) -> None:
        self.bytes = 0
        self._head = bytearray()
        self._tail = b""

    def feed(self, data: bytes) -> None:
        self.bytes += len(data)
        if len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
        self._tail = (self._tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]

    def head(self) -> DumpHead | None:
        """None while too little has come. Raises Corrupt: it is no dump."""
        if len(self._head) < _MAGIC_BYTES:
            return None
        head, complete = _head(bytes(self._head))
        return head if complete or len(self._head) >= HEAD_BYTES else None

    def finish(self) -> DumpHead:
        """Raises Corrupt: it is no dump, or cut short."""
        head, _ = _head(bytes(self._head))
        if head.rdb_version >= _FIRST_WITH_CHECKSUM and (self.bytes < 2 * _TAIL_BYTES or self._tail[0] != _END):
            raise Corrupt("it does not end as a dump ends")
        return head

    @property
    def crc64(self) -> str:
        """The dump's last eight bytes, as they stand there."""
        return self._tail[1:].hex()

    @property
    def has_checksum(self) -> bool:
        return self._tail[1:] != _NO_CHECKSUM


def _head(data: bytes) -> tuple[DumpHead, bool]:
    """And whether all fields are in ``data``. Raises Corrupt."""
    found = re.match(rb"REDIS(\d{4})|VALKEY(\d{3})", data)
    if found is None:
        raise Corrupt("it does not begin as a dump of Redis or Valkey begins")
    fields, complete = _fields(data, found.end())
    product: Product = "valkey" if found[2] or "valkey-ver" in fields else "redis"
    return DumpHead(product, int(found[1] or found[2]), fields), complete


def _fields(data: bytes, at: int) -> tuple[dict[str, str], bool]:
    fields: dict[str, str] = {}
    try:
        while data[at] == _FIELD:
            name, at = _string(data, at + 1)
            fields[name], at = _string(data, at)
    except IndexError:
        return fields, False
    except ValueError:  # of a kind that no server writes there: what was read so far is right
        return fields, True
    return fields, True


def _string(data: bytes, at: int) -> tuple[str, int]:
    """A string and where it ends. Raises IndexError where it is not there completely, ValueError: another encoding."""
    first = data[at]
    kind, low = first >> 6, first & 0x3F
    if kind == 3:
        if low > 2:
            raise ValueError("a compressed string")
        end = at + 1 + (1 << low)
        _check_end(data, end)
        return str(int.from_bytes(data[at + 1 : end], "little", signed=True)), end
    if kind == 0:
        size, begin = low, at + 1
    elif kind == 1:
        size, begin = low << 8 | data[at + 1], at + 2
    else:
        begin = at + (5 if first == 0x80 else 9)
        size = int.from_bytes(data[at + 1 : begin], "big")
    _check_end(data, begin + size)
    return data[begin : begin + size].decode(errors="replace"), begin + size


def _check_end(data: bytes, end: int) -> None:
    if end > len(data):
        raise IndexError(end)


def head_of(source: RedisSource) -> DumpHead:
    """As the dump's own says it, as far as its point's manifest does."""
    return DumpHead(source.rdb_product, source.rdb_version, {f"{source.rdb_product}-ver": source.server_version})


def check_readable(head: DumpHead, product: Product, version: str, newest: int | None = None) -> None:
    """Raises Refused where the server is too old for the dump, or another branch of the family. ``newest``: what a
    running one said; else the table tells."""
    newest = rdb_version_of(product, version) if newest is None else newest
    if not reads(product, newest, head.rdb_version):
        raise Refused(
            f"The dump was written by {head.server} (RDB version {head.rdb_version}), and"
            f" {server_name(product, version)} reads RDB version {newest}: restore it into"
            f" {written_by(head.rdb_version)}."
        )


async def checked(chunks: AsyncIterator[bytes], check: DumpCheck) -> AsyncIterator[bytes]:
    """The same chunks. Raises Corrupt at the end where they are no whole dump."""
    async for chunk in chunks:
        check.feed(chunk)
        yield chunk
    check.finish()
