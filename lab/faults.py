"""What can be done to a running lab: kill, freeze, thaw, restart, partition, heal, corrupt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lab import channel, postgres, search
from lab.control import Supervised
from lab.errors import LabError
from lab.readiness import s3_client, wait_ready
from lab.state import (
    ATTENDANTS,
    CLIENTS,
    COMPANION,
    CONTROL,
    NATS_HUB,
    OUTSIDE,
    PROXY_SOCKET,
    SEARCH,
    WITNESS,
    Delay,
    LabState,
    S3Place,
    Server,
)

Corruption = Literal["postgres-page", "s3-object"]
SLOWEST_SECONDS = 60.0
_ALONE = {"temporal": CONTROL, "dns": CONTROL, "webhook": CONTROL, "proxy": CONTROL, NATS_HUB: CONTROL}


def chosen(state: LabState, region: str, service: str | None) -> list[Server]:
    """Return the servers that are meant by a region and a service (None: all of the region).

    A server outside the regions may be named alone: ("temporal", None). Raises LabError with the known ones.
    """
    if service is None and region in _ALONE:
        region, service = _ALONE[region], region
    if region == WITNESS:
        service = WITNESS
    servers = [x for x in state.servers if x.region == region and service in (None, x.service)]
    if servers:
        return servers
    regions = sorted({server.region for server in state.servers})
    if region not in regions:
        raise LabError(f"There is no region {region!r}. Known: {', '.join(regions)}.")
    services = sorted(server.service for server in state.servers if server.region == region)
    raise LabError(f"{region} has no service {service!r}. Known: {', '.join(services)}.")


async def restart(supervised: Supervised, state: LabState, region: str, service: str | None) -> None:
    """End servers if they run, start them again on their data and wait until they are ready.

    What the guard starts, and its companion, are only ended: the guard brings them back.
    """
    servers = chosen(state, region, service)
    ours = [server for server in servers if not _of_the_guard(state, server)]
    if not ours:
        raise LabError(f"{region}'s guard starts {service} itself: restart guard instead.")
    for server in ours:
        if server.service == "postgres":
            if server.data_directory is None or not (server.data_directory / "PG_VERSION").exists():
                raise LabError(f"{server.name} has no data any more (or not yet): restore it first.")
        elif server.data_directory is not None:
            server.data_directory.mkdir(parents=True, exist_ok=True)
            if server.service == SEARCH:
                search.give([server.data_directory])
        if server.service == "nats" and region in state.jetstream:
            state.jetstream[region].fence_anew()
    await supervised.kill([server.name for server in servers], with_disks=False)
    # What attends to the stores comes after those that it asks; S3 takes its time, and nothing here needs it.
    late = [server for server in ours if server.service in (*ATTENDANTS, "s3")]
    for wave in ([server for server in ours if server not in late], late):
        outcomes = await asyncio.gather(*(_start(supervised, state, server) for server in wave), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome


async def _start(supervised: Supervised, state: LabState, server: Server) -> None:
    await supervised.start(server.name)
    await wait_ready(supervised.folder, state, server)


def _of_the_guard(state: LabState, server: Server) -> bool:
    return server.service == COMPANION or (server.service == "postgres" and state.handed_over)


def check_places(state: LabState, one: str, other: str) -> None:
    """Raise LabError unless a link between the two exists."""
    known = sorted({*state.regions, OUTSIDE, CLIENTS, WITNESS, CONTROL})
    for name in (one, other):
        if name not in known:
            raise LabError(f"There is no place {name!r} to partition. Known: {', '.join(known)}.")
    if not any({link.vantage, link.place} == {one, other} for link in state.links):
        raise LabError(f"Nothing connects {one} and {other}.")


def check_linked(state: LabState, place: str, service: str | None) -> None:
    """Raise LabError unless other places see this one, or this service of it."""
    known = sorted({f"{link.place} {link.service}" for link in state.links})
    if not any(link.place == place and service in (None, link.service) for link in state.links):
        raise LabError(f"Nobody sees {place} {service or ''}".rstrip() + f" through a link. Known: {', '.join(known)}.")


@dataclass(frozen=True)
class Network:
    """All that is wrong with the network."""

    cut: Sequence[tuple[str, str]] = ()
    one_way: Sequence[tuple[str, str]] = ()
    delays: Sequence[Delay] = ()

    @classmethod
    def of(cls, state: LabState) -> Network:
        return cls(state.partitions, state.one_way, state.delays)

    def without(self, one: str, other: str) -> Network:
        """The network in which these two hear each other again, as late as before."""
        return Network(
            [pair for pair in self.cut if set(pair) != {one, other}],
            [pair for pair in self.one_way if set(pair) != {one, other}],
            self.delays,
        )


async def put_network(supervised: Supervised, network: Network) -> None:
    """Make the network exactly that bad."""
    request = {
        "cut": list(network.cut),
        "one_way": list(network.one_way),
        "delays": [delay.model_dump() for delay in network.delays],
    }
    await channel.call(supervised.folder, PROXY_SOCKET, request)
    await supervised.put_network(request)


async def corrupt(state: LabState, region: str, what: Corruption, which: dict[str, Any]) -> str:
    """Damage one thing that is stored; returns what was done, in a sentence."""
    match what:
        case "postgres-page":
            return await _corrupt_page(state, region, **which)
        case "s3-object":
            if region not in state.s3:
                raise LabError(f"There is no S3 store in {region!r}. Known: {', '.join(sorted(state.s3))}.")
            return await asyncio.to_thread(_corrupt_object, state.s3[region], **which)
        case _:
            raise LabError(f"Nothing called {what!r} can be corrupted. Known: postgres-page, s3-object.")


async def _corrupt_page(state: LabState, region: str, table: str = "orders", block: int = 0, offset: int = 4096) -> str:
    if region not in state.postgres:
        raise LabError(f"There is no PostgreSQL in {region!r}. Known: {', '.join(sorted(state.postgres))}.")
    place = state.postgres[region]
    async with postgres.connected(place, place.database) as connection:
        if not await connection.fetchval("SELECT pg_is_in_recovery()"):
            await connection.execute("CHECKPOINT")  # or a dirty page in memory would repair the one on disk
        relation = await connection.fetchval("SELECT pg_relation_filepath(to_regclass($1))", table)
    if relation is None:
        raise LabError(f"The database {place.database} of {region} has no table {table!r}.")
    path, position = await asyncio.to_thread(postgres.corrupt_page, place.data_directory, relation, block, offset)
    return f"Flipped a bit of {table} (block {block}) at byte {position} of {path}."


def _corrupt_object(place: S3Place, key: str | None = None, offset: int | None = None, missing: bool = False) -> str:
    """Store the object (default: the largest) again with one bit flipped, or with one byte missing."""
    client = s3_client(place)
    if key is None:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket)
        objects = [(found["Size"], found["Key"]) for page in pages for found in page.get("Contents", [])]
        if not objects:
            raise LabError(f"The bucket {place.bucket} is empty: there is nothing to corrupt.")
        key = max(objects)[1]
    try:
        found = client.get_object(Bucket=place.bucket, Key=key)
    except client.exceptions.NoSuchKey:
        raise LabError(f"The bucket {place.bucket} has no object {key!r}.") from None
    content = bytearray(found["Body"].read())
    position = len(content) // 2 if offset is None else offset
    if not 0 <= position < len(content):
        raise LabError(f"{key} has {len(content)} bytes: there is no byte {position}.")
    if missing:
        del content[position]
    else:
        content[position] ^= 0x10
    client.put_object(Bucket=place.bucket, Key=key, Body=bytes(content), Metadata=found["Metadata"])
    return f"{'Removed' if missing else 'Flipped a bit of'} byte {position} of {place.bucket}/{key}."
