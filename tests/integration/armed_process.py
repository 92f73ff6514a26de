"""A guard or a worker as `drctl` runs it, in which one moment can be made its last one, or a very long one.

    python -m tests.integration.armed_process <control folder> <drctl arguments ...>

The product knows nothing of this: the moments are wrapped from outside. At each of them the process looks for
``armed.json`` (see ``Moment``) in its control folder; where it names this one, the file is renamed to ``struck``.

Moments of a worker: ``activity <id>``, the ids being the engine's: ``fence-primary``, ``record promote-postgres``;
``change names``, between the question who holds the group and the change of its records; and ``seal <step>``, at each
chunk of a backup.
Moments of a guard: ``permit <store>``, between the answer that a store may be made primary and the act; ``demote
<store>``, between the reason for it and the act; ``write record`` and ``write lease of <region>``, between what it
decided on an ownership record or a lease and the conditional write. What it writes into a record may be named instead:
``ask for fence``, ``confirm demotion``, ``prove fence``.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import structlog
from pydantic import BaseModel, Field
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.lock import LockGuard
from recovery.adapters.witness import WitnessStore
from recovery.backup.sealing import SealedChunk, Sealer
from recovery.domain.ownership import OwnershipRecord, RegionLease
from recovery.domain.plan import DnsBefore
from recovery.guard.group import GuardedHere
from recovery.guard.stores import Stores
from workers.zones import ConfiguredZones

ARMED, STRUCK, HELD = "armed.json", "struck", "held"
_store: contextvars.ContextVar[str] = contextvars.ContextVar("store that is being made primary")


class Moment(BaseModel):
    """``number``: the how-manieth time counts. ``kill``: SIGKILL; ``freeze``: SIGSTOP, until somebody thaws it;
    ``hold``: the call waits until ``held`` is removed. ``epoch``: of a record that is written, where it is given."""

    at: str
    side: Literal["before", "after"] = "before"
    number: int = 1
    action: Literal["kill", "freeze", "hold"] = "kill"
    epoch: int | None = None
    token: str = Field(default_factory=lambda: secrets.token_hex(4))


class Trigger:
    def __init__(self, control: Path) -> None:
        self._control = control
        self._seen: dict[str, int] = {}

    def strikes(self, at: str, side: str, epoch: int | None = None) -> Moment | None:
        try:
            moment = Moment.model_validate_json((self._control / ARMED).read_bytes())
        except FileNotFoundError:
            return None
        if (moment.at, moment.side) != (at, side) or moment.epoch not in (None, epoch):
            return None
        key = moment.model_dump_json()
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] < moment.number:
            return None
        if moment.action == "hold":
            (self._control / HELD).touch()
        (self._control / ARMED).rename(self._control / STRUCK)
        return moment

    def now(self, at: str, side: str, epoch: int | None = None) -> None:
        """Where nobody can wait: kills or freezes."""
        moment = self.strikes(at, side, epoch)
        if moment is not None:
            os.kill(os.getpid(), signal.SIGKILL if moment.action == "kill" else signal.SIGSTOP)

    async def here(self, at: str, side: str) -> None:
        moment = self.strikes(at, side)
        if moment is None:
            return
        if moment.action == "hold":
            while await asyncio.to_thread((self._control / HELD).exists):
                await asyncio.sleep(0.02)
        else:
            os.kill(os.getpid(), signal.SIGKILL if moment.action == "kill" else signal.SIGSTOP)


class _Armed(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, trigger: Trigger) -> None:
        super().__init__(next)
        self._trigger = trigger

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        at = f"activity {activity.info().activity_id}"
        await self._trigger.here(at, "before")
        result = await self.next.execute_activity(input)
        await self._trigger.here(at, "after")
        return result


def _arm_worker(trigger: Trigger) -> None:
    original = LockGuard.intercept_activity

    def intercept(self: LockGuard, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Armed(original(self, next), trigger)

    LockGuard.intercept_activity = intercept  # type: ignore[method-assign]
    change, seal = ConfiguredZones.replace, Sealer.seal

    async def change_names(self: ConfiguredZones, changes: list[tuple[DnsBefore, DnsBefore]]) -> None:
        await trigger.here("change names", "before")
        await change(self, changes)

    async def sealed(self: Sealer, chunk: bytes, level: int = 1) -> SealedChunk:
        await trigger.here(f"seal {structlog.contextvars.get_contextvars().get('step')}", "before")
        return await seal(self, chunk, level)

    _replace(ConfiguredZones, "replace", change_names)
    _replace(Sealer, "seal", sealed)


def _written(record: OwnershipRecord) -> str:
    """What a guard says by it."""
    if record.fencing is None:
        return "own the group"
    if record.fence is not None and record.fence.epoch == record.epoch:
        return "prove fence"
    return "confirm demotion" if record.demotion is not None else "ask for fence"


def _arm_guard(trigger: Trigger) -> None:
    against, make, write = GuardedHere.against_promotion, Stores._make_primary, WitnessStore.write
    lease_written, demote = WitnessStore.write_lease, Stores._demote_once

    def against_promotion(self: GuardedHere) -> str | None:
        reason, store = against(self), _store.get("")
        if reason is None and store:
            trigger.now(f"permit {store}", "after")
        return reason

    async def make_primary(self: Stores, name: str, *args: Any) -> Any:
        _store.set(name)  # of this task alone
        return await make(self, name, *args)

    async def write_record(self: WitnessStore, record: OwnershipRecord, *, version: str | None) -> str:
        for at in ("write record", _written(record)):
            trigger.now(at, "before", record.epoch)
        answer = await write(self, record, version=version)
        for at in ("write record", _written(record)):
            trigger.now(at, "after", record.epoch)
        return answer

    async def write_lease(self: WitnessStore, lease: RegionLease, *, version: str | None) -> str:
        trigger.now(f"write lease of {lease.region}", "before")
        answer = await lease_written(self, lease, version=version)
        trigger.now(f"write lease of {lease.region}", "after")
        return answer

    async def demote_once(self: Stores, name: str) -> str | None:
        trigger.now(f"demote {name}", "before")
        return await demote(self, name)

    _replace(GuardedHere, "against_promotion", against_promotion)
    _replace(Stores, "_make_primary", make_primary)
    _replace(Stores, "_demote_once", demote_once)
    _replace(WitnessStore, "write", write_record)
    _replace(WitnessStore, "write_lease", write_lease)


def _replace(owner: type, name: str, by: Callable[..., Any] | Callable[..., Awaitable[Any]]) -> None:
    assert hasattr(owner, name)
    setattr(owner, name, by)


def main(arguments: list[str]) -> None:
    """Becomes `drctl` with the remaining arguments."""
    control, *rest = arguments
    folder = Path(control)
    folder.mkdir(parents=True, exist_ok=True)
    trigger = Trigger(folder)
    _arm_worker(trigger)
    _arm_guard(trigger)
    sys.argv = ["drctl", *rest]
    from drctl.main import main as drctl

    drctl()


if __name__ == "__main__":
    main(sys.argv[1:])
