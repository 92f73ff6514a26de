"""What a guard remembers of its streams: what they were last, and what it saw of their sources."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recovery.adapters.listening import write_durably
from recovery.adapters.nats.consumers import Position

Part = Literal["primary", "replica", "unknown"]
PACE = 1.0  # seconds between two writes of positions to the disk; in memory they are as fresh as the last look


@dataclass
class Source:
    """A stream in the owner's region as it was seen last."""

    config: dict[str, Any]
    last: int
    waiting: int  # messages in it
    consumers: list[Position] = field(default_factory=list)


@dataclass
class Remembered:
    """``part``: an old primary stays one here until its streams were made mirrors again; ``divergence``: what was saved
    then (a StoreDivergence)."""

    part: Part = "unknown"
    epoch: int = 0
    sources: dict[str, Source] = field(default_factory=dict)
    divergence: dict[str, Any] | None = None

    @property
    def primary_of(self) -> int | None:
        """The epoch in which it was made primary last; None when it followed somebody since, or never was one."""
        return self.epoch if self.part == "primary" else None


class Memory:
    """One file in the state folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: Remembered | None = None
        self._written_at = 0.0

    async def load(self) -> Remembered:
        """Nothing written, or nothing readable: unknown."""
        if self._known is None:
            self._known = await asyncio.to_thread(self._read)
        return self._known

    async def become(self, part: Part, epoch: int | None = None) -> None:
        """Durable when this returns. Raises OSError."""
        known = await self.load()
        known.part = part
        known.epoch = known.epoch if epoch is None else epoch
        await self.write()

    async def saw(self, sources: dict[str, Source]) -> None:
        """Written to the disk at most once a second."""
        known = await self.load()
        if known.sources != sources:
            known.sources = sources
            if time.monotonic() - self._written_at >= PACE:
                await self.write()

    async def done_with_consumers(self) -> None:
        """They stand in the promoted streams now: one that is deleted there from now on must not come back."""
        for source in (await self.load()).sources.values():
            source.consumers = []
        await self.write()

    async def write(self) -> None:
        known = await self.load()
        document = {
            "part": known.part,
            "epoch": known.epoch,
            "divergence": known.divergence,
            "sources": {
                name: {**vars(source), "consumers": [position.stored() for position in source.consumers]}
                for name, source in known.sources.items()
            },
        }
        await asyncio.to_thread(write_durably, self._path, json.dumps(document))
        self._written_at = time.monotonic()

    def _read(self) -> Remembered:
        try:
            stored = json.loads(self._path.read_text())
            sources = {
                name: Source(**{**source, "consumers": [Position(**position) for position in source["consumers"]]})
                for name, source in stored["sources"].items()
            }
            return Remembered(stored["part"], stored["epoch"], sources, stored.get("divergence"))
        except (OSError, ValueError, KeyError, TypeError):
            return Remembered()
