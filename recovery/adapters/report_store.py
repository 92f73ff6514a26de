"""Reports as JSON objects: ``reports/<group>/<start>-<run>.json``."""

from __future__ import annotations

import asyncio

import structlog
from pydantic import ValidationError

from recovery.domain.report import RunReport
from recovery.errors import NotFound
from recovery.ports.object_store import ObjectStore

log = structlog.get_logger("recovery.reports")


class ObjectReportStore:
    """A ReportStore on any object store; keys sort by the time at which the run started."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def store(self, report: RunReport) -> str:
        key = f"{_folder(report.group)}{report.started_at:%Y%m%dT%H%M%SZ}-{report.run_id}.json"
        await self._store.put(key, report.model_dump_json(indent=1).encode())
        return key

    async def recent(self, group: str, limit: int) -> list[RunReport]:
        keys = [info.key async for info in self._store.list(_folder(group))]
        reports = await asyncio.gather(*(self._read(key) for key in sorted(keys, reverse=True)[:limit]))
        return [report for report in reports if report is not None]

    async def find(self, group: str, run_id: str) -> RunReport:
        async for info in self._store.list(_folder(group)):
            if run_id in info.key:
                report = await self._read(info.key)
                if report is not None:
                    return report
        raise NotFound(f"no report of run {run_id} of group {group} is stored: drctl status lists the runs")

    async def _read(self, key: str) -> RunReport | None:
        body, _ = await self._store.get(key)
        try:
            return RunReport.model_validate_json(body)
        except ValidationError as error:
            log.warning("unreadable report left out", key=key, error=str(error))
            return None


def _folder(group: str) -> str:
    return f"reports/{group}/"
