"""What a host that was frozen, passed over and woken alone had: counted by the ledgers of its writers, and compared
with what the reprotect put aside and reports."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.two_writers import lost_writes
from recovery.adapters.diverged_folder import open_diverged
from recovery.domain.handover import StoreDivergence
from tests.integration.guarded_site import GuardedSite
from tests.integration.store_writers import SUBJECT, StoreWriters

STORES = ("postgres", "redis", "nats")
UNHEARD = 4  # transactions without an answer: of the client's connections at the freeze, the checker's at the end
PAGE, PAGE_HEADER, SEGMENT_HEADER = 8192, 24, 40


async def acknowledged(site: GuardedSite, checked: StoreWriters, region: str, since: float) -> dict[str, list[float]]:
    """When a region acknowledged writes after a moment, by store."""
    ledgers = {"postgres": await asyncio.to_thread(site.writers.accepted), **checked.accepted}
    return {
        store: [write.acknowledged for write in writes if write.region == region and write.acknowledged > since]
        for store, writes in ledgers.items()
    }


@dataclass(frozen=True)
class Woken:
    """``messages``: what its stream held once it was fenced. ``thawed``: when it went on, in unix seconds."""

    site: GuardedSite
    checked: StoreWriters
    region: str
    thawed: float
    messages: set[int]

    async def assert_reported(self, divergences: Sequence[StoreDivergence], into: Path) -> None:
        """Each store's divergence is what the region alone had, and everything of it can be opened in ``into``."""
        found = {each.store: each for each in divergences}
        assert set(found) == set(STORES) and {each.region for each in divergences} == {self.region}, divergences
        await _postgres(self.site, found["postgres"], self.region, self.thawed, into)
        keys = {write.number for write in self.checked.accepted["redis"] if write.region == self.region}
        alone = keys - await self.checked.in_redis(self.site.active)
        dump = b"".join(await _opened(self.site, found["redis"], into))
        assert alone and all(f"writer_checks:{number}".encode() in dump for number in alone)
        assert found["redis"].bytes > 0
        await _nats(self.site, found["nats"], self.messages - await self.checked.in_stream(self.site.active), into)


async def _postgres(site: GuardedSite, found: StoreDivergence, source: str, thawed: float, into: Path) -> None:
    """All that was acknowledged and is not in the new owner, and beyond it only what nobody heard of."""
    count = len(await site.lost_since(site.since))
    assert found.transactions is not None
    assert count <= found.transactions <= count + UNHEARD, (count, found)
    lost = [w for w in await lost_writes(site.writers.file, site.lab.postgres(site.active).dsn()) if w.region == source]
    assert [write for write in lost if write.acknowledged > thawed], "the woken host acknowledged nothing"
    wal = b"".join(_without_headers(segment) for segment in await _opened(site, found, into))
    missing = [write for write in lost if write.acknowledged >= site.since and _stored(write.number) not in wal]
    assert missing == [], "what was put aside lacks rows"


async def _nats(site: GuardedSite, found: StoreDivergence, alone: set[int], into: Path) -> None:
    """Exactly the messages that the returned stream alone held."""
    lines = [json.loads(line) for file in await _opened(site, found, into) for line in file.splitlines()]
    assert found.messages == len(lines)
    saved = {int(base64.b64decode(line["data"])) for line in lines if line["subject"] == SUBJECT}
    assert alone and saved == alone, (saved ^ alone, found)


async def _opened(site: GuardedSite, found: StoreDivergence, into: Path) -> list[bytes]:
    """The files that were put aside, in their order."""
    opener = (await site.wiring.keys()).opener
    assert opener is not None and found.files
    contents = []
    for number, folder in enumerate(dict.fromkeys(Path(file).parent for file in found.files)):
        files = await open_diverged(folder, opener, into / f"{found.store}-{number}")
        contents += [await asyncio.to_thread(file.read_bytes) for file in sorted(files)]
    return contents


def _without_headers(segment: bytes) -> bytes:
    """Of WAL: a record may go on behind the header of the next page."""
    pages = range(0, len(segment), PAGE)
    return b"".join(segment[at + (PAGE_HEADER if at else SEGMENT_HEADER) : at + PAGE] for at in pages)


def _stored(number: int) -> bytes:
    """As a bigint lies in a row."""
    return number.to_bytes(8, "little")
