"""Starts a whole guarded installation, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from drctl.demo.guarded import FailoverTimes, GuardedInstallation, install_guarded
from drctl.demo.installation import GROUP
from lab import Lab
from lab.shop import load_shop
from lab.state import GUARD, MONITOR, WORKER
from lab.workload import Workload
from lab.writers import Writers
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.telemetry.metrics import RecoveryMetrics
from tests.integration.armed_site import ArmedInstallation
from tests.integration.guarded_site import GuardedSite
from workers.client import connect
from workers.wiring import Wiring

SERVICES = {"postgres", "nats", "redis", "app", "witness", "temporal", "dns", "webhook"}
REGIONS = ("region-a", "region-b")
GUARDS_ALONE = {"nats", "redis"}
"""What is a primary by a guard alone."""
SHOP_MEGABYTES = 10
TRANSACTIONS_PER_SECOND = 25.0
# A machine that runs other tests beside these answers a probe late now and then.
TIMES = FailoverTimes(timeout=2.0, cooldown=1.0, drain=2.0, watch_for=2.0)


@contextlib.asynccontextmanager
async def guarded_site(
    times: FailoverTimes = TIMES,
    *,
    environment: Mapping[str, str] | None = None,
    amend: Callable[[dict[str, Any]], None] | None = None,
    prepare: Callable[[Lab, ArmedInstallation], Awaitable[None]] | None = None,
    guards: bool = True,
    regions: Sequence[str] = REGIONS,
    sites: Mapping[str, str] | None = None,
    without: Collection[str] = (),
) -> AsyncIterator[GuardedSite]:
    """Starts everything, and ends everything.

    ``amend`` changes the group's configuration; ``prepare`` does what else has to be done before guards start. Without
    ``guards`` there are none, and no store that only a guard would make a primary: no Redis, no JetStream. Such a site
    cannot be ``reset``. ``sites``: of regions that are lost together with another one. ``without``: stores.
    """
    folder = await asyncio.to_thread(_made_folder)
    try:
        async with contextlib.AsyncExitStack() as stack:
            services = SERVICES.difference(without, () if guards else GUARDS_ALONE)
            lab = await Lab.start(guarded=True, services=services, regions=regions)
            stack.push_async_callback(lab.stop)
            home = lab.describe().regions[0]
            await load_shop(lab.postgres(home).dsn(), SHOP_MEGABYTES)
            installed = await asyncio.to_thread(_installed, lab, folder, times, amend, guards, sites or {})
            installation = ArmedInstallation.of(installed)
            if prepare is not None:
                await prepare(lab, installation)
            writers, workload = Writers(lab), Workload(lab, transactions_per_second=TRANSACTIONS_PER_SECOND)
            await writers.prepare(home)
            if guards:
                await lab.hand_over()
                await installation.start(lab, (GUARD,))
            await asyncio.gather(
                installation.start(lab, (WORKER, MONITOR), environment), workload.start(), writers.start()
            )
            config = await asyncio.to_thread(Config.load, installation.config_file)
            client = await connect(config, Secrets())
            wiring = await stack.enter_async_context(Wiring(config, Secrets(), RecoveryMetrics()))
            asked = await wiring.guards()
            site = GuardedSite(lab, folder, installation, config, client, wiring, asked, workload, writers, home)
            if guards:
                await site.reset()
            yield site
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _installed(
    lab: Lab,
    folder: Path,
    times: FailoverTimes,
    amend: Callable[[dict[str, Any]], None] | None,
    guards: bool,
    sites: Mapping[str, str],
) -> GuardedInstallation:
    installed, yaml = install_guarded(lab, folder, times), YAML()
    for file in installed.files.values():
        document = yaml.load(file)
        if amend is not None:
            amend(document["groups"][GROUP])
        if not guards:
            del document["guards"]
            for region in document["regions"].values():
                del region["guard"]
        for name, place in sites.items():
            document["regions"][name]["site"] = place
        yaml.dump(document, file)
    return installed


def _made_folder() -> Path:
    """As root, the database's user has to pass through it."""
    folder = Path(tempfile.mkdtemp(prefix="recovery-guarded-"))
    folder.chmod(0o711)
    return folder
