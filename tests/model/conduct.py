"""What the guards and plans of the model do, one atomic action each, by the real rules."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from recovery.domain.guarding import GuardOrder
from recovery.domain.ownership import Phase, RegionLease
from recovery.guard import decisions
from recovery.guard.decisions import Break, Evidence, Write
from recovery.guard.lease import Found
from recovery.guard.promises import Received
from tests.model.machines import Machines
from tests.model.parts import Guard, Request, etag
from tests.model.rules import AT, GROUP, RECORD


class Conduct(Machines):
    """Each method is one action of one guard, or of a plan."""

    # -- what a guard does -----------------------------------------------------------------------------------------

    def send(
        self, region: str, slot: str, key: str, purpose: str, value: Any = None, version: str | None = None
    ) -> None:
        guard = self.guard(region)
        guard.slots[slot] = Request(key, purpose, self.clock(region), value, version, mark=etag(value) if value else "")

    def guard(self, region: str) -> Guard:
        guard = self.hosts[region].guard
        assert guard is not None
        return guard

    def renew(self, region: str) -> None:
        guard = self.guard(region)
        if guard.held is None or guard.held.lost is not None or guard.reread:
            self.send(region, "lease", f"lease/{region}", "read-own")
            return
        guard.held, written = self.rules.renewal(guard.held, self.clock(region))
        self.send(region, "lease", f"lease/{region}", "renew", written, guard.held.version)

    def _own_lease_read(self, region: str, request: Request, found: Found) -> None:
        guard, host, now = self.guard(region), self.hosts[region], self.clock(region)
        assert guard.own is not None
        guard.own = self.rules.read(guard.own, found, request.sent, now)
        if guard.held is not None:
            guard.held = self.rules.seen(guard.held, found, now)
        if guard.held is None or guard.held.lost is not None:
            self.demote(region)
            dead = (host.last_instance,) if host.last_instance else ()
            if not self.rules.may_take(found, guard.own, now, self.margin, dead):
                guard.held = None
                return
            host.instances += 1
            host.last_instance = f"{region}{host.instances}"
            guard.held = self.rules.take(region, host.last_instance, self.ttl, found)
        guard.reread = False

    def demote(self, region: str) -> None:
        guard = self.guard(region)
        self.kill(region)
        guard.demoted = True

    def allowed(self, region: str) -> bool:
        guard = self.guard(region)
        return guard.held is not None and self.rules.may_be_primary(
            guard.record, region, guard.held, self.clock(region), read_began=guard.began, received=guard.received
        )

    def enforce(self, region: str) -> None:
        host, guard = self.hosts[region], self.guard(region)
        if (host.primary or guard.acting is not None) and not self.allowed(region):
            self.demote(region)  # also while a promotion is under way: it must find another server

    def arm(self, region: str) -> None:
        guard, host = self.guard(region), self.hosts[region]
        if guard.held is not None and self.allowed(region):
            deadline = guard.received.deadline(guard.held) if guard.received else guard.held.deadline
            host.armed = max(host.armed, deadline)

    def check_to_promote(self, region: str) -> None:
        host = self.hosts[region]
        armed = host.armed > self.clock(region) or not self.rules.arms_first()
        if self.allowed(region) and armed and not host.primary and not host.companion_frozen:
            self.guard(region).acting = host.server

    def act(self, region: str) -> None:
        guard, host = self.guard(region), self.hosts[region]
        if guard.acting == host.server or not self.rules.act_is_bound_to_the_server():
            host.primary = True
            guard.demoted = False
            self.promotions += 1
        guard.acting = None

    def confirm(self, region: str) -> None:
        guard = self.guard(region)
        if guard.record is None or guard.held is None:
            return
        step = decisions.demotion(guard.record, region, guard.held.instance, AT, {}, planned=False)
        if isinstance(step, Write):
            if self.rules.demotes_before_it_confirms():
                self.demote(region)
            self.send(region, "record", RECORD, "write", step.record, guard.version)

    def adopt(self, region: str) -> None:
        guard, now = self.guard(region), self.clock(region)
        if guard.record is None or guard.held is None:
            return
        anew = guard.demoted and guard.record.guard == guard.held.instance
        step = self.rules.adoption(guard.record, region, guard.held, now, guard.given, anew)
        if isinstance(step, Write):
            guard.taking = guard.version
            guard.demoted = False
            self.send(region, "record", RECORD, "write", step.record, guard.version)

    def follow_order(self, region: str) -> None:
        guard, order, now = self.guard(region), self.guard(region).order, self.clock(region)
        if order is None or guard.record is None:
            return
        if guard.promoting:
            if guard.held is not None:
                promoted = self.rules.promotion(guard.record, order, region, guard.held, now, guard.given)
                if isinstance(promoted, Write):
                    guard.taking = guard.version
                    guard.demoted = False
                    self.send(region, "record", RECORD, "write", promoted.record, guard.version)
            return
        watched = guard.watched[order.source]
        about = {"watched": watched, "fencing_seen": guard.fencing_seen, "given": guard.given, "now": now}
        evidence = Evidence(by=region, at=AT)
        step = self.rules.fence_step(guard.record, order, region, **about, margin=self.margin, evidence=evidence)
        if isinstance(step, Write):
            guard.taking = guard.version
            self.send(region, "record", RECORD, "write", step.record, guard.version)
        elif isinstance(step, Break) and f"watch{order.source}" not in guard.slots:
            version = self.rules.break_version(watched)
            guard.watched[order.source], broken = watched.breaking(region, AT)
            self.send(region, f"watch{order.source}", f"lease/{order.source}", "break", broken, version)

    def finish(self, region: str, slot: str) -> None:
        """The guard learns what became of a request."""
        guard = self.guard(region)
        request = guard.slots.pop(slot)
        assert request.answer is not None
        kind = request.answer[0]
        if slot == "lease":
            if kind == "read":
                self._own_lease_read(region, request, request.answer[1])
            elif kind == "written" and guard.held is not None:
                assert isinstance(request.value, RegionLease)
                guard.held = self.rules.confirmed(
                    guard.held, request.value.serial, request.answer[1], self.clock(region)
                )
            else:
                guard.reread = True
        elif slot == "record":
            self._record_answered(region, request)
        elif kind == "read":
            other = slot.removeprefix("watch")
            now = self.clock(region)
            guard.watched[other] = self.rules.read(guard.watched[other], request.answer[1], request.sent, now)

    def _record_answered(self, region: str, request: Request) -> None:
        guard = self.guard(region)
        assert request.answer is not None
        if request.answer[0] == "read":
            record, version = request.answer[1]
        elif request.answer[0] == "written":
            record, version = request.value, request.answer[1]
        else:
            guard.record, guard.version = None, None  # read again before anything else
            return
        guard.record, guard.version, guard.began = record, version, request.sent
        if record.fencing is None or guard.order is None or record.fencing.run != guard.order.run:
            guard.fencing_seen = math.inf
        elif guard.fencing_seen == math.inf:
            guard.fencing_seen = self.clock(region)
        if guard.taking != version and record.region != region:
            guard.taking = None
        if guard.held is not None and (
            guard.received is None
            or (guard.received.epoch, guard.received.instance) != (record.epoch, guard.held.instance)
        ):
            guard.received = Received(GROUP, record.epoch, guard.held.instance)

    def give_up(self, region: str, slot: str) -> None:
        """A timeout: whether the request was delivered is not known, and a write may still arrive."""
        guard = self.guard(region)
        request = guard.slots.pop(slot)
        if request.value is not None and request.answer is None:
            self.late.append(request)
        if slot == "lease":
            guard.reread = True
        elif slot == "record":
            guard.record, guard.version = None, None

    # -- promises --------------------------------------------------------------------------------------------------

    def give(self, region: str, peer: str) -> None:
        """The question of ``region`` reaches ``peer``, which promises or refuses."""
        asking, guard = self.guard(region), self.hosts[peer].guard
        request = asking.slots[f"ask{peer}"]
        holder, epoch = request.key.split("@")
        if guard is None:
            return
        primary = self.hosts[peer].primary
        taking = guard.taking is not None or primary or guard.acting is not None
        if self.rules.may_promise(
            guard.given,
            group=GROUP,
            epoch=int(epoch),
            holder=holder,
            ttl=self.ttl,
            region=peer,
            record=guard.record,
            watched=guard.watched[region],
            taking_over=taking,
        ):
            guard.given = guard.given.give(GROUP, holder, self.ttl, self.clock(peer))
            asking.slots[f"ask{peer}"] = replace(request, answer=("promised",))

    def promised(self, region: str, peer: str) -> None:
        guard = self.guard(region)
        request = guard.slots.pop(f"ask{peer}")
        peers = self.peers[region]
        if guard.held is None or guard.received is None:
            return
        if request.key == f"{guard.received.instance}@{guard.received.epoch}":
            guard.received = self.rules.promised(
                guard.received, peer, sent=request.sent, now=self.clock(region), held=guard.held, peers=peers
            )

    # -- plans -----------------------------------------------------------------------------------------------------

    def begin_plan(self, target: str) -> None:
        self.runs += 1
        run = f"run{self.runs}"
        source = self.record.region
        self.engine_writes(run=run, phase=Phase.RUNNING)
        guard = self.guard(target)
        guard.order = GuardOrder(
            group=GROUP, run=run, epoch=self.record.epoch, source=source, target=target, effect_id=run
        )
        guard.promoting, guard.fencing_seen = False, math.inf

    def pivot(self, target: str) -> None:
        self.engine_writes(phase=Phase.PIVOTED)
        self.guard(target).promoting = True

    def unfence(self, target: str) -> None:
        order = self.guard(target).order
        assert order is not None
        step = decisions.unfence(self.record, order, AT)
        if isinstance(step, Write):
            self.witness[RECORD] = (step.record, etag(step.record))
