"""What a guard remembers of its Redis between its own starts: one small file in its state folder."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from recovery.adapters.listening import write_durably

Part = Literal["primary", "replica", "unknown"]


@dataclass(frozen=True)
class Remembered:
    """``part``: what it was last. An old primary stays one here until it follows again: its data may be the only copy.

    ``keys`` is what it held when its link to the primary was last seen whole; ``ended_at`` the final offset of an
    orderly end; ``detached`` says why it left its primary by itself; ``divergence`` (a StoreDivergence) what was saved
    when it followed after having been a primary.
    """

    part: Part = "unknown"
    epoch: int = 0
    keys: int = 0
    ended_at: int | None = None
    detached: str = ""
    divergence: dict[str, Any] | None = None

    @property
    def primary_of(self) -> int | None:
        """The epoch in which it was made primary last; None when it followed somebody since, or never was one."""
        return self.epoch if self.part == "primary" else None


class Memory:
    """Reads and replaces that file; the last of several that are at it at once wins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: Remembered | None = None

    async def load(self) -> Remembered:
        """Nothing written, or nothing readable: unknown."""
        if self._known is None:
            self._known = await asyncio.to_thread(self._read)
        return self._known

    async def save(self, remembered: Remembered) -> None:
        """Durable when this returns. Raises OSError."""
        await asyncio.to_thread(write_durably, self._path, json.dumps(asdict(remembered)))
        self._known = remembered

    def _read(self) -> Remembered:
        try:
            stored = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return Remembered()
        known = {entry.name for entry in fields(Remembered)}
        return Remembered(**{name: value for name, value in stored.items() if name in known})
