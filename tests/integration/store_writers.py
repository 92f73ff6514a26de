"""The checker of ``lab.writers`` for Redis and JetStream: writes to every region's servers directly, all the time.

    async with store_writers(site) as checked:
        ...
        await checked.moved_without_two_writers(source, target, killed)

Past all names, links and partitions, as the application's user. Beside each acknowledged write stand the owner and the
epoch that the witness named before it was sent. The time within the statement is Redis' own; JetStream's
acknowledgement has none, so there it is when the message was sent: a message that lay in a frozen server is a span, and
one that nobody hears of within ``HEARD`` seconds is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import nats
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from lab.two_writers import Accepted, Named, Verdict, judge
from recovery.adapters.redis.connection import LOST, RedisLogin, RedisServer, ServerSaid, connected
from tests.integration.guarded_site import GuardedSite

STREAM, SUBJECT = "EVENTS", "shop.events.checks"
SCRIPT = "local t = redis.call('TIME') redis.call('SET', KEYS[1], ARGV[1]) return t"
PERIOD = 0.1  # seconds between two writes to one server
HEARD = 1.0
BEFORE = 5  # writes of each store
AGAIN = 0.2
OUTAGES = (*LOST, ServerSaid, NatsError, EOFError)

_numbers = itertools.count(time.time_ns() // 1000)


@dataclass
class StoreWriters:
    """``accepted``: by store. Times are unix seconds."""

    site: GuardedSite
    accepted: dict[str, list[Accepted]] = field(default_factory=lambda: {"redis": [], "nats": []})
    named: list[Named] = field(default_factory=list)
    owner: str | None = None
    epoch: int | None = None

    async def watch(self) -> None:
        """Who the witness says is the owner."""
        while True:
            record = await self.site.record()
            if record.region != self.owner:
                self.named.append(Named(seen=time.time(), owner=record.region))
            self.owner, self.epoch = record.region, record.epoch
            await asyncio.sleep(AGAIN)

    async def again(self, write: Callable[[str], Awaitable[None]], region: str) -> None:
        """Whatever ends the connection."""
        while True:
            with contextlib.suppress(*OUTAGES):
                await write(region)
            await asyncio.sleep(AGAIN)

    async def redis(self, region: str) -> None:
        async with connected(_redis_of(self.site, region)) as connection:
            while True:
                number, owner, epoch = next(_numbers), self.owner, self.epoch
                # A replica refuses it, which ends the connection: a new one is asked again.
                seconds, micros = await connection.run("EVAL", SCRIPT, 1, f"writer_checks:{number}", epoch or 0)
                began = int(seconds) + int(micros) / 1e6
                self._note("redis", region, number, began, owner, epoch)
                await asyncio.sleep(PERIOD)

    async def nats(self, region: str) -> None:
        client = await nats.connect(
            self.site.lab.jetstream(region).app_url, error_cb=_ignored, allow_reconnect=False, connect_timeout=2
        )
        try:
            while not client.is_closed:
                number, owner, epoch, began = next(_numbers), self.owner, self.epoch, time.time()
                with contextlib.suppress(NatsError):  # fenced, or a mirror: nobody takes it
                    await client.jetstream().publish(SUBJECT, str(number).encode(), timeout=HEARD)
                    self._note("nats", region, number, began, owner, epoch)
                await asyncio.sleep(PERIOD)
        finally:
            with contextlib.suppress(*OUTAGES):
                await client.close()

    def _note(self, store: str, region: str, number: int, began: float, owner: str | None, epoch: int | None) -> None:
        accepted = Accepted(
            region=region, number=number, began=began, acknowledged=time.time(), epoch=epoch, owner=owner
        )
        self.accepted[store].append(accepted)

    # -- what is asked of it ------------------------------------------------------------------------------------------

    def verdict(self, store: str) -> Verdict:
        return judge(self.accepted[store], self.named)

    async def moved_without_two_writers(self, source: str, target: str, lost_at: float) -> None:
        """Each store took writes in both regions, one after the other, and lost nothing that it acknowledged a probe
        before the fault or earlier."""
        for store, there in (("redis", self.in_redis), ("nats", self.in_stream)):
            verdict = self.verdict(store)
            assert not verdict.two_writers, (store, verdict.overlaps)
            assert verdict.unowned == {}, (store, verdict)
            assert set(verdict.counts) == {source, target}, (store, verdict.counts)
            writes = list(self.accepted[store])  # more are accepted while the target is asked
            found = await there(target)
            lost = [write for write in writes if write.number not in found]
            print(f"{store}: {verdict.counts}, {len(lost)} lost")
            assert all(write.acknowledged >= lost_at - 1.0 for write in lost), (store, lost_at, lost)
            assert {write.region for write in lost} <= {source}, (store, "the target lost what it acknowledged")

    async def in_redis(self, region: str) -> set[int]:
        numbers = [write.number for write in self.accepted["redis"]]
        async with asyncio.timeout(20), connected(_redis_of(self.site, region)) as connection:
            answers = await connection.pipeline([("EXISTS", f"writer_checks:{number}") for number in numbers])
        return {number for number, answer in zip(numbers, answers, strict=True) if answer == 1}

    async def in_stream(self, region: str) -> set[int]:
        client = await nats.connect(self.site.lab.jetstream(region).admin_url, connect_timeout=5)
        found: set[int] = set()
        try:
            sequence = 1
            while True:
                try:
                    message = await client.jetstream().get_msg(STREAM, seq=sequence, subject=SUBJECT, next=True)
                except NotFoundError:
                    return found
                assert message.seq is not None and message.data is not None
                found.add(int(message.data))
                sequence = message.seq + 1
        finally:
            await client.close()


def _redis_of(site: GuardedSite, region: str) -> RedisServer:
    at = urlsplit(site.lab.describe().redis[region])
    assert at.hostname is not None and at.port is not None
    return RedisServer(at.hostname, at.port, RedisLogin(at.username or None, at.password))


async def _ignored(error: Exception) -> None:
    """The client tells of each refused message."""


@contextlib.asynccontextmanager
async def store_writers(site: GuardedSite) -> AsyncIterator[StoreWriters]:
    """Writes until the block ends; both stores of the active region took some before it begins."""
    checked = StoreWriters(site)
    tasks = [asyncio.create_task(checked.watch())]
    for region in site.installation.regions:
        tasks += [asyncio.create_task(checked.again(write, region)) for write in (checked.redis, checked.nats)]
    try:

        async def taken() -> bool:
            return checked.owner is not None and all(len(writes) >= BEFORE for writes in checked.accepted.values())

        await site.eventually(taken, 20, "Redis or JetStream took no writes of the checker")
        yield checked
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
