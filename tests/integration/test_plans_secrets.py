"""No secret leaves the places that it is for: not into histories, reports, logs, messages, points or process lists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import psutil
from temporalio.client import WorkflowHandle

from drctl.demo.installation import GROUP
from drctl.report.page import render_report
from lab.workload import Workload
from recovery.domain.report import RunState
from recovery.ports.object_store import ObjectStore
from tests.integration.installation import AWAY, Site

SAMPLE_EVERY = 0.02
LARGEST_DOCUMENT = 1 << 20


def secrets_of(site: Site) -> dict[str, bytes]:
    """Name -> value of everything in the installation's folder of secrets, and of the application's password."""
    found = {path.name: path.read_text().strip().encode() for path in (site.installation.folder / "secrets").iterdir()}
    assert len(found) >= 12
    assert all(len(value) >= 8 for value in found.values()), "too short to be looked for"
    place = site.lab.postgres(AWAY)
    return found | {"replication": place.app_password.encode()}


class Leaks:
    def __init__(self, secrets: dict[str, bytes]) -> None:
        self._secrets = secrets
        self.found: set[str] = set()
        self.looked_at = 0

    def look(self, where: str, content: bytes | str) -> None:
        body = content.encode() if isinstance(content, str) else content
        self.looked_at += len(body)
        self.found |= {f"{name} in {where}" for name, value in self._secrets.items() if value in body}


@asynccontextmanager
async def process_lists(site: Site, leaks: Leaks) -> AsyncIterator[None]:
    """Looks at the arguments and environments of the workers' children, and at the arguments of every process."""
    stop = asyncio.Event()

    def sample() -> None:
        ours = {worker.process.pid for worker in site.crew.workers}
        for process in _children(ours):
            with suppress(psutil.Error):
                leaks.look(f"environment of {process.name()}", "\0".join(process.environ().values()))
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                leaks.look(f"arguments of {process.name()}", "\0".join(process.cmdline()))

    async def watch() -> None:
        while not stop.is_set():
            await asyncio.to_thread(sample)
            await asyncio.sleep(SAMPLE_EVERY)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        stop.set()
        await watching


def _children(parents: set[int]) -> Iterator[psutil.Process]:
    for pid in parents:
        with suppress(psutil.Error):
            yield from psutil.Process(pid).children(recursive=True)


async def test_no_secret_is_seen_anywhere(site: Site) -> None:
    leaks = Leaks(await asyncio.to_thread(secrets_of, site))
    async with (
        process_lists(site, leaks),
        Workload(site.lab, transactions_per_second=20, file=site.folder / "secrets.log"),
    ):
        backup = await site.run("Backup")
        for point_id in backup.point_ids:
            await site.validated(point_id)
        await site.lab.kill(AWAY, "app")
        assert (await site.run("FullRecovery")).state is RunState.ROLLED_BACK
        await site.lab.restart(AWAY, "app")
        await site.lab.kill("webhook")
        recovered = await site.run("FullRecovery")
        await site.lab.restart("webhook")
    assert recovered.state is RunState.COMPLETED, recovered.error
    assert any("announce-start" in warning for warning in recovered.warnings), "a channel was away, and that was said"

    runs = [run async for run in site.client.list_workflows()]
    assert len(runs) >= 5
    for run in runs:
        handle: WorkflowHandle[object, object] = site.client.get_workflow_handle(run.id, run_id=run.run_id)
        async for event in handle.fetch_history_events():
            leaks.look(f"history of {run.id}", event.SerializeToString())
    reports = await (await site.wiring.reports()).recent(GROUP, 100)
    assert len(reports) >= 4
    for report in reports:
        leaks.look("report", report.model_dump_json())
        leaks.look("page", render_report(report))
    leaks.look("logs of the workers", site.crew.logs())
    leaks.look("messages", await asyncio.to_thread(site.lab.webhook().file.read_text))
    for store in await site.stores():
        await look_at_documents(store, leaks)
    assert leaks.found == set()
    assert leaks.looked_at > 1 << 20
    for point_id in backup.point_ids:
        await (await site.catalogue()).delete_point(GROUP, point_id)


async def look_at_documents(store: ObjectStore, leaks: Leaks) -> None:
    async for info in store.list(f"{GROUP}/"):
        if info.key.endswith(".json") and info.size < LARGEST_DOCUMENT:
            body, _ = await store.get(info.key)
            leaks.look(info.key, body)
