"""Reports as JSON objects: ``reports/<group>/<plan>/<start>-<run>.json``.

An earlier version had them in the group's own folder, ``reports/<group>/<start>-<run>.json``; those are still found.
"""

from __future__ import annotations

import asyncio

import structlog
from pydantic import ValidationError

from recovery.domain.report import RunReport
from recovery.errors import NotFound
from recovery.ports.object_store import ObjectStore

log = structlog.get_logger("recovery.reports")

CENTURY = "20"
"""So old names begin, and no plan's."""


class ObjectReportStore:
    """A ReportStore on any object store; names sort by the time at which the run started."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def store(self, report: RunReport) -> str:
        key = f"{_folder(report.group, report.plan)}{report.started_at:%Y%m%dT%H%M%SZ}-{report.run_id}.json"
        await self._store.put(key, report.model_dump_json(indent=1).encode())
        return key

    async def recent(self, group: str, limit: int, plan: str | None = None) -> list[RunReport]:
        if plan is None:
            keys = await self._keys(_folder(group))
        else:
            # The old ones teach only until the plan has run again: they are as many as all plans' runs were.
            keys = await self._keys(_folder(group, plan)) or await self._keys(_folder(group) + CENTURY)
        newest = sorted(keys, key=_name, reverse=True)[:limit]
        reports = await asyncio.gather(*(self._read(key) for key in newest))
        return [report for report in reports if report is not None and plan in (None, report.plan)]

    async def find(self, group: str, run_id: str) -> RunReport:
        async for info in self._store.list(_folder(group)):
            if run_id in info.key:
                report = await self._read(info.key)
                if report is not None:
                    return report
        raise NotFound(f"no report of run {run_id} of group {group} is stored: drctl status lists the runs")

    async def _keys(self, prefix: str) -> list[str]:
        return [info.key async for info in self._store.list(prefix)]

    async def _read(self, key: str) -> RunReport | None:
        body, _ = await self._store.get(key)
        try:
            return RunReport.model_validate_json(body)
        except ValidationError as error:
            log.warning("unreadable report left out", key=key, error=str(error))
            return None


def _folder(group: str, plan: str | None = None) -> str:
    return f"reports/{group}/" if plan is None else f"reports/{group}/{plan}/"


def _name(key: str) -> str:
    return key.rpartition("/")[2]
