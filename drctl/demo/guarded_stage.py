"""Everything that stands on the stage of the failover's story: lab, guards, monitors, workers, client and checker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import redis.asyncio
from temporalio.client import Client
from temporalio.service import RPCError

from drctl.demo.guarded import FailoverTimes, GuardedInstallation, install_guarded
from drctl.demo.installation import GROUP, RECORD
from lab import Lab
from lab.shop import load_shop
from lab.state import COMPANION, GUARD, MONITOR, WORKER
from lab.workload import LossReport, Workload, first_after, lost_commits, pauses
from lab.writers import Writers
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.domain.plan import PlanRequest
from recovery.domain.report import RunReport
from recovery.errors import NotFound, Unreachable
from recovery.health.quorum import Vote
from recovery.telemetry.metrics import RecoveryMetrics
from workers import operations
from workers.client import connect
from workers.operations import Handle
from workers.regions import RegionLine, region_lines
from workers.wiring import Wiring
from workflows.health_state import HealthView

REGION_A, REGION_B = "region-a", "region-b"
PATIENCE = 90.0  # seconds

__all__ = ["GROUP", "REGION_A", "REGION_B", "GuardedStage", "set_guarded_stage"]

Follow = Callable[[Handle], Awaitable[RunReport]]


@dataclass
class GuardedStage:
    """Times are unix seconds; ``since`` is when the checker began to look on."""

    lab: Lab
    installation: GuardedInstallation
    config: Config
    client: Client
    wiring: Wiring
    workload: Workload
    writers: Writers
    since: float

    # Plans.

    async def start(self, plan: str, **request: Any) -> Handle:
        """As an operator does it."""
        wanted = PlanRequest.model_validate({"group": GROUP, "requested_by": "demo", "reason": "demo", **request})
        handle, _ = await operations.start(self.client, self.config, plan, wanted)
        return handle

    async def run(self, plan: str, follow: Follow, **request: Any) -> RunReport:
        """Starts a plan, and follows it to its end."""
        return await follow(await self.start(plan, **request))

    async def find(self, name: str) -> Handle:
        """A run that something else starts, as soon as it is there. Raises Unreachable after a while."""
        until = time.time() + PATIENCE
        while time.time() < until:
            with contextlib.suppress(NotFound):
                return await operations.find(self.client, name)
            await asyncio.sleep(0.1)
        raise Unreachable(f"no run {name} began within {PATIENCE:.0f} s")

    async def failover_after(self, moment: float) -> Handle:
        """The failover that the monitors start. Raises Unreachable when none comes in time."""
        until, view = time.time() + PATIENCE, None
        while time.time() < until:
            view = await self.health()
            if view is not None and view.run is not None and view.run.started_at.timestamp() >= moment:
                return await operations.find(self.client, view.run.workflow_id)
            await asyncio.sleep(0.1)
        said = f": {view.note or view.policy_note or 'no word of why'}" if view is not None else ""
        raise Unreachable(f"the monitors started no failover within {PATIENCE:.0f} s{said}")

    async def health(self) -> HealthView | None:
        """What the group's monitor knows; None while it does not answer."""
        handle = self.client.get_workflow_handle(f"health/{GROUP}")
        try:
            async with asyncio.timeout(5):
                found: HealthView = await handle.query("health", result_type=HealthView)
                return found
        except (RPCError, TimeoutError):
            return None

    async def regions(self) -> list[RegionLine]:
        return await region_lines(self.wiring, [GROUP])

    async def publish(self, messages: int) -> None:
        """So many orders into the active region's stream, each acknowledged."""
        client = await nats.connect(self.lab.jetstream(REGION_A).admin_url)
        try:
            stream = client.jetstream()
            orders = (stream.publish(f"shop.orders.{number}", b"an order") for number in range(messages))
            await asyncio.gather(*orders)
        finally:
            await client.close()

    async def fill_carts(self, carts: int) -> None:
        """So many keys into the active region's Redis, as soon as its guard has made it a primary."""
        until = time.time() + PATIENCE
        async with redis.asyncio.from_url(self.lab.redis(REGION_A)) as client:
            while True:
                try:
                    await client.mset({f"cart:{number}": "a book" for number in range(carts)})
                    return
                except redis.ReadOnlyError:
                    if time.time() > until:
                        raise
                await asyncio.sleep(0.1)

    # Regions.

    async def bring_back(self, region: str) -> None:
        """Its servers, its guard, its worker and its monitor start again, as after a power cut; PostgreSQL does not."""
        for server in self.lab.describe().servers:
            again = server.region == region and server.state in ("killed", "exited")
            if again and server.service not in ("postgres", COMPANION):
                await self.lab.restart(region, server.service)
        await self.all_vote()

    async def all_vote(self) -> None:
        """Waits until every vantage point sees the group healthy. Raises Unreachable after a while."""
        until = time.time() + PATIENCE
        while time.time() < until:
            view = await self.health()
            ballots = view.votes.ballots if view is not None and view.votes is not None else []
            if [ballot.vote for ballot in ballots] == [Vote.HEALTHY] * len(self.installation.vantage_points):
                return
            await asyncio.sleep(0.2)
        raise Unreachable(f"not every vantage point saw the group healthy within {PATIENCE:.0f} s")

    # The client.

    async def service_back(self, after: float) -> float:
        """When the client bought again for the first time after a moment. Raises Unreachable after a while."""
        until = time.time() + PATIENCE
        while time.time() < until:
            found = await asyncio.to_thread(first_after, self.workload.file, after)
            if found is not None:
                return found
            await asyncio.sleep(0.1)
        raise Unreachable(f"the client could not buy again within {PATIENCE:.0f} s")

    async def loss(self, region: str) -> LossReport:
        """Every acknowledged commit compared with what the region's database has."""
        return await lost_commits(self.workload.file, self.lab.postgres(region).dsn())

    async def longest_pause(self, since: float) -> float:
        """Seconds in which the client could not buy, at a stretch, since a moment."""
        found = await asyncio.to_thread(pauses, self.workload.file, 0.05)
        return max((pause.seconds for pause in found if pause.end >= since), default=0.0)


@contextlib.asynccontextmanager
async def set_guarded_stage(
    lab: Lab, folder: Path, *, megabytes: int, transactions_per_second: float, say: Callable[[str], None]
) -> AsyncIterator[GuardedStage]:
    """Loads the shop, starts everything and waits until all of it is in service; it ends with the block or the lab."""
    await load_shop(lab.postgres(REGION_A).dsn(), megabytes)
    say(f"the shop's database is loaded, {megabytes} MB, and streams to {REGION_B}")
    installation = await asyncio.to_thread(install_guarded, lab, folder, FailoverTimes(cooldown=1.0))
    writers = Writers(lab)
    workload = Workload(lab, name=RECORD, transactions_per_second=transactions_per_second)
    await writers.prepare(REGION_A)
    await lab.hand_over()
    await installation.start(lab, (GUARD,))
    say("a guard beside each region's stores: only the one that holds its region's lease makes a primary")
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(
            installation.start(lab, (WORKER, MONITOR)),
            stack.enter_async_context(workload),
            stack.enter_async_context(writers),
        )
        since = time.time()
        say(f"a client buys {transactions_per_second:.0f} times a second from {RECORD}")
        config = await asyncio.to_thread(Config.load, installation.config_file)
        client = await connect(config, Secrets())
        wiring = await stack.enter_async_context(Wiring(config, Secrets(), RecoveryMetrics()))
        stage = GuardedStage(lab, installation, config, client, wiring, workload, writers, since)
        await stage.all_vote()
        say(f"{len(installation.vantage_points)} vantage points look at the active region and find it healthy")
        yield stage
