"""An installation whose PostgreSQL Patroni manages: a worker of both regions, the lab's Temporal, DNS and stores."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio.client import Client

from drctl.demo.installation import GROUP, RECORD, Keys, View, base_document, dump
from drctl.demo.installation import Secrets as SecretFiles
from lab import Lab
from lab.control import python_environment
from lab.patroni import PASSWORD, USER, Cluster
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.domain.ownership import OwnershipRecord
from recovery.domain.plan import PlanRequest
from recovery.domain.report import RunReport
from recovery.telemetry.metrics import RecoveryMetrics
from workers import operations
from workers.client import connect
from workers.wiring import Wiring

HOME, AWAY = "region-a", "region-b"
SERVICES = {"s3", "witness", "temporal", "dns", "webhook"}
PLAN_SECONDS = 120.0


@dataclass(frozen=True)
class Place:
    """A region's PostgreSQL: the address of ``nodes[0]`` is what its record points at."""

    cluster: Cluster
    nodes: Sequence[str]


@dataclass
class PatroniSite:
    lab: Lab
    config: Config
    client: Client
    wiring: Wiring
    log: Path

    async def run(self, plan: str, **request: Any) -> RunReport:
        wanted = PlanRequest.model_validate({"group": GROUP, "reason": "a test", "requested_by": "pytest", **request})
        handle, _ = await operations.start(self.client, self.config, plan, wanted)
        try:
            async with asyncio.timeout(PLAN_SECONDS):
                return await operations.result(handle)
        except TimeoutError:
            report = await operations.report(handle)
            steps = [f"{step.name} {step.state}: {step.summary or step.error}" for step in report.steps]
            log = await asyncio.to_thread(self.log.read_text)
            raise AssertionError(f"{plan} took too long: {steps}\n{log[-4000:]}") from None

    async def record(self) -> OwnershipRecord:
        found = await (await self.wiring.witness()).read(GROUP)
        assert found is not None
        return found[0]


@contextlib.asynccontextmanager
async def patroni_site(places: Mapping[str, Place], *, spans_regions: bool = False) -> AsyncIterator[PatroniSite]:
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="recovery-patroni-site-"))
    try:
        async with contextlib.AsyncExitStack() as stack:
            lab = await Lab.start(regions=(HOME, AWAY), services=SERVICES)
            stack.push_async_callback(lab.stop)
            file = await asyncio.to_thread(_configuration, lab, folder, places, spans_regions)
            config = await asyncio.to_thread(Config.load, file)
            await stack.enter_async_context(_worker(file, folder / "worker.log"))
            client = await connect(config, Secrets())
            wiring = await stack.enter_async_context(Wiring(config, Secrets(), RecoveryMetrics()))
            yield PatroniSite(lab, config, client, wiring, folder / "worker.log")
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, True)


def _configuration(lab: Lab, folder: Path, places: Mapping[str, Place], spans_regions: bool) -> Path:
    secrets = SecretFiles.below(folder)
    password, dns = secrets.write("patroni.password", PASSWORD), lab.dns()
    group = {
        "tier": "critical",
        "home": HOME,
        "regions": {
            region: {
                "dns_value": place.cluster.host(place.nodes[0]),
                "postgres": {"host": place.cluster.host(place.nodes[0]), "port": place.cluster.port},
            }
            for region, place in places.items()
        },
        "postgres": {
            "user": "postgres", "password": password, "sslmode": "disable", "managed_by": "patroni",
        },
        "patroni": {
            "members": {region: [place.cluster.api(node) for node in place.nodes] for region, place in places.items()},
            "spans_regions": spans_regions, "user": USER, "password": password,
        },
        "critical_tables": ["orders"],
        "dns": {
            "provider": "rfc2136", "server": f"{dns.host}:{dns.port}", "zone": dns.zone,
            "tsig": {
                "name": dns.tsig_key_name,
                "secret": secrets.write("tsig.secret", dns.tsig_secret),
                "algorithm": dns.tsig_algorithm,
            },
            "records": [{"name": RECORD, "type": "A", "ttl": 1}],
        },
        "backup": {
            "locations": [f"store-{region}" for region in places],
            "validation": {"scratch_folder": str(folder / "scratch")},
        },
        "failover": {"policy": "manual", "dns_ttl": 1, "connection_drain_timeout": "2s", "watch_for": "2s"},
    }  # fmt: skip
    file = folder / "recovery.yaml"
    dump(base_document(View(lab), secrets, Keys.write(secrets), {GROUP: group}), file)
    return file


@contextlib.asynccontextmanager
async def _worker(file: Path, log: Path) -> AsyncIterator[None]:
    """One of both regions, and of workflows."""
    command = [sys.executable, "-m", "drctl", "--config", str(file), "worker", "--region", HOME, "--region", AWAY]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, "--metrics-port", "0", stdout=output, stderr=output, env=python_environment()
        )
    try:
        async with asyncio.timeout(60):
            while "is ready" not in await asyncio.to_thread(log.read_text):
                assert process.returncode is None, await asyncio.to_thread(log.read_text)
                await asyncio.sleep(0.1)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
