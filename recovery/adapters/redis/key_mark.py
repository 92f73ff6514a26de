"""The key that marks a server whose restore was not completed; its value is the attempt's mark. Another key
names the last restore that was completed there.

In a cluster a server takes keys of its own shard's slots only: there a hash tag puts the mark into one of them, always
the first number that does, so that it is found again the same way.
Source: the cluster specification (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).
"""

from __future__ import annotations

import binascii
import itertools
import re
from collections.abc import Collection
from dataclasses import dataclass

from recovery.adapters.redis.connection import Connection, ServerSaid
from recovery.adapters.redis.server_info import MARK_KEY, RESTORED_KEY

SLOTS = 16384
_MARK = re.compile(rb"(%s|%s)(\{\d+\})?" % (MARK_KEY.encode(), RESTORED_KEY.encode()))


@dataclass(frozen=True)
class KeyMarks:
    """``name`` of the first of both keys; None where the server's shard has no slots, and so no keys."""

    name: str | None = None
    mark: str | None = None  # of the attempt that is at work, or was not completed
    completed_by: str | None = None  # the id of a restore


def is_mark(name: bytes) -> bool:
    """Whether a key of database 0 is, or was at the source of a dump, a restore's mark."""
    return _MARK.fullmatch(name) is not None


def slot_of(name: str) -> int:
    """Of a key, as a cluster distributes them: by what stands in its first braces, where that is anything."""
    _, _, rest = name.partition("{")
    tag, closed, _ = rest.partition("}")
    return binascii.crc_hqx((tag if closed and tag else name).encode(), 0) % SLOTS


async def mark_key(connection: Connection) -> str | None:
    """The mark's name at this server; None where its shard has no slots, and so no keys.

    Raises what the connection raises.
    """
    if (await connection.info("cluster")).get("cluster_enabled") != "1":
        return MARK_KEY
    own, slots = _shard(str(await connection.run("CLUSTER", "NODES")))
    if not own:
        await connection.run("READONLY")  # else a replica answers with the address of its primary
    if not slots:
        return None
    return next(name for number in itertools.count() if slot_of(name := f"{MARK_KEY}{{{number}}}") in slots)


def restored_key(mark_key: str) -> str:
    """The name of the other one, in the same slot."""
    return RESTORED_KEY + mark_key.removeprefix(MARK_KEY)


async def key_marks(connection: Connection) -> KeyMarks:
    """Raises what the connection raises."""
    name = await mark_key(connection)
    return KeyMarks() if name is None else await _marks(connection, name)


async def watched_marks(connection: Connection, name: str) -> KeyMarks:
    """As they stand now; what this connection does at once (MULTI) is done only while they still stand so.

    Raises what the connection raises.
    """
    await connection.run("WATCH", name, restored_key(name))
    return await _marks(connection, name)


async def _marks(connection: Connection, name: str) -> KeyMarks:
    return KeyMarks(name, await _text(connection, name), await _text(connection, restored_key(name)))


async def _text(connection: Connection, key: str) -> str | None:
    try:
        value = await connection.run("GET", key)
    except ServerSaid as error:
        if error.code == "WRONGTYPE":  # not ours
            return None
        raise
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _shard(nodes: str) -> tuple[bool, Collection[int]]:
    """Of CLUSTER NODES: whether the server is a primary, and the slots that it, or its primary, has.

    A line is ``<id> <address> <flags> <id of its primary, or -> ... <slot or first-last>...``, eight words before the
    slots; those in brackets are on their way from or to another shard.
    """
    known = [line.split() for line in nodes.splitlines() if line.strip()]
    (me,) = (words for words in known if "myself" in words[2].split(","))
    primary = me[0] if me[3] == "-" else me[3]
    slots: set[int] = set()
    for words in known:
        for part in words[8:] if words[0] == primary else ():
            if not part.startswith("["):
                first, _, last = part.partition("-")
                slots.update(range(int(first), int(last or first) + 1))
    return primary == me[0], slots
