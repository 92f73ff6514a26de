"""From the loss of a whole region to the first acknowledged write in the other one, beside Patroni in the same run.

    python -m bench.failover [--repetitions 10] [--patroni PROGRAM] [--only WORDS]

Every repetition starts from nothing: a lab of real servers with guards, monitors and workers, or a Patroni cluster with
its etcd. A region is lost in two ways, taking turns: SIGKILL of all its processes, and silence, when nothing of it
answers and nothing refuses, as when packets are dropped. One client writes all the time, with a new connection for each
write; ours finds the server through the DNS name, Patroni's is told the surviving node's address, which only helps it.
With probes of 30 s x 3 others write beside it, 100 transactions a second, and what they lose is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import platform
import shutil
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import asyncpg
from rich.console import Console
from rich.table import Table
from temporalio.client import Client as TemporalClient
from temporalio.service import RPCError

from bench import writes
from bench.patroni import failover_seconds
from drctl.demo.guarded import FailoverTimes, GuardedInstallation, install_guarded
from drctl.demo.installation import GROUP, RECORD
from lab import Lab, patroni
from lab.shop import load_shop
from lab.state import CLIENTS
from lab.workload import Workload, lost_commits
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.domain.plan import PlanRequest
from recovery.domain.report import RunReport
from recovery.health.quorum import Vote
from workers import operations
from workers.client import connect
from workflows.health_state import HealthView

HOME, AWAY = "region-a", "region-b"
LOSSES = ("killed", "silent")
SERVICES = {"postgres", "witness", "temporal", "dns", "webhook", "s3", "app"}
PATIENCE = 240.0  # seconds for one failover
MEDIAN_LIMIT, WORST_LIMIT = 8.0, 12.0  # seconds, with ttl 5 s and 1 s x 3
COMMON_LIMIT = 150.0  # seconds, with probes of 30 s x 3
COMMON_REPETITIONS = 3
LOAD = 100  # transactions a second beside it
LOST_LIMIT = 3_000  # of these; fifteen minutes by hand lose ten times as many
REST_LIMIT = 2.0  # seconds beyond the later of detection and the lease's expiry
REST = ("promote-postgres", "write-probe", "switch-dns")  # what comes after both
STALL = 2.0  # seconds
FAST = FailoverTimes(ttl=5.0, interval=1.0, failures=3)
EQUAL = FailoverTimes(ttl=20.0, interval=1.0, failures=3)  # Patroni's least ttl
COMMON = FailoverTimes(ttl=15.0, interval=30.0, timeout=5.0, failures=3)


@dataclass
class Measured:
    """Seconds of each repetition, and of the steps of ours."""

    name: str
    seconds: dict[str, list[float]] = field(default_factory=lambda: {how: [] for how in LOSSES})
    steps: dict[str, list[float]] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    """Acknowledged transactions that the other region does not have, where others wrote beside the client."""

    @property
    def all(self) -> list[float]:
        return [seconds for found in self.seconds.values() for seconds in found]


@contextlib.asynccontextmanager
async def guarded_site(times: FailoverTimes) -> AsyncIterator[tuple[Lab, GuardedInstallation, TemporalClient]]:
    """Two regions in service, with everything that watches over them."""
    async with await Lab.start(regions=(HOME, AWAY), services=SERVICES, guarded=True) as lab:
        connection = await asyncpg.connect(lab.postgres(HOME).dsn(), timeout=10)
        try:
            await connection.execute("CREATE TABLE beats (at timestamptz); GRANT ALL ON beats TO PUBLIC")
        finally:
            await connection.close()
        installation = install_guarded(lab, lab.folder / "installation", times)
        await lab.hand_over()
        await installation.start(lab)
        secrets = Secrets()
        try:
            client = await connect(Config.load(installation.config_file), secrets)
            await _all_vote(client, installation)
            yield lab, installation, client
        finally:
            secrets.close()


async def _all_vote(client: TemporalClient, installation: GuardedInstallation) -> None:
    """Waits until every vantage point says that the group is healthy."""
    handle = client.get_workflow_handle(f"health/{GROUP}")
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(RPCError):
                view = await handle.query("health", result_type=HealthView)
                ballots = view.votes.ballots if view.votes else []
                if [ballot.vote for ballot in ballots] == [Vote.HEALTHY] * len(installation.vantage_points):
                    return
            await asyncio.sleep(0.2)


async def lose(lab: Lab, how: str) -> None:
    if how == "killed":
        await lab.kill(HOME)
        return
    await lab.isolate(HOME)


@contextlib.asynccontextmanager
async def loaded(lab: Lab, load: int, measured: Measured) -> AsyncIterator[None]:
    """Others write within the block; what the other region lacks of theirs is counted at its end."""
    if not load:
        yield
        return
    await load_shop(lab.postgres(HOME).dsn(), 10)
    async with Workload(lab, RECORD, load, connections=4) as workload:
        yield
        moved = workload.acknowledged()
        await workload.wait_for(moved + load)  # they are back, too
    measured.lost.append((await lost_commits(workload.file, lab.postgres(AWAY).dsn())).lost)


def customer(lab: Lab) -> writes.Client:
    place, at = lab.postgres(HOME), lab.dns()
    login = {"user": place.app_user, "password": place.app_password, "database": place.database}
    port = lab.seen_from(CLIENTS, HOME, "postgres")[1]
    return writes.Client(writes.by_name((at.host, at.port), RECORD, port=port, **login))


async def ours(times: FailoverTimes, how: str, measured: Measured, load: int = 0) -> None:
    """One failover: by the monitors, without a hand. ``load``: transactions a second beside the client."""
    async with guarded_site(times) as (lab, _, client), loaded(lab, load, measured), customer(lab) as writer:
        home = lab.seen_from(CLIENTS, HOME, "postgres")[0]
        async with asyncio.timeout(PATIENCE):
            while not writer.writes:
                await asyncio.sleep(0.1)
        lost, lost_at = time.monotonic(), datetime.now(UTC)
        await lose(lab, how)
        back = await writer.first_away_from(home, lost, PATIENCE)
        measured.seconds[how].append(back.at - lost)
        _explain(measured, lost_at, await _report(client))


async def _report(client: TemporalClient) -> RunReport:
    """Of the run that switched the names, whether or not it has ended."""
    handle = await operations.find(client, f"recovery/{GROUP}")
    async with asyncio.timeout(PATIENCE):
        while True:
            report = await operations.latest(handle)
            if any(step.name == "switch-dns" and step.ended_at for step in report.steps):
                return report
            await asyncio.sleep(0.2)


def _explain(measured: Measured, lost_at: datetime, report: RunReport) -> None:
    """Where the seconds went: until the run began, and in each step that came before the names were switched."""
    began = min(step.started_at for step in report.steps if step.started_at)
    measured.steps.setdefault("detection", []).append((began - lost_at) / timedelta(seconds=1))
    for step in report.steps:
        if step.started_at is None or step.ended_at is None:
            continue
        measured.steps.setdefault(step.name, []).append((step.ended_at - step.started_at) / timedelta(seconds=1))
        if step.name == "switch-dns":
            break


async def theirs(timing: patroni.Timing, program: Path, how: str, measured: Measured) -> None:
    async with patroni.cluster(timing, program) as cluster:
        measured.seconds[how].append(await failover_seconds(cluster, how))


async def stalls(repetitions: int) -> int:
    """How many failovers a primary causes that stands still for 2 s again and again."""
    async with guarded_site(FAST) as (lab, _, client):
        for _ in range(repetitions):
            await lab.freeze(HOME, "postgres")
            await asyncio.sleep(STALL)
            await lab.thaw(HOME, "postgres")
            await asyncio.sleep(STALL)
        found = [run async for run in client.list_workflows("WorkflowType = 'Failover'")]
        return len(found)


async def pauses(repetitions: int, console: Console) -> list[float]:
    """The longest pause between two acknowledged writes during a planned switchover, of each repetition."""
    found = []
    for number in range(repetitions):
        async with guarded_site(FAST) as (lab, installation, client), customer(lab) as writer:
            while len(writer.writes) < 10:
                await asyncio.sleep(0.1)
            began = time.monotonic()
            config = Config.load(installation.config_file)
            request = PlanRequest(group=GROUP, region=AWAY, reason="benchmark", requested_by="bench", approve=True)
            handle, _ = await operations.start(client, config, "Switchover", request)
            async with asyncio.timeout(PATIENCE):
                report = await operations.result(handle)
                assert report.state == "completed", report.error
                home = lab.seen_from(CLIENTS, HOME, "postgres")[0]
                await writer.first_away_from(home, began, PATIENCE)
            found.append(writer.longest_pause(began))
            console.print(f"switchover {number + 1}: writes paused for {found[-1]:.2f} s")
    return found


async def measure(repetitions: int, program: Path | None, only: str, console: Console) -> list[Measured]:
    fast, equal, common = Measured("ours, ttl 5 s, 1 s x 3"), Measured("ours, ttl 20 s"), Measured("ours, 30 s x 3")
    default, fastest = Measured(patroni.DEFAULT.name), Measured(patroni.FASTEST.name)
    rows = [fast, equal, default, fastest, common]
    for number in range(repetitions):
        how = LOSSES[number % len(LOSSES)]
        for row in rows:
            if only not in row.name or (row is common and number >= COMMON_REPETITIONS):
                continue
            match row:
                case _ if row is fast:
                    await ours(FAST, how, row)
                case _ if row is equal:
                    await ours(EQUAL, how, row)
                case _ if row is common:
                    await ours(COMMON, how, row, LOAD)
                case _ if program is not None:
                    timing = patroni.DEFAULT if row is default else patroni.FASTEST
                    await theirs(timing, program, how, row)
                case _:
                    continue
            console.print(f"{number + 1}/{repetitions} {row.name}, {how}: {row.seconds[how][-1]:.2f} s")
    return [row for row in rows if row.all]


def print_results(rows: list[Measured], console: Console) -> None:
    table = Table(title="From the loss of the region to the first acknowledged write, in seconds")
    for heading in ("", "median", "worst", *(f"median, {how}" for how in LOSSES), "repetitions", "lost, at worst"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        each = [f"{median(found):.2f}" if found else "" for found in row.seconds.values()]
        lost = str(max(row.lost)) if row.lost else ""
        table.add_row(row.name, f"{median(row.all):.2f}", f"{max(row.all):.2f}", *each, str(len(row.all)), lost)
    console.print(table)
    for row in rows:
        if row.steps:
            spent = ", ".join(f"{name} {median(seconds):.2f}" for name, seconds in row.steps.items())
            console.print(f"{row.name}: {spent}")


def judge(rows: list[Measured], false_failovers: int, paused: list[float]) -> list[str]:
    """What misses its limit."""
    by_name = {row.name: row.all for row in rows}
    fast, equal = by_name.get("ours, ttl 5 s, 1 s x 3", []), by_name.get("ours, ttl 20 s", [])
    default, fastest = by_name.get(patroni.DEFAULT.name, []), by_name.get(patroni.FASTEST.name, [])
    misses = []
    if fast and (median(fast) > MEDIAN_LIMIT or max(fast) > WORST_LIMIT):
        misses.append(
            f"{median(fast):.2f} s at median and {max(fast):.2f} s at worst: {MEDIAN_LIMIT} and {WORST_LIMIT}"
        )
    if fast and default and median(fast) > 0.5 * median(default):
        misses.append("more than half of Patroni's default")
    if fast and fastest and median(fast) >= median(fastest):
        misses.append("not ahead of Patroni's fastest settings")
    common = by_name.get("ours, 30 s x 3", [])
    if common and max(common) > COMMON_LIMIT:
        misses.append(f"{max(common):.0f} s with probes of 30 s x 3: {COMMON_LIMIT:.0f}")
    misses += [
        f"{row.name}: {max(row.lost)} transactions lost: {LOST_LIMIT}"
        for row in rows
        if max(row.lost, default=0) > LOST_LIMIT
    ]
    for row in rows:
        rest = sum(median(row.steps[step]) for step in REST if step in row.steps)
        if rest > REST_LIMIT:
            misses.append(f"{row.name}: {rest:.1f} s after the fence: {REST_LIMIT:.0f}")
    if equal and fastest and median(equal) > median(fastest):
        misses.append("behind Patroni at equal ttl")
    if false_failovers:
        misses.append(f"{false_failovers} failovers during stalls of {STALL} s")
    if paused and median(paused) > 3:
        misses.append(f"a switchover pauses writes for {median(paused):.2f} s")
    return misses


async def main(arguments: argparse.Namespace) -> int:
    console = Console(width=120)
    console.print(f"{platform.platform()}, Python {platform.python_version()}")
    program = Path(arguments.patroni) if arguments.patroni else None
    if program is None or shutil.which("etcd") is None:
        console.print("Patroni is left out: it needs `make bench-failover` and Debian's etcd-server")
        program = None
    rows = await measure(arguments.repetitions, program, arguments.only, console)
    false_failovers = await stalls(arguments.repetitions) if not arguments.only else 0
    paused = await pauses(arguments.repetitions, console) if not arguments.only else []
    print_results(rows, console)
    if paused:
        console.print(f"switchover: writes paused for {median(paused):.2f} s at median, {max(paused):.2f} s at worst")
        console.print(f"failovers during {arguments.repetitions} stalls of {STALL} s: {false_failovers}")
    misses = judge(rows, false_failovers, paused)
    for miss in misses:
        console.print(f"[red]misses its limit: {miss}[/red]")
    return 1 if misses else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--patroni", help="the program, in an environment of its own")
    parser.add_argument("--only", default="", help="only rows whose name has these words")
    sys.exit(asyncio.run(main(parser.parse_args())))
