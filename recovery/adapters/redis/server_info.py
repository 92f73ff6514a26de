"""What a Redis says of itself as far as backup and restore ask: product, versions, keys, functions, memory, marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recovery.adapters.redis.connection import PASSING, Connection, ServerSaid
from recovery.adapters.redis.replication import keys_in
from recovery.domain.redis import Product, rdb_version_of

MARK_KEY = "recovery-restoring"
"""In database 0 of a server whose restore was not completed (``key_mark``): the attempt's mark."""

RESTORED_KEY = "recovery-restored"
"""In its place once it was, for some hours: the restore's id."""

_PAYLOAD_TAIL = 10  # of DUMP and FUNCTION DUMP: the RDB version (2 bytes, the lower one first), a CRC64


@dataclass(frozen=True)
class ServerInfo:
    product: Product
    version: str
    clustered: bool
    keys: dict[int, int]
    max_memory: int
    used_memory: int  # of the data, without buffers
    evicted: int


async def server_info(connection: Connection) -> ServerInfo:
    """Raises what the connection raises."""
    info = await connection.info("server", "cluster", "keyspace", "memory", "stats")
    valkey = info.get("valkey_version")
    return ServerInfo(
        product="valkey" if valkey or info.get("server_name") == "valkey" else "redis",
        version=valkey or info["redis_version"],
        clustered=info.get("cluster_enabled") == "1",
        keys=keys_in(info),
        max_memory=int(info.get("maxmemory", 0)),
        used_memory=int(info.get("used_memory_dataset", info.get("used_memory", 0))),
        evicted=int(info.get("evicted_keys", 0)),
    )


async def newest_rdb_version(connection: Connection, info: ServerInfo) -> int:
    """From the server itself from 7.0 on, where we may ask; else from the table. ``connection`` reads bytes.

    Raises ValueError: the release is not known.
    """
    try:
        payload = await connection.run("FUNCTION", "DUMP")
        return int.from_bytes(payload[-_PAYLOAD_TAIL:][:2], "little")
    except ServerSaid:
        return rdb_version_of(info.product, info.version)


async def functions(connection: Connection) -> dict[str, list[str]] | None:
    """Libraries and their functions; None where there are none to be had (6.2), or we may not ask.

    Raises ServerSaid where it cannot answer now.
    """
    try:
        listed = await connection.run("FUNCTION", "LIST")
    except ServerSaid as error:
        if error.code in PASSING:
            raise
        return None
    found = {}
    for entry in listed:
        library = _pairs(entry)
        found[str(library["library_name"])] = sorted(str(_pairs(each)["name"]) for each in library["functions"])
    return found


def _pairs(flat: list[Any]) -> dict[str, Any]:
    texts = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))
