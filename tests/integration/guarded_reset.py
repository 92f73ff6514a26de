"""Mends what a test broke: the network is whole, everything runs, one region is active and the other follows it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from temporalio.service import RPCError

from lab.state import ATTENDANTS, COMPANION, GUARD, OUTSIDE, WORKER
from recovery.domain.guarding import StoreRole
from recovery.domain.ownership import Phase
from recovery.domain.report import RunState
from recovery.health.quorum import Vote
from tests.integration.armed_site import go_on

if TYPE_CHECKING:
    from tests.integration.guarded_site import GuardedSite


async def reset(site: GuardedSite) -> None:
    await site.lab.heal()
    site.installation.disarm()
    state = site.lab.describe()
    await go_on([server for server in state.servers if server.service in (GUARD, WORKER)])
    for region in (*site.installation.regions, OUTSIDE):
        if any(server.region == region and server.state == "frozen" for server in state.servers):
            await site.lab.thaw(region)
    await restart_what_ended(site)
    await _end_plans(site)
    await site.became_active(await site.owner())
    for region in site.others:
        if not await site.follows(region):
            await _reprotect(site, region)
    await _steady(site)


async def restart_what_ended(site: GuardedSite) -> None:
    """All at once; what attends to stores comes after them."""
    ended = [server for server in site.lab.describe().servers if server.state in ("killed", "exited")]
    ours = [
        server
        for server in ended
        if server.service not in ("postgres", COMPANION) and not server.service.startswith(("workload", "writers"))
    ]
    late = [server for server in ours if server.service in ATTENDANTS]
    for wave in ([server for server in ours if server not in late], late):
        await asyncio.gather(*(site.lab.restart(server.region, server.service) for server in wave))


async def _end_plans(site: GuardedSite) -> None:
    """Plans that still work get the time to end; the monitor forgets earlier losses."""
    with contextlib.suppress(AssertionError):
        await site.no_plans()
    async for run in site.client.list_workflows("ExecutionStatus = 'Running'"):
        if run.id.startswith("monitor/"):
            continue
        with contextlib.suppress(RPCError):  # it may end meanwhile
            await site.client.get_workflow_handle(run.id).terminate("the test is over")


async def wait_for_roles(site: GuardedSite, region: str) -> None:
    """Waits until the region's guard says of all its stores what they are, and none is a primary."""

    async def answers() -> bool:
        status = await site.status(region)
        states = [store for group in status.groups for store in group.stores] if status else []
        return bool(states) and all(store.role not in (StoreRole.UNREACHABLE, StoreRole.PRIMARY) for store in states)

    await site.eventually(answers, 60, f"the guard of {region} did not say what stands there")


async def _reprotect(site: GuardedSite, region: str) -> None:
    """Stores that are clean follow by themselves; what was a primary waits for a plan."""
    await wait_for_roles(site, region)
    if await site.follows(region):
        return
    await site.no_plans()
    report = await site.run("Reprotect", region=region)
    assert report.state is RunState.COMPLETED, f"{report.error}\n{site.logs()}"


async def _wanting(site: GuardedSite) -> str:
    """What keeps the site from being steady; empty when nothing does."""
    record, view = await site.record(), await site.health()
    if record.phase is not Phase.STEADY or record.run is not None or record.fencing is not None:
        return f"the record is {record.phase}, run {record.run}"
    if view is None or view.votes is None or view.outage is not None:
        return f"the monitor says {view}"
    healthy = [ballot for ballot in view.votes.ballots if ballot.vote is Vote.HEALTHY]
    if len(healthy) != len(site.installation.vantage_points):
        return f"not all vantage points vote healthy: {view.votes}"
    statuses = {region: await site.status(region) for region in site.installation.regions}
    without = [region for region, status in statuses.items() if status is None or not status.holds_lease]
    if without:
        return f"no lease is held in {without}"
    idle = [region for region in site.others if not await site.follows(region)]
    return f"{idle} do not follow: {[statuses[region] for region in idle]}" if idle else ""


async def _steady(site: GuardedSite) -> None:
    """Every vantage point votes, the other region follows, both leases are held, and the client buys."""

    wanting = ""

    async def so() -> bool:
        nonlocal wanting
        wanting = await _wanting(site)
        return not wanting

    try:
        await site.eventually(so, 120, "the site did not become steady")
    except AssertionError as error:
        raise AssertionError(f"{wanting}: {error}") from None
    await site.service_back(time.time())
