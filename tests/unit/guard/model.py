"""A world of guards, companions, stores, plans and a witness, in which anything may happen between any two actions.

The guards use the real rules of ``recovery.guard`` (``Rules``; the mutants of tests/unit/guard/mutants.py break one
rule each). Every action is atomic, and whoever drives the world chooses the next one freely: so every process may be
paused for any time between any two of its actions, also between a check and the act that it was for. Requests to the
witness stay under way until they are delivered; the sender may give up on them at any time, delivered or not, and a
write that it gave up on may still arrive, once or twice, at any later time. Clocks start anywhere and run at their own
rates; a paused virtual machine's clock stands still, a suspended host's goes on.

What the model takes for granted (the assumptions of docs/at-most-one-primary.md): a compare-and-swap witness; clock
rates within DRIFT; while a host runs, its companion, or else its guard, ends the writes within DEMOTION seconds of the
deadline that was written for it; a killed server executes nothing that was sent to it before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from recovery.domain.guarding import GuardOrder
from recovery.domain.ownership import OwnershipRecord, Phase, RegionLease
from recovery.guard import decisions, lease, promises
from recovery.guard.decisions import Break, Evidence, Refusal, Settled, Wait, Write
from recovery.guard.lease import DEMOTION, Found, Held, Watched
from recovery.guard.promises import Given, Received

GROUP = "shop"
AT = datetime(2026, 1, 1, tzinfo=UTC)  # for people alone; constant, so that no decision can rest on it
RECORD = "record"
Action = tuple[Any, ...]


class Violation(AssertionError):
    """Two stores accept writes at one instant, or accept them longer after a thaw than they may."""


class Rules:
    """The real rules, one method for each place where a mutant breaks one."""

    def take(self, region: str, name: str, ttl: float, found: Found) -> Held:
        return Held.take(region, name, ttl, found)

    def may_take(self, found: Found, own: Watched, now: float, margin: float, dead: tuple[str, ...]) -> bool:
        return lease.may_take(found, own, now, margin, dead) is None

    def confirmed(self, held: Held, serial: int, version: str, now: float) -> Held:
        return held.confirmed(serial, version, now)

    def seen(self, held: Held, found: Found, now: float) -> Held:
        return held.seen(found, now)

    def renewal(self, held: Held, now: float) -> tuple[Held, RegionLease]:
        return held.renewal(now, AT)

    def read(self, watched: Watched, found: Found, began: float, returned: float) -> Watched:
        return watched.read(found, began=began, returned=returned)

    def break_version(self, watched: Watched) -> str | None:
        return watched.version

    def given(self, started: float, longest: float, margin: float) -> Given:
        return Given(started, longest, margin)

    def may_promise(self, given: Given, **about: Any) -> bool:
        return promises.may_promise(given, **about) is None

    def promised(self, received: Received, peer: str, **about: Any) -> Received:
        return received.promised(peer, **about)

    def may_be_primary(self, record: OwnershipRecord | None, region: str, held: Held, now: float, **about: Any) -> bool:
        return decisions.may_be_primary(record, region, held, now, **about)

    def fence_step(self, record: OwnershipRecord, order: GuardOrder, region: str, **about: Any) -> decisions.FenceStep:
        return decisions.fence_step(record, order, region, **about)

    def promotion(
        self, record: OwnershipRecord, order: GuardOrder, region: str, held: Held, now: float, given: Given
    ) -> Write | Settled | Wait | Refusal:
        return decisions.promotion(record, order, region, held, now, given, AT)

    def adoption(
        self, record: OwnershipRecord, region: str, held: Held, now: float, given: Given, anew: bool
    ) -> Write | Settled | Wait | Refusal:
        return decisions.adoption(record, region, held, now, given, AT, anew=anew)

    def demotes_before_it_confirms(self) -> bool:
        return True

    def act_is_bound_to_the_server(self) -> bool:
        return True

    def arms_first(self) -> bool:
        return True


@dataclass(frozen=True)
class Request:
    """Under way to the witness: a read, or a write of ``value`` over ``version``. ``answer`` once it was delivered."""

    key: str
    purpose: str
    sent: float
    value: OwnershipRecord | RegionLease | None = None
    version: str | None = None
    answer: tuple[Any, ...] | None = None
    mark: str = ""  # the content of ``value``

    def told(self) -> str:
        """The content of the answer."""
        if self.answer is None:
            return "-"
        told = self.answer[-1]
        return told if isinstance(told, str) else told[1] if told else "nothing"


@dataclass
class Guard:
    """One guard process. Lost with all it knows when it crashes."""

    given: Given
    held: Held | None = None
    own: Watched | None = None
    reread: bool = True
    record: OwnershipRecord | None = None
    version: str | None = None
    began: float = -math.inf
    fencing_seen: float = math.inf
    watched: dict[str, Watched] = field(default_factory=dict)
    slots: dict[str, Request] = field(default_factory=dict)
    order: GuardOrder | None = None
    promoting: bool = False
    demoted: bool = True  # since it adopted the group
    acting: int | None = None  # the server process that it is about to promote
    taking: str | None = None  # the version of the record that a takeover of ours names
    received: Received | None = None

    def copy(self) -> Guard:
        return replace(self, watched=dict(self.watched), slots=dict(self.slots))


@dataclass
class Host:
    """A region's host: its clock, guard, companion and store."""

    rate: float = 1.0
    offset: float = 0.0
    frozen: str | None = None  # "paused": its clock stands still; "suspended": it goes on
    froze_at: float = 0.0
    woke_at: float = -math.inf
    woke_server: int | None = None  # the server process that ran when the host froze
    guard: Guard | None = None
    last_instance: str | None = None
    instances: int = 0
    companion_frozen: bool = False
    armed: float = -math.inf  # the deadline in the companion's file
    looked: float = -math.inf  # the deadline at which the companion acted
    enforced: float = -math.inf  # the deadline at which the guard acted, its companion being frozen
    primary: bool = False
    server: int = 0  # which server process: a kill ends it

    def copy(self) -> Host:
        return replace(self, guard=self.guard.copy() if self.guard else None)


def etag(value: OwnershipRecord | RegionLease) -> str:
    """Made of the content alone, as S3 does it: the same content twice has the same version."""
    return value.model_dump_json()


class World:
    """See the module. ``do`` performs an action, ``enabled`` lists those that are possible now."""

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

    def copy(self) -> World:
        other = object.__new__(World)
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

    # -- choosing --------------------------------------------------------------------------------------------------

    def do(self, action: Action) -> None:
        name, *about = action
        MOVES[name](self, *about)
        self.check()

    def enabled(self) -> list[Action]:
        return [action for region in self.regions for action in self.of_host(region)] + [
            (name, index) for index in range(len(self.late)) for name in ("arrive", "arrive-twice", "drop")
        ]

    def of_host(self, region: str) -> Iterator[Action]:
        host = self.hosts[region]
        guard = host.guard
        for slot, request in guard.slots.items() if guard else ():
            if request.answer is None and not slot.startswith("ask"):
                yield ("deliver", region, slot)
        if host.frozen:
            yield ("thaw", region)
            return
        yield ("freeze", region, "paused")
        yield ("freeze", region, "suspended")
        if host.companion_frozen:
            yield ("thaw-companion", region)
        elif guard is not None:
            yield ("freeze-companion", region)
            if host.armed > host.looked and self.clock(region) >= host.armed:
                yield ("companion", region)
        if guard is None:
            yield ("start", region)
            return
        if not host.companion_frozen:
            yield ("crash", region)
        yield from self._of_guard(region, guard)

    def _of_guard(self, region: str, guard: Guard) -> Iterator[Action]:
        if "lease" not in guard.slots:
            yield ("renew", region)
        if "record" not in guard.slots:
            yield ("read", region)
            if guard.record is not None and guard.held is not None:
                if guard.record.region == region:
                    yield ("confirm", region) if guard.record.fencing else ("adopt", region)
                if guard.order is not None:
                    yield ("order", region)
        yield ("enforce", region)
        yield ("arm", region)
        yield ("check", region) if guard.acting is None else ("act", region)
        for slot, request in guard.slots.items():
            if request.answer is not None and not slot.startswith("ask"):
                yield ("finish", region, slot)
            yield ("give-up", region, slot)
        yield from self._of_peers(region, guard)
        if self.record.run is None and self.record.region != region:
            yield ("plan", region)
        if guard.order is not None and self.record.run == guard.order.run:
            if self.record.epoch == guard.order.epoch and self.record.phase is Phase.RUNNING:
                yield (
                    ("pivot", region)
                    if self.record.fence and self.record.fence.run == self.record.run
                    else (
                        "unfence",
                        region,
                    )
                )
            if self.record.epoch != guard.order.epoch:
                yield ("end", region)

    def _of_peers(self, region: str, guard: Guard) -> Iterator[Action]:
        for other in guard.watched:
            if f"watch{other}" not in guard.slots:
                yield ("watch", region, other)
            if (request := guard.slots.get(f"ask{other}")) is not None:
                if request.answer is not None:
                    yield ("promised", region, other)
                elif self.hosts[other].guard is not None and self.hosts[other].frozen is None:
                    yield ("give", region, other)
            elif guard.held and guard.received and other in self.peers[region]:
                yield ("ask", region, other)


def _deliver(world: World, region: str, slot: str) -> None:
    slots = world.guard(region).slots
    slots[slot] = replace(slots[slot], answer=world.apply(slots[slot]))


def _crash(world: World, region: str) -> None:
    guard = world.guard(region)
    world.late += [one for one in guard.slots.values() if one.value is not None and one.answer is None]
    world.hosts[region].guard = None


def _ask(world: World, region: str, peer: str) -> None:
    received = world.guard(region).received
    assert received is not None
    world.send(region, f"ask{peer}", f"{received.instance}@{received.epoch}", "ask")


def _companion_freeze(frozen: bool) -> Any:
    def move(world: World, region: str) -> None:
        world.hosts[region].companion_frozen = frozen

    return move


def _arrive(times: int) -> Any:
    def move(world: World, index: int) -> None:
        world.apply(world.late.pop(index) if times == 1 else world.late[index])

    return move


MOVES: dict[str, Any] = {
    "deliver": _deliver,
    "finish": World.finish,
    "give-up": World.give_up,
    "arrive": _arrive(1),
    "arrive-twice": _arrive(2),
    "drop": lambda world, index: world.late.pop(index),
    "renew": World.renew,
    "read": lambda world, region: world.send(region, "record", RECORD, "read"),
    "watch": lambda world, region, other: world.send(region, f"watch{other}", f"lease/{other}", "watch"),
    "enforce": World.enforce,
    "arm": World.arm,
    "check": World.check_to_promote,
    "act": World.act,
    "confirm": World.confirm,
    "adopt": World.adopt,
    "order": World.follow_order,
    "ask": _ask,
    "give": World.give,
    "promised": World.promised,
    "plan": World.begin_plan,
    "pivot": World.pivot,
    "unfence": World.unfence,
    "end": lambda world, region: world.engine_writes(run=None, phase=Phase.STEADY),
    "crash": _crash,
    "start": World.start,
    "freeze": World.freeze,
    "thaw": World.thaw,
    "freeze-companion": _companion_freeze(True),
    "thaw-companion": _companion_freeze(False),
    "companion": World.companion,
    "advance": World.advance,
}
