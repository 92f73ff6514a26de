"""A workload that records every acknowledged commit in a file of its own, so that losses can be counted exactly.

    python -m lab.workload <workload.json>

Each transaction places an order, pays it, notes an event and inserts its own identifier into `workload_commits`. When
COMMIT was acknowledged, the identifier, the time and the server's address are appended to the file and flushed before
the connection starts its next transaction. The server's name is resolved through the lab's DNS for every connection and
kept for no longer than its time to live, so that a changed record moves the workload; a server that is read-only is
left at once. The client waits at most `patience` seconds for anything and then connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import asyncpg
import dns.asyncresolver
import dns.exception
import dns.resolver
from asyncpg.connect_utils import SessionAttribute
from asyncpg.exceptions import TargetServerAttributeNotMatched
from pydantic import BaseModel

from lab.errors import LabError
from lab.state import CLIENTS, CONTROL

if TYPE_CHECKING:
    from types import TracebackType

    from lab.lab import Lab

_PAUSE_AFTER_FAILURE = 0.05
_MISSING_KEPT = 100
_TAIL = 1 << 16  # bytes: about 2,000 commits
_DISORDER = 60.0  # seconds: connections write their lines one after the other, but none so late
_OUTAGES = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver's own confusion over a connection that died at a bad moment
    AttributeError,  # the same: a protocol without its transport
    TargetServerAttributeNotMatched,
    dns.exception.DNSException,
)


class WorkloadSettings(BaseModel):
    """What the workload's process needs to know."""

    name: str
    dns_host: str
    dns_port: int
    port: int
    user: str
    password: str
    database: str
    transactions_per_second: float
    connections: int
    file: Path
    patience: float = 2.0


class Pause(BaseModel):
    """A time without an acknowledged commit, and where the commits before and after it were made."""

    begin: float
    end: float
    before: str | None
    after: str | None

    @property
    def seconds(self) -> float:
        return self.end - self.begin


class LossReport(BaseModel):
    """Acknowledged commits compared with those that a database has. Times are unix seconds of the acknowledgement."""

    acknowledged: int
    present: int
    lost: int
    lost_ids: list[int]
    """The first hundred, unless more were asked for."""
    unacknowledged: int
    """Commits that the database has and the client never heard of."""
    first_lost_at: float | None
    last_present_at: float | None
    last_acknowledged_at: float | None

    @property
    def lost_seconds(self) -> float:
        """The span of acknowledged work that is missing at the end: the achieved RPO in seconds."""
        if self.last_acknowledged_at is None or not self.lost:
            return 0.0
        start = self.last_present_at if self.last_present_at is not None else self.first_lost_at
        return max(0.0, self.last_acknowledged_at - (start or self.last_acknowledged_at))


class Workload:
    """A workload on a lab, run as a process that ends with the lab.

    `file` (default: in the lab's folder) survives `stop`; a second start appends to it.
    """

    def __init__(
        self,
        lab: Lab,
        name: str = "db.shop.test",
        transactions_per_second: float = 50,
        *,
        connections: int = 2,
        file: Path | None = None,
        patience: float = 2.0,
    ) -> None:
        if not 0 < transactions_per_second <= 100_000 or not 1 <= connections <= 50:
            raise LabError("A workload has more than 0 transactions per second and 1 to 50 connections.")
        self.lab = lab
        self.file = file or lab.folder / "workload" / "acknowledged.log"
        self._name = f"control/workload-{random.randrange(16**6):06x}"
        self._registered = False
        first = lab.postgres(lab.describe().regions[0])
        state, at = lab.describe(), lab.dns()
        # A guarded lab's customers have links of their own, which partitions cut.
        dns_at = lab.seen_from(CLIENTS, CONTROL, "dns") if state.guarded else (at.host, at.port)
        self._settings = WorkloadSettings(
            name=name,
            dns_host=dns_at[0],
            dns_port=dns_at[1],
            port=first.port,
            user=first.app_user,
            password=first.app_password,
            database=first.database,
            transactions_per_second=transactions_per_second,
            connections=connections,
            file=self.file,
            patience=patience,
        )

    async def start(self) -> None:
        """Start the process and wait for its first commit. Raises LabError when none comes within 15 s."""
        from lab.servers import python_process

        if not self._registered:
            planned = python_process(
                self.lab.folder, self._name, self._settings.dns_host, "workload", self._settings.model_dump_json()
            )
            await self.lab.supervised.register(planned.server, planned.launch)
            self._registered = True
        before = self.acknowledged()
        await self.lab.supervised.start(self._name)
        await self.wait_for(before + 1, timeout=15)

    async def stop(self) -> None:
        """End the process; what it had acknowledged is in the file."""
        await self.lab.supervised.kill([self._name], with_disks=False)

    def acknowledged(self) -> int:
        """Return how many commits have been acknowledged so far."""
        if not self.file.exists():
            return 0
        with self.file.open("rb") as lines:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(1 << 20), b""))

    async def wait_for(self, acknowledged: int, timeout: float = 30) -> None:
        """Wait until this many commits were acknowledged in all. Raises LabError with the log's end otherwise."""
        from lab.readiness import log_tail

        deadline = time.monotonic() + timeout
        while self.acknowledged() < acknowledged:
            if time.monotonic() > deadline:
                log = log_tail(self.lab.describe().server(self._name).log_file)
                raise LabError(f"The workload had {self.acknowledged()} commits after {timeout:.0f} s. Its log:\n{log}")
            await asyncio.sleep(0.02)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(LabError):  # the lab may be gone, and the workload with it
            await self.stop()


def read_acknowledged(file: Path) -> dict[int, float]:
    """Return {identifier: unix time} of every complete line; a line cut off by a kill was never acknowledged."""
    found: dict[int, float] = {}
    with file.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                number, at = line.split()[:2]
                found[int(number)] = float(at)
    return found


def pauses(file: Path, longer_than: float = 1.0) -> list[Pause]:
    """Return every time without an acknowledged commit that was longer than `longer_than` seconds, in order."""
    commits: list[tuple[float, str | None]] = []
    with file.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                words = line.split()
                commits.append((float(words[1]), words[2] if len(words) > 2 else None))
    commits.sort(key=lambda commit: commit[0])
    return [
        Pause(begin=before[0], end=after[0], before=before[1], after=after[1])
        for before, after in itertools.pairwise(commits)
        if after[0] - before[0] > longer_than
    ]


def first_after(file: Path, moment: float) -> float | None:
    """Return the time of the first commit that was acknowledged after a unix time; None: none yet.

    Asked often while a client waits: the file's end is read, and all of it only where that does not reach back so far.
    """
    with file.open("rb") as lines:
        size = lines.seek(0, os.SEEK_END)
        for reach in (_TAIL, size):
            start = max(0, size - reach)
            lines.seek(start)
            whole = lines.read(size - start).splitlines(keepends=True)[1 if start else 0 :]
            times = [float(line.split()[1]) for line in whole if line.endswith(b"\n")]
            if start == 0 or (times and min(times) < moment - _DISORDER):
                break
    return min((at for at in times if at > moment), default=None)


async def lost_commits(file: Path, dsn: str, *, listed: int = _MISSING_KEPT) -> LossReport:
    """Compare every acknowledged commit of `file` with the table `workload_commits` of the database at `dsn`.

    The first `listed` of the lost ones are named.
    Memory: about 100 bytes per commit. Raises what asyncpg raises when the database does not answer.
    """
    acknowledged = await asyncio.to_thread(read_acknowledged, file)
    there: set[int] = set()
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        async with connection.transaction(readonly=True):
            async for row in connection.cursor("SELECT id FROM workload_commits", prefetch=10_000):
                there.add(row[0])
    finally:
        await connection.close(timeout=10)
    lost = sorted(number for number in acknowledged if number not in there)
    present_times = [at for number, at in acknowledged.items() if number in there]
    return LossReport(
        acknowledged=len(acknowledged),
        present=len(acknowledged) - len(lost),
        lost=len(lost),
        lost_ids=lost[:listed],
        unacknowledged=len(there.difference(acknowledged)),
        first_lost_at=min((acknowledged[number] for number in lost), default=None),
        last_present_at=max(present_times, default=None),
        last_acknowledged_at=max(acknowledged.values(), default=None),
    )


def longest_gap(file: Path) -> tuple[float, float]:
    """Return (start, end) of the longest time without an acknowledged commit: the outage as a client saw it.

    Raises LabError when fewer than two commits were acknowledged.
    """
    times = sorted(read_acknowledged(file).values())
    if len(times) < 2:
        raise LabError(f"{file} has fewer than two commits: there is no gap between them.")
    return max(itertools.pairwise(times), key=lambda pair: pair[1] - pair[0])


# -- the process ----------------------------------------------------------------------------------------------


class _Client:
    """One connection's loop."""

    def __init__(self, settings: WorkloadSettings, resolver: dns.asyncresolver.Resolver, file: IO[str]) -> None:
        self.settings = settings
        self.resolver = resolver
        self.file = file
        self.server = ""
        self.period = settings.connections / settings.transactions_per_second

    async def run(self) -> None:
        complained = ""
        while True:
            try:
                async with self.connected() as connection:
                    complained = ""
                    await self.commit_for_ever(connection)
            except _OUTAGES as error:
                reason = f"{type(error).__name__}: {error}"
                if reason != complained:
                    print(f"{time.time():.3f} {reason}", flush=True)
                complained = reason
                await asyncio.sleep(_PAUSE_AFTER_FAILURE)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        patience = self.settings.patience
        answer = await self.resolver.resolve(self.settings.name, "A", lifetime=patience)
        self.server = answer[0].to_text()
        async with asyncio.timeout(2 * patience):
            connection = await asyncpg.connect(
                host=self.server,
                port=self.settings.port,
                user=self.settings.user,
                password=self.settings.password,
                database=self.settings.database,
                timeout=patience,
                command_timeout=patience,
                target_session_attrs=SessionAttribute.read_write,
            )
        try:
            yield connection
        finally:
            connection.terminate()

    async def commit_for_ever(self, connection: asyncpg.Connection) -> None:
        customers = await connection.fetchval("SELECT max(id) FROM customers") or 1
        next_at = time.monotonic()
        while True:
            number = new_number()
            # Not only each statement: after one that timed out, asyncpg waits without end for its cancellation.
            async with asyncio.timeout(2 * self.settings.patience):
                await self.commit(connection, number, random.randint(1, customers))
            self.file.write(f"{number} {time.time():.6f} {self.server}\n")
            self.file.flush()
            next_at = max(next_at + self.period, time.monotonic() - self.period)
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))

    async def commit(self, connection: asyncpg.Connection, number: int, customer: int) -> None:
        cents = random.randint(100, 50_000)
        async with connection.transaction():
            order = await connection.fetchval(
                "INSERT INTO orders (customer_id, status, total_cents, items)"
                " VALUES ($1, 'paid', $2, '[]') RETURNING id",
                customer,
                cents,
            )
            await connection.execute(
                "INSERT INTO payments (order_id, amount_cents, reference) VALUES ($1, $2, $3)",
                order,
                cents,
                str(number),
            )
            await connection.execute(
                "INSERT INTO events (kind, payload, trace) VALUES ('order-placed', $1, $2)",
                json.dumps({"order": order, "cents": cents}),
                str(number),
            )
            await connection.execute("INSERT INTO workload_commits VALUES ($1, now())", number)


_last_number = 0


def new_number() -> int:
    """Return a number that no other transaction has: microseconds, made to grow."""
    global _last_number
    _last_number = max(_last_number + 1, time.time_ns() // 1000)
    return _last_number


async def _run(settings: WorkloadSettings) -> None:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [settings.dns_host]
    resolver.port = settings.dns_port
    resolver.cache = dns.resolver.Cache()  # for as long as the time to live says
    await asyncio.to_thread(settings.file.parent.mkdir, parents=True, exist_ok=True)
    with settings.file.open("a") as file:
        clients = [_Client(settings, resolver, file) for _ in range(settings.connections)]
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(client.run())


def main(arguments: list[Any]) -> None:
    """Run until killed."""
    settings = WorkloadSettings.model_validate_json(Path(arguments[0]).read_bytes())
    asyncio.run(_run(settings))


if __name__ == "__main__":
    main(sys.argv[1:])
