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
import bisect
import contextlib
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import asyncpg
from pydantic import BaseModel

from lab.errors import LabError
from lab.readiness import log_tail, s3_client
from lab.state import S3Place

if TYPE_CHECKING:
    from types import TracebackType

    from lab.lab import Lab

TABLE = "writer_checks"
_NAME = "control/writers"
_CONNECT_SECONDS = 2.0
_PAUSE_AFTER_FAILURE = 0.2
_READING = 2.0  # seconds after which the checker has read the record for certain, on a busy machine
_NAMED = '{"seen"'  # how a line begins that is no write
_SILENCE = 1.0  # seconds without an acknowledgement that end a stretch
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


class Accepted(BaseModel):
    """One acknowledged write. Times are unix seconds of one machine."""

    region: str
    number: int
    began: float
    acknowledged: float
    epoch: int | None
    owner: str | None


class Named(BaseModel):
    """The witness was seen to name an owner, at a unix time."""

    seen: float
    owner: str


class Stretch(BaseModel):
    """A time in which a region was writable for certain: from its first acknowledgement to its last statement."""

    region: str
    begin: float
    end: float
    writes: int


class Overlap(BaseModel):
    """Two regions accepted writes at the same time."""

    regions: tuple[str, str]
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.begin)


class Verdict(BaseModel):
    """Whether there ever were two writers."""

    counts: dict[str, int]
    stretches: list[Stretch]
    overlaps: list[Overlap]
    unowned: dict[str, int]
    """Region -> writes that it accepted though the witness had named another owner before they were sent."""
    first_unowned: float | None
    last_unowned: float | None

    @property
    def two_writers(self) -> bool:
        return bool(self.overlaps)

    @property
    def overlap_seconds(self) -> float:
        """The longest overlap."""
        return max((overlap.seconds for overlap in self.overlaps), default=0.0)


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


def read_accepted(file: Path) -> list[Accepted]:
    """Return every complete line; one that a kill cut off was never acknowledged."""
    return [Accepted.model_validate_json(line) for line in _lines(file) if not line.startswith(_NAMED)]


def read_named(file: Path) -> list[Named]:
    """Return each owner that the witness was seen to name, in order."""
    return [Named.model_validate_json(line) for line in _lines(file) if line.startswith(_NAMED)]


def _lines(file: Path) -> list[str]:
    if not file.exists():
        return []
    with file.open() as lines:
        return [line for line in lines if line.endswith("\n")]


def judge(writes: Iterable[Accepted], named: Iterable[Named] = (), silence: float = _SILENCE) -> Verdict:
    """Say whether two regions accepted writes at the same time, without false alarms.

    A region was writable for certain between two acknowledged writes that follow each other within `silence` seconds;
    of a write alone only its own span is known. Two regions that were writable for certain at one time are an overlap.
    """
    ordered = sorted(writes, key=lambda write: write.acknowledged)
    regions = sorted({write.region for write in ordered})
    stretches = [
        stretch
        for region in regions
        for stretch in _stretches([write for write in ordered if write.region == region], silence)
    ]
    overlaps = [
        Overlap(regions=(one.region, other.region), begin=max(one.begin, other.begin), end=min(one.end, other.end))
        for one, other in itertools.combinations(stretches, 2)
        if one.region != other.region and _meet(one, other)
    ]
    unowned = _unowned(ordered, named)
    return Verdict(
        counts={region: sum(write.region == region for write in ordered) for region in regions},
        stretches=sorted(stretches, key=lambda stretch: stretch.begin),
        overlaps=overlaps,
        unowned={region: count for region in regions if (count := sum(x.region == region for x in unowned))},
        first_unowned=min((write.began for write in unowned), default=None),
        last_unowned=max((write.acknowledged for write in unowned), default=None),
    )


def _unowned(ordered: Sequence[Accepted], named: Iterable[Named]) -> list[Accepted]:
    """Writes of a region that was not the owner then and was not seen as it within the next moments: the record is
    written before its region accepts anything, and the checker reads it a few times a second."""
    owned: dict[str, list[float]] = {}
    for each in named:
        owned.setdefault(each.owner, []).append(each.seen)
    for write in ordered:
        if write.owner is not None:
            owned.setdefault(write.owner, []).append(write.acknowledged)
    for seen in owned.values():
        seen.sort()
    found = []
    for write in ordered:
        if write.owner is not None and write.owner != write.region:
            times = owned.get(write.region, [])
            position = bisect.bisect_left(times, write.acknowledged)
            if position == len(times) or times[position] > write.acknowledged + _READING:
                found.append(write)
    return found


def _stretches(writes: Sequence[Accepted], silence: float) -> list[Stretch]:
    """Begin: the first write was committed by then. End: the last one was not yet committed then, as far as we know."""
    found: list[list[Accepted]] = []
    for write in writes:
        if found and write.began - found[-1][-1].acknowledged <= silence:
            found[-1].append(write)
        else:
            found.append([write])
    return [
        Stretch(
            region=group[0].region,
            begin=min(write.acknowledged for write in group),
            end=max(write.began for write in group),
            writes=len(group),
        )
        for group in found
    ]


def _meet(one: Stretch, other: Stretch) -> bool:
    """Whether both were writable at one moment for certain. A single write is a span (end before begin) in which its
    commit lies: it meets a stretch that covers all of it."""
    lone, long = (one, other) if one.end < one.begin else (other, one)
    if lone.end < lone.begin:
        return long.begin <= long.end and long.begin <= lone.end and lone.begin <= long.end
    return max(one.begin, other.begin) < min(one.end, other.end)


async def lost_writes(file: Path, dsn: str) -> list[Accepted]:
    """Return the acknowledged writes that the database at `dsn` does not have. Raises what asyncpg raises."""
    accepted = await asyncio.to_thread(read_accepted, file)
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        there = {row["number"] for row in await connection.fetch(f"SELECT number FROM {TABLE}")}
    finally:
        await connection.close(timeout=10)
    return [write for write in accepted if write.number not in there]


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
