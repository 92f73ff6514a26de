"""An object store in memory, and one that misbehaves on request."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from recovery.errors import BadInput, Contended, NotFound, RecoveryError, Unreachable
from recovery.ports.object_store import ObjectInfo


class MemoryStore:
    """All objects in ``objects``. ``clock`` gives the time of writes."""

    def __init__(self, name: str = "memory", clock: Callable[[], datetime] | None = None) -> None:
        self._name = name
        self.objects: dict[str, bytes] = {}
        self._about: dict[str, ObjectInfo] = {}
        self._clock = clock or (lambda: datetime.now(UTC))
        self._numbers = itertools.count(1)

    @property
    def name(self) -> str:
        return self._name

    async def put(
        self,
        key: str,
        body: bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        sha256: str | None = None,
    ) -> str:
        await asyncio.sleep(0)
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise BadInput(f"{key!r} is no key")
        there = self._about.get(key)
        if if_absent and there is not None:
            raise Contended(f"{self._name}: {key} exists already")
        if if_match is not None and (there is None or there.etag != if_match):
            raise Contended(f"{self._name}: {key} was changed meanwhile")
        if sha256 is not None and hashlib.sha256(body).hexdigest() != sha256:
            raise Unreachable(f"{self._name}: {key} was damaged on its way")
        self.objects[key] = bytes(body)
        info = ObjectInfo(key, len(body), f"e{next(self._numbers)}", self._clock())
        self._about[key] = info
        return info.etag

    async def get(self, key: str) -> tuple[bytes, str]:
        await asyncio.sleep(0)
        if key not in self.objects:
            raise NotFound(f"{self._name}: {key} does not exist")
        return self.objects[key], self._about[key].etag

    async def head(self, key: str) -> ObjectInfo | None:
        await asyncio.sleep(0)
        return self._about.get(key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        await asyncio.sleep(0)
        for key in sorted(key for key in self.objects if key.startswith(prefix)):
            if key in self._about:
                yield ObjectInfo(key, len(self.objects[key]), self._about[key].etag, self._about[key].modified)

    async def folders(self, prefix: str) -> Sequence[str]:
        rests = [key.removeprefix(prefix) for key in self.objects if key.startswith(prefix)]
        return sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

    async def delete(self, keys: Sequence[str]) -> None:
        await asyncio.sleep(0)
        for key in keys:
            self.objects.pop(key, None)
            self._about.pop(key, None)

    def aged(self, key: str, by: timedelta) -> None:
        """As if the object had been stored earlier."""
        self._about[key] = replace(self._about[key], modified=self._about[key].modified - by)

    async def shortcomings(self) -> Sequence[str]:
        return []

    async def close(self) -> None:
        return


class FaultyStore(MemoryStore):
    """Fails the writes for which ``fault`` gives an error, and hangs those for which ``hang`` is true.

    Both are called with (number of the write beginning at 1, key). ``hanging`` is set while one hangs; ``release`` lets
    it go on. ``pace`` is a number of seconds per write.
    """

    def __init__(
        self,
        name: str = "faulty",
        *,
        fault: Callable[[int, str], RecoveryError | None] = lambda number, key: None,
        hang: Callable[[int, str], bool] = lambda number, key: False,
        pace: float = 0.0,
        lose_answers: bool = False,
    ) -> None:
        super().__init__(name)
        self.fault, self.hang, self.pace, self.lose_answers = fault, hang, pace, lose_answers
        self.writes = 0
        self.hanging = asyncio.Event()
        self.release = asyncio.Event()

    async def put(self, key: str, body: bytes, **conditions: Any) -> str:
        self.writes += 1
        number = self.writes
        error = self.fault(number, key)
        if error is not None:
            raise error
        if self.hang(number, key):
            self.hanging.set()
            await self.release.wait()
        if self.pace:
            await asyncio.sleep(self.pace)
        etag = await super().put(key, body, **conditions)
        if self.lose_answers:
            raise Unreachable(f"{self.name}: the connection was reset")
        return etag


class UnreadableStore(MemoryStore):
    """Fails the reads for which ``broken``, called with (method, key or prefix), gives an error."""

    def __init__(self, name: str = "unreadable") -> None:
        super().__init__(name)
        self.broken: Callable[[str, str], RecoveryError | None] = lambda method, key: None

    def _demand(self, method: str, key: str) -> None:
        error = self.broken(method, key)
        if error is not None:
            raise error

    async def get(self, key: str) -> tuple[bytes, str]:
        self._demand("get", key)
        return await super().get(key)

    async def head(self, key: str) -> ObjectInfo | None:
        self._demand("head", key)
        return await super().head(key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        self._demand("list", prefix)
        async for info in super().list(prefix):
            yield info

    async def folders(self, prefix: str) -> Sequence[str]:
        self._demand("folders", prefix)
        return await super().folders(prefix)
