"""What the shop keeps beside its database: orders in JetStream, carts in Redis, a catalogue in a search engine.

It is put there once, and counted in any region: the figures before a loss beside those after the recovery.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import nats
import redis.asyncio
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from nats.js.errors import NotFoundError

from lab import Lab
from lab.guarded import CONSUMER, STREAMS
from lab.state import SEARCH
from recovery.adapters.redis.server_info import MARK_KEY, RESTORED_KEY

MESSAGES = {"ORDERS": 1000, "EVENTS": 200}
ACKNOWLEDGED = 250
CARTS, EXPIRING_CARTS = 1000, 100
CART_SECONDS = 3600
INDEX, PRODUCTS = "products", 500
SEARCH_SECONDS = 30.0


@dataclass(frozen=True)
class Count:
    """One figure of a store in one region."""

    store: str
    what: str
    value: str


@dataclass(frozen=True)
class Comparison:
    """A figure before the loss and after the recovery; ``after`` None: it could not be counted there."""

    count: Count
    after: str | None

    @property
    def is_equal(self) -> bool:
        return self.after == self.count.value


def compared(before: Sequence[Count], after: Sequence[Count]) -> list[Comparison]:
    """Everything that was counted before, in that order, beside what is there now."""
    found = {(count.store, count.what): count.value for count in after}
    return [Comparison(count, found.get((count.store, count.what))) for count in before]


def described(lab: Lab) -> str:
    """What ``fill`` puts there, in a few words."""
    services = lab.describe().services
    words = {
        "nats": f"{sum(MESSAGES.values()):,} messages in {len(MESSAGES)} streams",
        "redis": f"{CARTS:,} carts in Redis",
        SEARCH: f"{PRODUCTS:,} products in OpenSearch",
    }
    return ", ".join(said for service, said in words.items() if service in services)


async def fill(lab: Lab, region: str) -> None:
    """Puts the shop's messages, carts and products there, as far as the lab has the stores."""
    services = lab.describe().services
    async with asyncio.TaskGroup() as tasks:
        if "nats" in services:
            tasks.create_task(_fill_streams(lab.nats(region)))
        if "redis" in services:
            tasks.create_task(_fill_carts(lab.redis(region)))
        if SEARCH in services:
            tasks.create_task(_fill_index(lab.search(region).url))


async def count(lab: Lab, region: str) -> list[Count]:
    """What stands there; no figures of a stream or an index that does not exist."""
    services = lab.describe().services
    counting = []
    if "nats" in services:
        counting.append(_count_streams(lab.nats(region)))
    if "redis" in services:
        counting.append(_count_keys(lab.redis(region)))
    if SEARCH in services:
        counting.append(_count_documents(lab.search(region).url))
    return [each for counts in await asyncio.gather(*counting) for each in counts]


async def lose(lab: Lab, region: str) -> None:
    """Leaves the region its servers, without anything in them."""
    services = lab.describe().services
    for service in ("nats", "redis"):
        if service in services:
            await lab.kill(region, service, with_disks=True)
            await lab.restart(region, service)
    if SEARCH in services:
        async with _search(lab.search(region).url) as client:
            (await client.delete(f"/{INDEX}")).raise_for_status()


# JetStream ------------------------------------------------------------------------------------------------------------


async def publish(client: Client, stream: str, messages: int) -> None:
    """So many messages into a stream, each acknowledged."""
    prefix = STREAMS[stream][0].rpartition(".")[0]
    jetstream = client.jetstream()
    await asyncio.gather(*(jetstream.publish(f"{prefix}.{number}", b"of the shop") for number in range(messages)))


async def _fill_streams(url: str) -> None:
    async with _nats(url) as client:
        jetstream = client.jetstream()
        for name, subjects in STREAMS.items():
            await jetstream.add_stream(StreamConfig(name=name, subjects=subjects))
            consumer = ConsumerConfig(durable_name=CONSUMER, ack_policy=AckPolicy.EXPLICIT)
            await jetstream.add_consumer(name, consumer)
            await publish(client, name, MESSAGES[name])
        orders = await jetstream.pull_subscribe_bind(durable=CONSUMER, stream="ORDERS")
        taken = 0
        while taken < ACKNOWLEDGED:
            batch = await orders.fetch(ACKNOWLEDGED - taken)
            await asyncio.gather(*(message.ack_sync() for message in batch))
            taken += len(batch)


async def _count_streams(url: str) -> list[Count]:
    counts = []
    async with _nats(url) as client:
        jetstream = client.jetstream()
        for name in STREAMS:
            try:
                state = (await jetstream.stream_info(name)).state
                consumer = await jetstream.consumer_info(name, CONSUMER)
            except NotFoundError:
                continue
            numbers = range(state.first_seq, state.last_seq + 1)
            messages = await asyncio.gather(*(jetstream.get_msg(name, number) for number in numbers))
            content = _checksum(f"{each.seq} {each.subject} {(each.data or b'').hex()}" for each in messages)
            done = consumer.ack_floor.stream_seq if consumer.ack_floor is not None else 0
            counts += [
                Count("JetStream", f"{name}: messages", f"{state.messages:,}"),
                Count("JetStream", f"{name}: SHA-256 of all", content),
                Count("JetStream", f"{name}: acknowledged by {CONSUMER}", f"{done:,}"),
            ]
    return counts


@asynccontextmanager
async def _nats(url: str) -> AsyncIterator[Client]:
    client = await nats.connect(url)
    try:
        yield client
    finally:
        await client.close()


# Redis ----------------------------------------------------------------------------------------------------------------


async def _fill_carts(url: str) -> None:
    async with redis.asyncio.from_url(url) as client:
        await client.mset({f"cart:{number}": f"book {number}" for number in range(CARTS)})
        async with client.pipeline(transaction=False) as pipeline:
            for number in range(EXPIRING_CARTS):
                pipeline.expire(f"cart:{number}", CART_SECONDS)
            await pipeline.execute()


async def _count_keys(url: str) -> list[Count]:
    async with redis.asyncio.from_url(url, decode_responses=True) as client:
        # For some hours a restored server also holds a note of the restore that was completed there.
        notes = (MARK_KEY, RESTORED_KEY)
        keys: list[str] = sorted([key async for key in client.scan_iter(count=1000) if key not in notes])
        values = await client.mget(keys) if keys else []
        async with client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.pttl(key)
            expiring = sum(left >= 0 for left in await pipeline.execute())
    return [
        Count("Redis", "keys", f"{len(keys):,}"),
        Count(
            "Redis", "SHA-256 of all", _checksum(f"{key} {value!r}" for key, value in zip(keys, values, strict=True))
        ),
        Count("Redis", "keys that expire", f"{expiring:,}"),
    ]


# The search engine ----------------------------------------------------------------------------------------------------


async def _fill_index(url: str) -> None:
    lines = []
    for number in range(PRODUCTS):
        lines += [f'{{"index": {{"_id": "{number}"}}}}', f'{{"title": "book {number}", "price": {number}}}']
    async with _search(url) as client:
        made = await client.put(f"/{INDEX}", json={"settings": {"number_of_shards": 2, "number_of_replicas": 0}})
        made.raise_for_status()
        headers = {"content-type": "application/x-ndjson"}
        body = "\n".join([*lines, ""])
        written = await client.post(f"/{INDEX}/_bulk?refresh=true", content=body, headers=headers)
        written.raise_for_status()


async def _count_documents(url: str) -> list[Count]:
    async with _search(url) as client:
        await client.post(f"/{INDEX}/_refresh")
        found = await client.get(f"/{INDEX}/_search", params={"size": PRODUCTS * 2})
    if found.status_code == httpx.codes.NOT_FOUND:
        return []
    found.raise_for_status()
    hits = found.json()["hits"]["hits"]
    content = _checksum(sorted(f"{hit['_id']} {hit['_source']}" for hit in hits))
    return [
        Count("OpenSearch", f"{INDEX}: documents", f"{len(hits):,}"),
        Count("OpenSearch", f"{INDEX}: SHA-256 of all", content),
    ]


@asynccontextmanager
async def _search(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=SEARCH_SECONDS) as client:
        yield client


def _checksum(lines: Iterable[str]) -> str:
    """Its beginning, which people can compare."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
