"""The model's world without will: clocks, hosts that freeze and wake, companions, the witness, and the invariant."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Self

from recovery.domain.ownership import OwnershipRecord, RegionLease
from recovery.guard.lease import DEMOTION, Watched
from tests.model.parts import Guard, Host, Request, etag
from tests.model.rules import AT, GROUP, RECORD, Rules, Violation


class Machines:
    """Everything but what guards do by themselves."""

    def __init__(
        self,
        rules: Rules,
        regions: tuple[str, ...] = ("A", "B"),
        *,
        ttl: float = 5.0,
        margin: float = 1.2,
        rates: tuple[float, ...] = (),
        offsets: tuple[float, ...] = (),
    ) -> None:
        self.rules, self.regions, self.ttl, self.margin = rules, regions, ttl, margin
        self.now = 0.0
        self.hosts = {region: Host() for region in regions}
        for host, rate, offset in zip(self.hosts.values(), rates, offsets, strict=False):
            host.rate, host.offset = rate, offset
        first = OwnershipRecord(group=GROUP, region=regions[0], changed_at=AT)
        self.witness: dict[str, tuple[OwnershipRecord | RegionLease, str]] = {RECORD: (first, etag(first))}
        self.late: list[Request] = []
        self.runs = 0
        self.peers: dict[str, list[str]] = {one: [two for two in regions if two != one] for one in regions}
        self.windows: list[float] = []  # seconds after a thaw during which a woken host was a second primary
        self.promotions = 0
        for region in regions:
            self.start(region)

    def copy(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.hosts = {region: host.copy() for region, host in self.hosts.items()}
        other.witness, other.late, other.windows = dict(self.witness), list(self.late), list(self.windows)
        return other

    # -- clocks and hosts ------------------------------------------------------------------------------------------

    def clock(self, region: str) -> float:
        host = self.hosts[region]
        now = host.froze_at if host.frozen == "paused" else self.now
        return host.offset + host.rate * now

    def start(self, region: str) -> None:
        now = self.clock(region)
        guard = Guard(given=self.rules.given(now, self.ttl, self.margin), own=Watched(region))
        guard.watched = {other: Watched(other) for other in self.regions if other != region}
        if self.hosts[region].instances == 0:  # the first guard has nothing that it could have forgotten
            guard.given = replace(guard.given, started=-math.inf)
        self.hosts[region].guard = guard

    def kill(self, region: str) -> None:
        """What guard and companion do to the store: a new server process, which is no primary."""
        host = self.hosts[region]
        host.primary = False
        host.server += 1

    def freeze(self, region: str, kind: str) -> None:
        host = self.hosts[region]
        host.frozen, host.froze_at = kind, self.now
        host.woke_server = host.server

    def thaw(self, region: str) -> None:
        host = self.hosts[region]
        if host.frozen == "paused":
            host.offset -= host.rate * (self.now - host.froze_at)
        host.frozen, host.woke_at = None, self.now
        self.check()

    def _deadline(self, region: str) -> float:
        """By the host's clock, when writes have to begin to end: the companion's file, or else the guard's own."""
        host = self.hosts[region]
        if host.frozen is not None:
            return math.inf
        if not host.companion_frozen:
            return host.armed if host.armed > host.looked else math.inf
        guard = host.guard
        if guard is None or not (host.primary or guard.acting is not None):
            return math.inf
        deadline = host.armed
        if guard.held is not None and self.allowed(region):
            deadline = guard.received.deadline(guard.held) if guard.received else guard.held.deadline
        return deadline if deadline > host.enforced else math.inf

    def _due(self, region: str) -> float:
        """True time by which somebody on a running host has acted on its deadline, at the latest."""
        host = self.hosts[region]
        return max((self._deadline(region) - host.offset) / host.rate, host.woke_at) + DEMOTION

    def advance(self, seconds: float) -> None:
        """Time goes on; who has to act at a deadline does so at the last moment that is allowed."""
        until = self.now + seconds
        while True:
            moment, region = min((self._due(region), region) for region in self.regions)
            if moment > until:
                break
            self.now = max(self.now, moment)
            if self.hosts[region].companion_frozen:
                self.hosts[region].enforced = self._deadline(region)
                self.enforce(region)
            else:
                self.companion(region)
            self.check()
        self.now = until
        self.check()

    def companion(self, region: str) -> None:
        host = self.hosts[region]
        if self.clock(region) >= host.armed:
            host.looked = host.armed
            self.kill(region)

    def check(self) -> None:
        """The invariant, at this instant."""
        accepting = [region for region, host in self.hosts.items() if host.primary and host.frozen is None]
        if len(accepting) < 2:
            return
        windows = {
            region: host.rate * (self.now - host.woke_at)
            for region in accepting
            if (host := self.hosts[region]).woke_server == host.server
        }
        excused = [region for region, window in windows.items() if window <= self.ttl + DEMOTION + 1e-6]
        if len(accepting) - len(excused) > 1:
            long = "".join(f", {region} {window:.2f} s after it woke" for region, window in windows.items())
            raise Violation(f"{accepting} accept writes at {self.now:.2f}{long}")
        self.windows.append(max(windows.values()))

    # -- the witness -----------------------------------------------------------------------------------------------

    def apply(self, request: Request) -> tuple[Any, ...]:
        standing = self.witness.get(request.key)
        if request.value is None:
            return ("read", standing)
        if (standing[1] if standing else None) != request.version and request.version != "*":
            return ("contended",)
        version = request.mark
        self.witness[request.key] = (request.value, version)
        return ("written", version)

    @property
    def record(self) -> OwnershipRecord:
        found = self.witness[RECORD][0]
        assert isinstance(found, OwnershipRecord)
        return found

    def engine_writes(self, **fields: Any) -> None:
        changed = self.record.model_copy(update=fields)
        self.witness[RECORD] = (changed, etag(changed))

    # -- what guards do, see ``Conduct`` ---------------------------------------------------------------------------

    def allowed(self, region: str) -> bool:
        raise NotImplementedError

    def enforce(self, region: str) -> None:
        raise NotImplementedError
