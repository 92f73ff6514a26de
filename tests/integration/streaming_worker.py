"""A backup worker as a process of its own: writes generated data to S3, to be measured or killed.

Reads one JSON line from standard input (credentials never go into arguments) and prints JSON lines: one per object
with the progress, and at the end the peak memory of itself and its children.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import psutil

from recovery.adapters.s3 import S3Store
from recovery.backup.pipeline import TransferProgress, write_point
from recovery.backup.sealing import Sealer
from recovery.backup.signing import Signer
from recovery.domain.recovery_point import BackupKind, PostgresSource
from tests.fakes.points import identity, pg_source

MIB = 1 << 20


class GeneratedStream:
    """Half random, half repetitive, like table data. Stops for ever after ``stall_after`` MiB."""

    name = "base.tar"

    def __init__(self, mib: int, stall_after: int | None) -> None:
        self._mib, self._stall_after = mib, stall_after

    async def chunks(self) -> AsyncIterator[bytes]:
        block = b"".join(os.urandom(512) + b"customer;paid;shipped;;;" * 21 + b"12345678" for _ in range(1024))
        for number in range(self._mib):
            if number == self._stall_after:
                await asyncio.Event().wait()
            yield number.to_bytes(8) + block[8:]


class GeneratedSource:
    kind = BackupKind.PHYSICAL

    def __init__(self, mib: int, stall_after: int | None = None) -> None:
        self.expected_bytes = mib * MIB
        self._stream = GeneratedStream(mib, stall_after)

    async def artefacts(self) -> AsyncIterator[GeneratedStream]:
        yield self._stream

    async def finish(self) -> PostgresSource:
        return pg_source()


class PeakMemory:
    """Highest sum of resident memory of this process and its children, looked at 50 times a second."""

    def __init__(self) -> None:
        self.bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._end.wait(0.02):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.bytes = max(self.bytes, total)

    def stop(self) -> int:
        self._end.set()
        self._thread.join()
        return self.bytes


def say(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


async def main() -> None:
    order = json.loads(sys.stdin.readline())
    stores = [S3Store(name, **place) for name, place in order["stores"].items()]
    memory = PeakMemory()

    def progress(state: TransferProgress) -> None:
        say(plain_bytes=state.plain_bytes, seconds=state.seconds, objects=state.objects)

    async with Sealer([order["recipient"]]) as sealer:
        written = await write_point(
            GeneratedSource(order["mib"], order.get("stall_after")),
            identity=identity(order["attempt"], order["point_id"]),
            stores=stores,
            sealer=sealer,
            signer=Signer(order["signing_key"]),
            progress=progress,
        )
    say(peak_bytes=memory.stop(), complete=written.complete_locations)


if __name__ == "__main__":
    asyncio.run(main())
