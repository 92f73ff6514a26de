"""One location's part in writing a recovery point: retries within a budget, then dropped while the others go on."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from recovery.errors import Contended, RecoveryError, Unreachable
from recovery.ports.object_store import ObjectStore

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
PERMANENT_ATTEMPTS = 3  # "access denied" may be a policy on its way, but not for long


@dataclass(frozen=True)
class WriteBudget:
    """Limits of one write in time and memory.

    Args:
        chunk_bytes: size of a chunk before compression.
        compression_level: zstd's, 1 is fast, 19 is small.
        window: chunks in memory at once, plain or sealed, whatever the number of locations.
        uploads: parallel uploads per location.
        object_seconds: for one object at one location with all its retries; then the location is dropped.
        attempt_seconds: for one try of these.
        patience_seconds, patience_share: a location that keeps the others waiting is dropped when it did so for
            longer than ``patience_seconds`` plus this share of the elapsed time, in all.
        cleanup_seconds: for removing what a failed attempt wrote.
        check_seconds: between two looks whether the point may still come into being.
    """

    chunk_bytes: int = 8 << 20
    compression_level: int = 1
    window: int = 8
    uploads: int = 4
    object_seconds: float = 60.0
    attempt_seconds: float = 30.0
    patience_seconds: float = 20.0
    patience_share: float = 0.25
    cleanup_seconds: float = 30.0
    check_seconds: float = 10.0


class LocationUpload:
    """Uploads to one location. Its failures never raise: they drop the location, and ``dropped`` says why."""

    def __init__(self, store: ObjectStore, budget: WriteBudget) -> None:
        self.store = store
        self.uploaded_bytes = 0
        self.waiting = 0  # objects that were handed over and are not stored yet
        self.held_up = 0.0  # seconds for which the others waited for this location
        self._budget = budget
        self._slots = asyncio.Semaphore(budget.uploads)
        self._in_flight: set[asyncio.Task[str]] = set()
        self._drop: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def name(self) -> str:
        return self.store.name

    @property
    def dropped(self) -> str | None:
        """Why this location does not take part any more."""
        return self._drop.result() if self._drop.done() else None

    def drop(self, reason: str) -> None:
        if not self._drop.done():
            self._drop.set_result(reason)

    async def put(self, key: str, body: bytes, sha256: str) -> None:
        """Returns when the object is stored or the location is dropped.

        It is written only where there is none: credentials that may not overwrite are enough. An equal one is an
        earlier try of ours whose answer was lost.

        Raises:
            Contended: another object is there already.
        """
        self.waiting += 1
        try:
            async with self._slots:
                if await self._persist(key, body, sha256):
                    self.uploaded_bytes += len(body)
        except Contended as error:
            if await self._is_ours(key, body, error):
                self.uploaded_bytes += len(body)
        finally:
            self.waiting -= 1

    async def put_manifest(self, key: str, body: bytes) -> None:
        """Stores the manifest where there is none yet. Returns also when the location is dropped.

        Raises:
            Contended: another manifest is there already.
        """
        try:
            await self._persist(key, body, None)
        except Contended as error:
            await self._is_ours(key, body, error)

    async def _is_ours(self, key: str, body: bytes, contended: Contended) -> bool:
        """Whether what is there already is an earlier try of ours. A location that does not tell is dropped: False.

        Raises ``contended`` where it is another's.
        """
        try:
            async with asyncio.timeout(self._budget.attempt_seconds):
                found, _ = await self.store.get(key)
        except (RecoveryError, TimeoutError) as error:
            why = str(error) or f"{self.name} did not give it back within {self._budget.attempt_seconds:g} s"
            self.drop(f"it is unknown what it holds as {key}: {why}")
            return False
        if found != body:
            raise contended
        return True

    async def _persist(self, key: str, body: bytes, sha256: str | None) -> bool:
        deadline = _now() + self._budget.object_seconds
        pause, attempt = FIRST_PAUSE, 0
        while self.dropped is None:
            attempt += 1
            limit = min(self._budget.attempt_seconds, max(deadline - _now(), 0.01))
            try:
                return await self._try(key, body, sha256, limit)
            except RecoveryError as error:
                if isinstance(error, Contended):
                    raise
                if not error.retryable and attempt >= PERMANENT_ATTEMPTS:
                    self.drop(str(error))
                elif _now() + pause >= deadline:
                    self.drop(f"{error} (given up after {attempt} tries in {self._budget.object_seconds:g} s)")
                else:
                    await self._pause(pause * random.uniform(0.7, 1.3))
            pause = min(2 * pause, LONGEST_PAUSE)
        return False

    async def _try(self, key: str, body: bytes, sha256: str | None, limit: float) -> bool:
        """One attempt. False when the location was dropped meanwhile.

        The upload runs in a task of its own that our caller's cancellation does not reach, so that ``settle`` can wait
        for its end before the attempt's objects are removed.
        """
        task = asyncio.ensure_future(self.store.put(key, body, if_absent=True, sha256=sha256))
        self._in_flight.add(task)
        task.add_done_callback(self._landed)
        await asyncio.wait({task, self._drop}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            if task.cancelled():
                raise Unreachable(f"{self.name}: the upload of {key} was stopped")
            task.result()
            return True
        if self.dropped is not None:
            return False  # and `settle` still waits for it
        task.cancel()
        raise Unreachable(f"{self.name} did not take {key} ({len(body)} bytes) within {limit:.0f} s")

    def _landed(self, task: asyncio.Task[str]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled():
            task.exception()  # an error that nobody waits for any more is no news

    async def _pause(self, seconds: float) -> None:
        await asyncio.wait({self._drop}, timeout=seconds)

    async def settle(self, seconds: float) -> None:
        """Waits for uploads on their way, then stops those that are left: nothing may land after the clean-up."""
        self.drop("the write ended")
        if self._in_flight:
            await asyncio.wait(set(self._in_flight), timeout=seconds)
        for task in list(self._in_flight):
            task.cancel()


class PaceKeeper:
    """Watches that a slow location does not hold the others up for ever."""

    TICK = 0.1

    def __init__(self, uploads: list[LocationUpload], budget: WriteBudget) -> None:
        self._uploads = uploads
        self._budget = budget
        self._began = _now()

    async def watch(self) -> None:
        """Runs until it is cancelled."""
        before = _now()
        while True:
            await asyncio.sleep(self.TICK)
            now = _now()
            self.account(now - before, now - self._began)
            before = now

    def account(self, seconds: float, elapsed: float) -> None:
        """Books the last ``seconds`` to a location that most of the window waits for while another has kept up."""
        live = [upload for upload in self._uploads if upload.dropped is None]
        patience = self._budget.patience_seconds + self._budget.patience_share * elapsed
        for upload in live:
            others = [other.waiting for other in live if other is not upload]
            if not others or 2 * upload.waiting <= self._budget.window or 4 * min(others) > upload.waiting:
                continue
            upload.held_up += seconds
            if upload.held_up > patience:
                upload.drop(f"slower than the other locations: they waited {upload.held_up:.0f} s for it")


def _now() -> float:
    return asyncio.get_running_loop().time()
