"""The dual-writer checker: writes to every region's PostgreSQL directly, all the time, and says who accepted what when.

    python -m lab.writers <writers.json>

It asks no name and no configuration who is primary: each region gets a few connections of its own, past all links and
partitions, and each connection tries to insert again and again. What was acknowledged is appended to a file: region,
number, the server's own time within the statement, the time of the acknowledgement, and the epoch and the owner that
the witness said before the statement was sent. A commit happened between the two times. Whenever the witness names
another owner, that is appended, too. A statement that hangs in a frozen server is left waiting, so that what a woken
server still accepts is counted, and never taken back by a cancel.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import asyncpg
from pydantic import BaseModel

from lab.errors import LabError
from lab.readiness import log_tail, s3_client
from lab.state import S3Place
from lab.two_writers import TABLE, Accepted, Named, Verdict, judge, read_accepted, read_named

if TYPE_CHECKING:
    from types import TracebackType

    from lab.lab import Lab

_NAME = "control/writers"
_CONNECT_SECONDS = 2.0
_PAUSE_AFTER_FAILURE = 0.2
_OUTAGES = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver's own confusion over a connection that died at a bad moment
    AttributeError,  # the same: a protocol without its transport
)


class WritersSettings(BaseModel):
    """What the checker's process needs to know. ``regions``: name -> libpq URL."""

    regions: dict[str, str]
    connections: int
    period: float
    file: Path
    witness: S3Place | None
    ownership_key: str


class Writers:
    """The checker on a lab, as a process that ends with it. `file` (default: in the lab's folder) survives `stop`."""

    def __init__(
        self,
        lab: Lab,
        *,
        connections: int = 2,
        period: float = 0.1,
        ownership_key: str = "recovery/ownership/shop.json",
        file: Path | None = None,
    ) -> None:
        self.lab = lab
        self.file = file or lab.folder / "writers" / "accepted.jsonl"
        self._registered = False
        state = lab.describe()
        self._settings = WritersSettings(
            regions={region: state.postgres[region].dsn("app") for region in state.regions},
            connections=connections,
            period=period,
            file=self.file,
            witness=state.s3.get("witness"),
            ownership_key=ownership_key,
        )

    async def prepare(self, primary: str) -> None:
        """Create the checker's table in the region that is primary now. Raises what asyncpg raises."""
        connection = await asyncpg.connect(self.lab.postgres(primary).dsn(), timeout=10)
        try:
            await connection.execute(
                f"CREATE TABLE IF NOT EXISTS {TABLE}"
                " (number bigint PRIMARY KEY, region text NOT NULL, epoch int, at timestamptz NOT NULL);"
                f" GRANT SELECT, INSERT ON {TABLE} TO app"
            )
        finally:
            await connection.close(timeout=5)

    async def start(self) -> None:
        """Start the process and wait for its first accepted write. Raises LabError when none comes within 20 s."""
        from lab.servers import python_process

        if not self._registered:
            host = self.lab.describe().network + ".1"
            planned = python_process(self.lab.folder, _NAME, host, "writers", self._settings.model_dump_json())
            if _NAME not in {server.name for server in self.lab.describe().servers}:
                await self.lab.supervised.register(planned.server, planned.launch)
            self._registered = True
        before = len(self.accepted())
        await self.lab.supervised.start(_NAME)
        deadline = time.monotonic() + 20
        while len(self.accepted()) <= before:
            if time.monotonic() > deadline:
                log = log_tail(self.lab.describe().server(_NAME).log_file)
                raise LabError(f"No region accepted a write within 20 s. The checker's log:\n{log}")
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End the process; what was accepted is in the file."""
        await self.lab.supervised.kill([_NAME], with_disks=False)

    def accepted(self) -> list[Accepted]:
        """Everything that was acknowledged so far."""
        return read_accepted(self.file)

    def verdict(self, since: float = 0.0) -> Verdict:
        """Judge what was acknowledged since a unix time."""
        return judge([write for write in self.accepted() if write.acknowledged >= since], read_named(self.file))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(LabError):  # the lab may be gone, and the checker with it
            await self.stop()


# -- the process ------------------------------------------------------------------------------------------------------


class _Witness:
    """The ownership record, as last read, in a thread of its own."""

    def __init__(self, settings: WritersSettings, file: IO[str]) -> None:
        self.settings = settings
        self.file = file
        self.epoch: int | None = None
        self.owner: str | None = None

    async def watch(self) -> None:
        if self.settings.witness is None:
            return
        client = await asyncio.to_thread(s3_client, self.settings.witness)
        while True:
            try:
                body = await asyncio.to_thread(self._read, client)
                record = json.loads(body)
                self._note(record["region"])
                self.epoch, self.owner = record["epoch"], record["region"]
            except Exception as error:  # noqa: BLE001 - boto's errors are many; without the witness nobody is the owner
                self.epoch = self.owner = None
                print(f"{time.time():.3f} the witness: {type(error).__name__}", flush=True)
            await asyncio.sleep(0.2)

    def _note(self, owner: str) -> None:
        if owner != self.owner:
            self.file.write(Named(seen=time.time(), owner=owner).model_dump_json() + "\n")
            self.file.flush()

    def _read(self, client: Any) -> bytes:
        found = client.get_object(Bucket=self.settings.witness.bucket, Key=self.settings.ownership_key)  # type: ignore[union-attr]
        return bytes(found["Body"].read())


class _Writer:
    """One connection to one region."""

    def __init__(self, region: str, settings: WritersSettings, witness: _Witness, file: IO[str]) -> None:
        self.region = region
        self.settings = settings
        self.witness = witness
        self.file = file

    async def run(self) -> None:
        complained = ""
        while True:
            try:
                async with self.connected() as connection:
                    while True:
                        with contextlib.suppress(asyncpg.ReadOnlySQLTransactionError):  # a standby; ask it again
                            await self.write(connection)
                        await asyncio.sleep(self.settings.period)
            except _OUTAGES as error:
                reason = f"{self.region}: {type(error).__name__}: {error}"
                if reason != complained:
                    print(f"{time.time():.3f} {reason}", flush=True)
                complained = reason
                await asyncio.sleep(_PAUSE_AFTER_FAILURE)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.settings.regions[self.region], timeout=_CONNECT_SECONDS)
        try:
            yield connection
        finally:
            connection.terminate()

    async def write(self, connection: asyncpg.Connection) -> None:
        epoch, owner, number = self.witness.epoch, self.witness.owner, _new_number()
        began = await connection.fetchval(
            f"INSERT INTO {TABLE} (number, region, epoch, at) VALUES ($1, $2, $3, clock_timestamp())"
            " RETURNING extract(epoch FROM at)::float8",
            number,
            self.region,
            epoch,
        )
        accepted = Accepted(
            region=self.region, number=number, began=began, acknowledged=time.time(), epoch=epoch, owner=owner
        )
        self.file.write(accepted.model_dump_json() + "\n")
        self.file.flush()


_numbers = itertools.count(time.time_ns() // 1000)


def _new_number() -> int:
    return next(_numbers)


async def _run(settings: WritersSettings) -> None:
    await asyncio.to_thread(settings.file.parent.mkdir, parents=True, exist_ok=True)
    with settings.file.open("a") as file:
        witness = _Witness(settings, file)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(witness.watch())
            for region in settings.regions:
                for _ in range(settings.connections):
                    tasks.create_task(_Writer(region, settings, witness, file).run())


def main(arguments: list[Any]) -> None:
    """Run until killed."""
    asyncio.run(_run(WritersSettings.model_validate_json(Path(arguments[0]).read_bytes())))


if __name__ == "__main__":
    main(sys.argv[1:])
