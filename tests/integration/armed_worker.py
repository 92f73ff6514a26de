"""A worker as `drctl worker` runs it, in which one call of one adapter can be made to fail in a chosen way.

    python -m tests.integration.armed_worker <recovery.yaml> <regions, comma separated> <control folder>

The product knows nothing of this: the methods named in ``CALLS`` are wrapped from outside. Before and after each call
the wrapper looks for ``<control>/armed.json`` (see ``Fault``); where it names this call, the file is renamed to
``fired.json``, so that exactly one process of all that share the folder acts, once. Every call is noted in
``<control>/calls.log``: step, method, first argument.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import psutil
import structlog
from pydantic import BaseModel
from temporalio import activity

import recovery.errors
from recovery.adapters import point_judge, recovery_points
from recovery.adapters.nats.restores import StreamRestores
from recovery.adapters.nats.restoring import Upload
from recovery.adapters.postgres import LocalPostgres, LocalPostgresHost, validation
from recovery.adapters.postgres.restore import PhysicalRestore
from recovery.adapters.recovery_points import StoredRecoveryPoints
from recovery.adapters.redis.restores import RedisRestores
from recovery.adapters.restores import PostgresRestores
from recovery.adapters.s3 import S3Store
from recovery.adapters.search.restores import SearchRestores
from recovery.adapters.witness import WitnessStore
from recovery.backup import catalogue
from recovery.backup.sealing import Sealer
from recovery.backup.upload import WriteBudget
from recovery.config import Config
from recovery.telemetry.logs import configure_logs
from workers import wiring
from workers.worker import WorkerPlan, run_worker
from workers.zones import ConfiguredZones

CALLS: dict[type, tuple[str, ...]] = {
    StoredRecoveryPoints: ("take", "fill", "validate", "repair", "expire", "remove_unfinished"),
    RedisRestores: ("restore", "verify", "remove"),
    StreamRestores: ("restore", "verify", "remove"),
    SearchRestores: ("verify",),
    PostgresRestores: ("restore", "verify", "open_writes", "remove", "write_probe"),
    LocalPostgres: ("validate", "restore_physical", "restore_logical", "remove_restored", "remove_restored_database"),
    Upload: ("finish",),
    WitnessStore: ("write",),
    ConfiguredZones: ("replace",),
    LocalPostgresHost: ("launch",),
    PhysicalRestore: ("unpack",),
    S3Store: ("put", "get", "delete"),
    Sealer: ("seal",),
}
FUNCTIONS: dict[ModuleType, tuple[str, ...]] = {validation: ("observe",)}

PATIENCE = "TEST_PATIENCE_SECONDS"
"""Environment variable: for how long a backup waits for a location that is slower than the others."""


class Fault(BaseModel):
    """What happens at the ``number``-th call of ``method``.

    Only calls count whose step is ``step``, whose activity is ``activity`` and whose first argument ends with ``key``,
    where these are given. ``kill``: SIGKILL to this process. ``hold``: the call waits until ``<control>/held.json`` is
    removed. ``fail``: the call raises the error of this ``error`` class with the ``words``.
    """

    method: str
    step: str = ""
    activity: str = ""
    key: str = ""
    when: Literal["before", "after"] = "before"
    number: int = 1
    action: Literal["kill", "hold", "fail"] = "kill"
    error: str = "Unreachable"
    words: str = "a fault of the test's own"


class _Trigger:
    def __init__(self, control: Path) -> None:
        self._control = control
        self._seen: dict[str, int] = {}

    def note(self, method: str, first: str) -> None:
        with (self._control / "calls.log").open("a") as log:
            log.write(f"{_step()} {method} {first}\n")

    async def pull(self, method: str, when: str, first: str) -> None:
        fault = self._armed()
        if fault is None or (fault.method, fault.when) != (method, when) or not _meant(fault, first):
            return
        key = fault.model_dump_json()
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] < fault.number:
            return
        target = "held.json" if fault.action == "hold" else "fired.json"
        try:
            (self._control / "armed.json").rename(self._control / target)
        except FileNotFoundError:
            return  # another process was first
        await self._act(fault)

    async def _act(self, fault: Fault) -> None:
        if fault.action == "kill":
            # What outlives a killed worker would show in the tests that look for it: the kernel ends its children.
            (self._control / "children").write_text(
                " ".join(str(child.pid) for child in psutil.Process().children(True))
            )
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.action == "fail":
            raise getattr(recovery.errors, fault.error)(fault.words)
        (self._control / "holder").write_text(str(os.getpid()))
        held = self._control / "held.json"
        try:
            while await asyncio.to_thread(held.exists):
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            (self._control / "cancelled").write_text(str(time.time()))
            raise

    def _armed(self) -> Fault | None:
        try:
            return Fault.model_validate_json((self._control / "armed.json").read_bytes())
        except FileNotFoundError:
            return None


def _step() -> str:
    return str(structlog.contextvars.get_contextvars().get("step", "-"))


def _meant(fault: Fault, first: str) -> bool:
    if fault.step not in ("", _step()) or not first.endswith(fault.key):
        return False
    return not fault.activity or (activity.in_activity() and activity.info().activity_type == fault.activity)


def _arm(owner: Any, name: str, trigger: _Trigger) -> None:
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)
    label = f"{owner.__name__.rpartition('.')[2]}.{name}"
    skipped = 1 if isinstance(owner, type) else 0  # self

    @functools.wraps(original)
    async def call(*args: Any, **kwargs: Any) -> Any:
        first = args[skipped] if len(args) > skipped and isinstance(args[skipped], str) else ""
        trigger.note(label, first)
        await trigger.pull(label, "before", first)
        result = await original(*args, **kwargs)
        await trigger.pull(label, "after", first)
        return result

    setattr(owner, name, call)


def _hurry() -> None:
    """Patience for stores as a test has it, not as a production has it."""
    patience = float(os.environ.get(PATIENCE, WriteBudget.patience_seconds))
    brief = functools.partial(
        WriteBudget, object_seconds=8, attempt_seconds=8, cleanup_seconds=15, patience_seconds=patience
    )
    for module, name, value in (
        (wiring, "WriteBudget", brief),
        (catalogue, "REQUEST_SECONDS", 5.0),
        (point_judge, "REQUEST_SECONDS", 5.0),
        (recovery_points, "REQUEST_SECONDS", 5.0),
    ):
        assert hasattr(module, name)
        setattr(module, name, value)


def _say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    config_file, regions, control = arguments
    configure_logs("json", "INFO")
    _hurry()
    trigger = _Trigger(Path(control))
    for owner, names in (*CALLS.items(), *FUNCTIONS.items()):
        for name in names:
            _arm(owner, name, trigger)
    plan = WorkerPlan(Config.load(Path(config_file)), regions.split(","), "127.0.0.1", 0)
    asyncio.run(run_worker(plan, ready=_say))


if __name__ == "__main__":
    main(sys.argv[1:])
