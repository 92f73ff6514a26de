"""The outside of a chaos run: files and one SQLite database, so that it survives every process that is killed.

Each group has a folder of its own. An effect is a file; what happened to it, and in which order, stands in a log. The
ownership records are a true compare-and-swap register. Faults lie in wait as files too, and each strikes once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from temporalio import activity
from temporalio.exceptions import ApplicationError

from recovery.domain.ownership import OwnershipRecord
from recovery.domain.report import RunReport
from recovery.errors import Contended, NotFound
from recovery.ports.notify import Markup, Severity

Kind = Literal["kill", "fail", "block", "freeze"]
Side = Literal["before", "after"]


@dataclass(frozen=True)
class Fault:
    """``at`` is an activity's id (``restore-database``, ``undo restore-database``), ``side`` that of its effect."""

    kind: Kind
    at: str
    side: Side

    @property
    def name(self) -> str:
        return f"{self.kind} {self.side} {self.at}"


@dataclass(frozen=True)
class Call:
    """One attempt of an activity."""

    at: float  # Unix time
    activity: str
    attempt: int
    process: int


class World:
    """What one group's runs have done to the outside."""

    def __init__(self, root: Path, group: str) -> None:
        self.folder = root / group
        self.effects = self.folder / "effects"
        self.faults = self.folder / "faults"

    def create(self, faults: list[Fault]) -> None:
        self.effects.mkdir(parents=True)
        self.faults.mkdir()
        (self.folder / "faults.json").write_text(json.dumps([asdict(fault) for fault in faults]))

    # Effects: each is idempotent, as every real step must be.

    def do(self, name: str) -> None:
        try:
            (self.effects / name).touch(exist_ok=False)
        except FileExistsError:
            return
        self._append("log", f"do {name}")

    def undo(self, name: str) -> None:
        try:
            (self.effects / name).unlink()
        except FileNotFoundError:
            return
        self._append("log", f"undo {name}")

    @property
    def present(self) -> set[str]:
        return {path.name for path in self.effects.iterdir()}

    @property
    def log(self) -> list[str]:
        return self._lines("log")

    # Calls

    def called(self, name: str) -> None:
        call = Call(time.time(), name, activity.info().attempt, os.getpid())
        self._append("calls", json.dumps(asdict(call)))

    @property
    def calls(self) -> list[Call]:
        return [Call(**json.loads(line)) for line in self._lines("calls")]

    # Faults

    async def meet(self, at: str, side: Side) -> None:
        """A fault that lies in wait on this side of this activity strikes; the first to come is the only victim."""
        for values in json.loads((self.folder / "faults.json").read_text()):
            fault = Fault(**values)
            if (fault.at, fault.side) == (at, side) and self._strikes(fault):
                await self._strike(fault)

    def _strikes(self, fault: Fault) -> bool:
        try:
            (self.faults / f"{fault.name} struck").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    async def _strike(self, fault: Fault) -> None:
        match fault.kind:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "fail":
                raise ApplicationError(f"{fault.at} was told to fail", 1, type="Refused", non_retryable=True)
            case "block":
                await self._blocked(fault)

    async def _blocked(self, fault: Fault) -> None:
        try:
            while not (self.faults / f"{fault.name} released").exists():
                activity.heartbeat()
                await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            (self.faults / f"{fault.name} cancelled").touch()
            raise

    def release(self, fault: Fault) -> None:
        (self.faults / f"{fault.name} released").touch()

    def struck(self, fault: Fault) -> float | None:
        """When the fault struck (Unix time), or None."""
        return self._when(f"{fault.name} struck")

    def cancelled(self, fault: Fault) -> float | None:
        """When a cancellation reached the step that the fault blocks (Unix time), or None."""
        return self._when(f"{fault.name} cancelled")

    def _when(self, mark: str) -> float | None:
        path = self.faults / mark
        return path.stat().st_mtime if path.exists() else None

    def _append(self, file: str, line: str) -> None:
        with (self.folder / file).open("a") as out:
            out.write(line + "\n")

    def _lines(self, file: str) -> list[str]:
        path = self.folder / file
        return path.read_text().splitlines() if path.exists() else []


class SqliteOwnership:
    """``recovery.ports.ownership.OwnershipStore`` in a file, with transactions that exclude other processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE IF NOT EXISTS record (name TEXT PRIMARY KEY, body TEXT, version INTEGER)")
        database.close()

    async def read(self, group: str) -> tuple[OwnershipRecord, str] | None:
        return await asyncio.to_thread(self._read, group)

    async def write(self, record: OwnershipRecord, *, version: str | None) -> str:
        return await asyncio.to_thread(self._write, record, version)

    def _read(self, group: str) -> tuple[OwnershipRecord, str] | None:
        database = self._connect()
        try:
            row = database.execute("SELECT body, version FROM record WHERE name = ?", (group,)).fetchone()
        finally:
            database.close()
        return (OwnershipRecord.model_validate_json(row[0]), str(row[1])) if row else None

    def _write(self, record: OwnershipRecord, version: str | None) -> str:
        database = self._connect()
        try:
            database.execute("BEGIN IMMEDIATE")
            row = database.execute("SELECT version FROM record WHERE name = ?", (record.group,)).fetchone()
            if (str(row[0]) if row else None) != version:
                raise Contended(f"the record of {record.group} is not version {version} any more")
            number = (row[0] if row else 0) + 1
            body = record.model_dump_json()
            database.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", (record.group, body, number))
            database.commit()
        finally:
            database.close()
        return str(number)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=10, isolation_level=None)


class FileReports:
    """``recovery.ports.reports.ReportStore`` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    async def store(self, report: RunReport) -> str:
        (self._folder / f"{report.run_id}.json").write_text(report.model_dump_json())
        return report.run_id

    async def recent(self, group: str, limit: int, plan: str | None = None) -> list[RunReport]:
        return []

    async def find(self, group: str, run_id: str) -> RunReport:
        path = self._folder / f"{run_id}.json"
        if not path.exists():
            raise NotFound(f"there is no report of run {run_id}")
        return RunReport.model_validate_json(path.read_text())


class FileNotifier:
    """``recovery.ports.notify.Notifier`` into a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def send(self, severity: Severity, title: str, body: str, markup: Markup = Markup.NONE) -> list[str]:
        with self._path.open("a") as out:
            out.write(json.dumps([severity, title, body]) + "\n")
        return ["file"]
