"""The lease of the guard's own region: taken, renewed, lost and taken again; and the promises that bridge a silence."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from recovery.errors import Contended, RecoveryError, Unreachable
from recovery.guard.clock import boottime, utc
from recovery.guard.lease import Held, Watched, may_take
from recovery.ports.ownership import LeaseStore

log = structlog.get_logger("recovery.guard")

KEPT_NAMES = 64


def this_machine() -> str:
    """What tells this host from one that got a copy of its disk. Blocking; empty where the system says nothing."""
    found = []
    for file in (Path("/etc/machine-id"), Path("/sys/class/dmi/id/product_uuid")):  # the second is root's alone
        try:
            found.append(file.read_text().strip())
        except OSError:
            continue
    return hashlib.sha256("/".join(found).encode()).hexdigest()[:16] if any(found) else ""


class Instances:
    """Names of the guard's processes on this state folder. Whoever holds the folder's lock knows the former are dead.

    A copy of the folder on another machine proves nothing of the kind: there the names of the first may be alive.

    Blocking. A name is written down before it is used anywhere.
    """

    def __init__(self, folder: Path, region: str, machine: str | None = None) -> None:
        self._file = folder / "instances.json"
        self._region = region
        self._machine = this_machine() if machine is None else machine
        self._names = self._read()

    def _read(self) -> list[str]:
        try:
            found = json.loads(self._file.read_text())
        except (FileNotFoundError, ValueError):
            return []
        if isinstance(found, list):  # as earlier versions wrote it
            return [str(name) for name in found]
        if not isinstance(found, dict) or found.get("machine") != self._machine:
            log.warning("the state folder is another machine's: its leases have to end by themselves", file=self._file)
            return []
        return [str(name) for name in found.get("names", [])]

    @property
    def names(self) -> list[str]:
        return list(self._names)

    def another(self) -> str:
        """A name that was never used."""
        name = f"{self._region}/{secrets.token_hex(4)}"
        self._names = [*self._names, name][-KEPT_NAMES:]
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps({"machine": self._machine, "names": self._names}))
        new.replace(self._file)
        return name


@dataclass(frozen=True)
class Pace:
    """Seconds: the lease's ttl, what watchers wait beyond it, and for how long one request to the witness may take."""

    ttl: float
    margin: float

    @property
    def request(self) -> float:
        """Several requests that hang fit into one ttl; and one that is slow on a busy machine still counts."""
        return min(2.0, self.ttl / 5)

    @property
    def watch(self) -> float:
        """Between two looks at another region's lease."""
        return min(0.25, self.ttl / 12)


class Holding:
    """Takes and renews the region's lease for as long as ``run`` runs.

    Args:
        changed: called whenever ``held`` is another one: renewed, lost, or a new instance.
        succeeded: called with the time right before the lease is taken that a process had which may have promised
            something: not one of this state folder.
    """

    def __init__(
        self,
        region: str,
        pace: Pace,
        store: LeaseStore,
        instances: Instances,
        changed: Callable[[], None],
        clock: Callable[[], float] = boottime,
        succeeded: Callable[[float], None] = lambda now: None,
    ) -> None:
        self.pace = pace
        self._succeeded = succeeded
        self._region = region
        self._store = store
        self._instances = instances
        self._changed = changed
        self._clock = clock
        self._own = Watched(region)
        self._released = False
        self.held = Held(region, instances.another(), pace.ttl)
        self.trouble: str | None = "the lease was not taken yet"

    @property
    def instance(self) -> str:
        return self.held.instance

    def valid(self) -> bool:
        return self.held.valid(self._clock())

    async def run(self) -> None:
        while not self._released:
            if await self._take():
                await self._keep()
            if not self._released:
                self._lose()

    async def release(self) -> None:
        """Gives the lease back, when nothing of the region is primary any more. Best effort: it ends by itself too."""
        self._released = True
        if self.held.version is None or self.held.lost is not None:
            return
        version = self.held.version
        self.held, lease = self.held.renewal(self._clock(), utc(), released=True)
        self._changed()
        try:
            await self._store.write_lease(lease, version=version)
        except RecoveryError as error:
            log.warning("the lease could not be given back: it ends by itself", reason=str(error))

    async def _take(self) -> bool:
        """Waits until the lease may be taken, and takes it. False: it was lost before it was had."""
        while not self._released:
            began = self._clock()
            try:
                found = await self._store.read_lease(self._region)
            except RecoveryError as error:
                self._say(f"the witness does not answer: {error}")
                await asyncio.sleep(self.pace.ttl / 10)
                continue
            now = self._clock()
            self._own = self._own.read(found, began=began, returned=now)
            reason = may_take(found, self._own, now, self.pace.margin, self._instances.names)
            if reason is None:
                if found is not None and found[0].instance not in self._instances.names:
                    self._succeeded(now)
                self.held = Held.take(self._region, self.instance, self.pace.ttl, found)
                await self._renew()
                return self.held.lost is None
            self._say(reason)
            await asyncio.sleep(self.pace.watch)
        return False

    async def _keep(self) -> None:
        while self.held.lost is None:
            await asyncio.sleep(self.held.renewal_due(self._clock()))
            if self.held.lost is None:  # it may have been given back meanwhile
                await self._renew()

    def _lose(self) -> None:
        log.error("the lease is lost", instance=self.instance, reason=self.held.lost)
        self.trouble = self.held.lost
        self._changed()
        self.held = Held(self._region, self._instances.another(), self.pace.ttl)
        self._changed()

    async def _renew(self) -> None:
        before = self.held
        self.held, lease = self.held.renewal(self._clock(), utc())
        try:
            version = await self._store.write_lease(lease, version=self.held.version)
        except (Contended, Unreachable) as error:
            self._say(str(error))
            await self._look_again()
        except RecoveryError as error:
            self._say(f"the witness refuses the lease: {error}")
        else:
            self.held = self.held.confirmed(lease.serial, version, self._clock())
            if self.trouble is not None:
                log.info("the lease is held", instance=self.instance, ttl=self.pace.ttl)
            self.trouble = None
        if (self.held.deadline, self.held.lost) != (before.deadline, before.lost):
            self._changed()

    async def _look_again(self) -> None:
        """After an unknown outcome: what stands there decides."""
        try:
            self.held = self.held.seen(await self._store.read_lease(self._region), self._clock())
        except RecoveryError as error:
            self._say(str(error))

    def _say(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning("the lease is not renewed", instance=self.instance, reason=trouble)
        self.trouble = trouble
