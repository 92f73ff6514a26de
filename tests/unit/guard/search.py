"""Two ways through the world of ``model.py``: every way of a small world, and many long random ones of a larger one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from recovery.domain.guarding import GuardOrder
from recovery.guard.lease import Watched
from tests.unit.guard.model import AT, GROUP, MOVES, Action, Rules, Violation, World

Key = tuple[object, ...]


def key(world: World) -> Key:
    """What the future of a world depends on."""
    # The content of what is written is as good as its version: both are made of the same.
    hosts = []
    for host in world.hosts.values():
        guard = host.guard
        known: Key | None = None
        if guard is not None:
            known = (
                guard.held,
                (guard.own.version, guard.own.since) if guard.own else None,
                guard.reread,
                guard.version if guard.record else None,
                guard.began,
                guard.fencing_seen,
                tuple((one.version, one.since, one.began, one.break_sent) for one in guard.watched.values()),
                tuple(
                    (slot, one.purpose, one.sent, one.version, one.mark, one.told())
                    for slot, one in guard.slots.items()
                ),
                guard.order and (guard.order.run, guard.order.epoch),
                (guard.promoting, guard.demoted, guard.acting, guard.taking),
                guard.received,
                guard.given,
            )
        hosts.append(
            (
                *(host.offset, host.frozen, host.froze_at, host.woke_at, host.woke_server, host.last_instance),
                *(host.companion_frozen, host.armed, host.looked, host.enforced, host.primary, host.server),
                known,
            )
        )
    late = tuple(sorted((one.key, one.version or "", one.mark) for one in world.late))
    return (world.now, tuple(hosts), tuple(version for _, version in world.witness.values()), late)


@dataclass(frozen=True)
class Found:
    """A way to a violation."""

    way: tuple[Action, ...]
    why: str


@dataclass(frozen=True)
class Small:
    """A small world to be gone through: what may happen in it, each so often at most (None: always)."""

    name: str
    make: Callable[[Rules], World]
    limits: dict[Action, int | None]
    at_least: int = 1000


def everything(small: Small, rules: Rules) -> tuple[int, Found | None]:
    """Every way through a small world; the number of states, and the first violation."""
    world = small.make(rules)
    unlimited = [action for action, limit in small.limits.items() if limit is None]
    limited = [action for action, limit in small.limits.items() if limit is not None]
    start = tuple(small.limits[action] or 0 for action in limited)
    seen = {(key(world), start)}
    waiting: list[tuple[World, tuple[int, ...], tuple[Action, ...]]] = [(world, start, ())]
    while waiting:
        here, left, way = waiting.pop()
        for action in (*unlimited, *(one for one, count in zip(limited, left, strict=True) if count)):
            if not POSSIBLE[action[0]](here, *action[1:]):
                continue
            there = here.copy()
            try:
                there.do(action)
            except Violation as error:
                return len(seen), Found((*way, action), str(error))
            rest = left
            if action not in unlimited:
                rest = tuple(count - (one == action) for one, count in zip(limited, left, strict=True))
            state = (key(there), rest)
            if state not in seen:
                seen.add(state)
                waiting.append((there, rest, (*way, action)))
    return len(seen), None


TICK: Action = ("advance", 1.0)


def _awake(world: World, region: str, *_: object) -> bool:
    return world.hosts[region].frozen is None and world.hosts[region].guard is not None


def _free(slot: str) -> Callable[..., bool]:
    return lambda world, region, *about: _awake(world, region) and slot.format(*about) not in world.guard(region).slots


def _under_way(world: World, region: str, slot: str) -> bool:
    guard = world.hosts[region].guard
    return guard is not None and slot in guard.slots and guard.slots[slot].answer is None


def _answered(world: World, region: str, slot: str) -> bool:
    return _awake(world, region) and slot in world.guard(region).slots and not _under_way(world, region, slot)


def _listed(name: str) -> Callable[..., bool]:
    return lambda world, region, *about: (name, region, *about) in world.of_host(region)


POSSIBLE: dict[str, Callable[..., bool]] = {
    "advance": lambda world, seconds: True,
    "renew": _free("lease"),
    "renewed": _free("lease"),
    "watch": _free("watch{}"),
    "deliver": _under_way,
    "heard": _answered,
    "finish": _answered,
    "give-up": lambda world, region, slot: _under_way(world, region, slot) or _answered(world, region, slot),
    "arrive": lambda world, index: index < len(world.late),
    "watching": _awake,
    "rise": _awake,
    "forget": _listed("crash"),
    "resume": lambda world, region: _free("lease")(world, region) and _free("record")(world, region),
    "break": _awake,
    "restart": lambda world, region: world.hosts[region].guard is None,
    "hurry": _free("record"),
    "seize": lambda world, region: _free("record")(world, region) and _free("watchA")(world, region),
    "look": _free("record"),
    "promise": lambda world, region, peer: _awake(world, region) and _awake(world, peer),
    **{name: _listed(name) for name in ("adopt", "check", "act", "crash", "start", "freeze", "thaw", "confirm")},
    **{name: _listed(name) for name in ("ask", "give", "promised", "enforce", "arm", "order", "unfence", "companion")},
}


def hurry(world: World, region: str) -> None:
    """The guard follows its order as far as it gets without reading the source's lease again, in no time at all."""
    for _ in range(3):
        if "record" not in world.guard(region).slots:
            look(world, region)
        for name in ("order", "pivot", "adopt", "arm", "check", "act"):
            if (name, region) in world.of_host(region):
                world.do((name, region))
                finish(world, region, "record")


def look(world: World, region: str) -> None:
    """The guard reads the record in no time at all."""
    if ("read", region) in world.of_host(region):
        world.do(("read", region))
        finish(world, region, "record")


def finish(world: World, region: str, slot: str) -> None:
    """The request under way is delivered and answered, if there is one."""
    for name in ("deliver", "finish"):
        if (name, region, slot) in world.of_host(region):
            world.do((name, region, slot))


def heard(world: World, region: str, slot: str) -> None:
    """The guard hears the answer and tells its companion the new deadline at once."""
    world.finish(region, slot)
    world.arm(region)


def watching(world: World, region: str, other: str) -> None:
    """The guard reads another region's lease, or what became of its break, in no time at all."""
    for _ in range(2):
        finish(world, region, f"watch{other}")
        if ("watch", region, other) in world.of_host(region):
            world.do(("watch", region, other))
    finish(world, region, f"watch{other}")


def rise(world: World, region: str) -> None:
    """The guard promotes its store, if it may."""
    for name in ("arm", "check", "act"):
        if (name, region) in world.of_host(region):
            world.do((name, region))


def break_elsewhere(world: World, region: str, other: str) -> None:
    """A guard that cannot take the group over breaks the lease of its owner for the sake of another group."""
    guard = world.guard(region)
    watched, now = guard.watched[other], world.clock(region)
    if watched.may_break(now, world.margin) and not guard.given.binds_lease(f"{other}1", now):
        guard.watched[other], broken = watched.breaking(region, AT)
        world.send(region, f"watch{other}", f"lease/{other}", "break", broken, watched.version)
        finish(world, region, f"watch{other}")


def restart(world: World, region: str) -> None:
    """A guard that had crashed starts again, has its lease, and gets its order once more."""
    order = GuardOrder(group=GROUP, run="run1", epoch=2, source="A", target=region, effect_id="again")
    world.start(region)
    renewed(world, region)
    renewed(world, region)
    guard = world.guard(region)
    assert guard.held is not None
    guard.held = replace(guard.held, deadline=math.inf)
    guard.order = order


def renewed(world: World, region: str) -> None:
    """The guard renews, or reads what became of its renewal, in no time at all."""
    world.do(("renew", region))
    finish(world, region, "lease")
    world.arm(region)


def resume(world: World, region: str) -> None:
    """The guard learns everything anew, in no time at all: its lease, the record, and what follows from them."""
    for _ in range(3):
        renewed(world, region)
    look(world, region)
    for name in ("enforce", "confirm", "adopt"):
        if (name, region) in world.of_host(region):
            world.do((name, region))
            finish(world, region, "record")


def forget(world: World, region: str) -> None:
    """Its process dies and starts again at once."""
    world.do(("crash", region))
    restart(world, region)


def seize(world: World, region: str) -> None:
    """The guard breaks the lease that it has watched for long enough, and takes over, in no time at all."""
    hurry(world, region)
    if f"watch{world.record.region}" in world.guard(region).slots:
        watching(world, region, world.record.region)
        hurry(world, region)


MOVES |= {
    "seize": seize,
    "forget": forget,
    "resume": resume,
    "renewed": renewed,
    "rise": rise,
    "break": break_elsewhere,
    "restart": restart,
    "watching": watching,
    "hurry": hurry,
    "look": look,
    "heard": heard,
}


RARE = ("freeze", "freeze-companion", "crash", "unfence", "arrive-twice", "drop")
SLOW = ("thaw", "thaw-companion", "start", "arrive", "deliver", "finish", "act", "give-up", "promised")
STEPS = (0.1, 0.3, 1.0, 2.5, 6.0)


def settle(world: World, region: str, rounds: int = 2) -> None:
    """What a guard does when nothing holds it up."""

    def perform(*action: object) -> None:
        if action in world.of_host(region):
            world.do(action)

    others = [other for other in world.regions if other != region]
    for _ in range(rounds):
        for name, slot in (("renew", "lease"), ("read", "record")):
            perform(name, region)
            perform("deliver", region, slot)
            perform("finish", region, slot)
        for other in others:
            perform("watch", region, other)
            perform("deliver", region, f"watch{other}")
            perform("finish", region, f"watch{other}")
        for name in ("enforce", "arm", "confirm", "adopt", "order", "check", "act"):
            perform(name, region)
            for slot in ("record", *(f"watch{other}" for other in others)):
                perform("deliver", region, slot)
                perform("finish", region, slot)


def promise(world: World, region: str) -> None:
    """The holder asks everybody, and hears everybody, at once."""
    for other in world.regions:
        for action in (("ask", region, other), ("give", region, other), ("promised", region, other)):
            if action in world.enabled():
                world.do(action)
    if ("arm", region) in world.enabled():
        world.do(("arm", region))


def follow_plan(world: World, region: str) -> None:
    """A plan that takes the group to ``region`` goes on as far as it can, or begins."""
    for action in (("end", region), ("plan", region)):
        if action in world.enabled():
            world.do(action)
    settle(world, region)
    if ("pivot", region) in world.enabled():
        world.do(("pivot", region))
    settle(world, region)


class Walk:
    """One random way. The weights differ from walk to walk, so that some never crash and others crash all the time."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.weights = {name: self.random.choice((0.0, 0.05, 0.2)) for name in RARE}
        self.weights |= {name: self.random.choice((0.03, 0.2, 1.0)) for name in SLOW}
        self.calm = self.random.choice((0.3, 0.6, 0.85))

    def step(self) -> None:
        chance = self.random.random()
        awake = [region for region, host in self.world.hosts.items() if host.guard is not None and host.frozen is None]
        if chance < self.calm * 0.6 and awake:
            settle(self.world, self.random.choice(awake), rounds=self.random.choice((1, 2, 3)))
        elif chance < self.calm * 0.76 and awake:
            promise(self.world, self.random.choice(awake))
        elif chance < self.calm * 0.84 and awake:
            follow_plan(self.world, self.random.choice(awake))
        elif chance < self.calm:
            self.world.do(("advance", self.random.choice(STEPS)))
        else:
            actions = [one for one in self.world.enabled() if self.random.random() < self.weights.get(one[0], 1.0)]
            self.world.do(self.random.choice(actions) if actions else ("advance", self.random.choice(STEPS)))


def walk(
    make: Callable[[random.Random], World], seeds: Iterable[int], steps: int
) -> tuple[dict[str, int], Found | None]:
    """Random ways, one for each seed; how much happened in all, and the first violation."""
    happened = {"promotions": 0, "windows": 0, "takeovers": 0}
    for seed in seeds:
        one = Walk(make(random.Random(seed)), seed)
        try:
            for _ in range(steps):
                one.step()
        except Violation as error:
            return happened, Found((("seed", seed),), str(error))
        happened["promotions"] += one.world.promotions
        happened["windows"] += len(one.world.windows)
        happened["takeovers"] += one.world.record.epoch
    return happened, None


def uneven(rules: Rules, regions: tuple[str, ...] = ("A", "B", "C")) -> Callable[[random.Random], World]:
    """Worlds whose clocks start anywhere and run up to one part in a hundred too fast or too slow."""

    def make(chance: random.Random) -> World:
        rates = tuple(chance.choice((0.99, 1.0, 1.01)) for _ in regions)
        return World(rules, regions, rates=rates, offsets=tuple(chance.uniform(0, 1000) for _ in regions))

    return make


def served(rules: Rules) -> World:
    """A has the group and B was asked to take it over; all clocks run alike, times are whole numbers."""
    return _served(rules, ("A", "B"))


def unanswered(rules: Rules) -> World:
    """The same, where A sent a renewal and has given up waiting for its answer."""
    world = served(rules)
    world.do(("renew", "A"))
    world.do(("give-up", "A", "lease"))
    return world


def silent(rules: Rules) -> World:
    """The same, where the witness hears nothing more of A, and a third guard, which cannot take the group over."""
    world = _served(rules, ("A", "B", "C"), asked=False)
    world.peers["A"] = ["B"]
    watching(world, "C", "A")
    return world


def _served(rules: Rules, regions: tuple[str, ...], *, asked: bool = True) -> World:
    world = World(rules, regions, ttl=2.0, margin=0.0)
    for region in ("A", "B", "A"):
        settle(world, region)
    assert world.hosts["A"].primary
    held = world.guard("B").held
    assert held is not None
    world.guard("B").held = replace(held, deadline=math.inf)  # not what is looked at here
    world.do(("plan", "B"))
    if asked:
        hurry(world, "B")
    world.guard("B").watched["A"] = Watched("A")
    return world


def resting(rules: Rules) -> World:
    """A holds the lease and the record, its server was restarted, and no deadline is armed yet."""
    world = served(rules)
    host = world.hosts["A"]
    world.kill("A")
    host.armed = host.looked = -math.inf
    return world


LEASES = Small(
    "leases",
    served,
    {
        ("renew", "A"): 1,
        ("deliver", "A", "lease"): None,
        ("heard", "A", "lease"): None,
        ("watch", "B", "A"): 1,
        ("deliver", "B", "watchA"): None,
        ("finish", "B", "watchA"): None,
        ("seize", "B"): 1,
        TICK: 3,
    },
)
"""One renewal, and one takeover by time: the renewal and the reading may take any time."""

UNKNOWNS = Small(
    "unknown outcomes",
    unanswered,
    {
        ("arrive", 0): None,
        ("renewed", "A"): 3,
        ("watching", "B", "A"): 1,
        ("seize", "B"): 1,
        TICK: 3,
    },
)
"""A renewal whose outcome is unknown, and which arrives late."""

PROMISED = Small(
    "promises",
    silent,
    {
        ("ask", "A", "B"): 1,
        ("give", "A", "B"): None,
        ("promised", "A", "B"): None,
        ("rise", "A"): 1,
        ("break", "C", "A"): 1,
        ("forget", "B"): 1,
        ("watching", "B", "A"): 1,
        ("hurry", "B"): 1,
        TICK: 3,
    },
)
"""A holds on by promises; a third guard breaks its lease meanwhile; the guard that promised may forget it."""

EFFECTS = Small(
    "effects",
    resting,
    {
        ("arm", "A"): 1,
        ("check", "A"): 1,
        ("act", "A"): None,
        ("watching", "B", "A"): 2,
        ("hurry", "B"): 2,
        TICK: 4,
    },
    at_least=100,
)
"""A promotes its store, and may be held up before any of the steps to it."""

CONFIRMATIONS = Small(
    "confirmations",
    served,
    {
        ("resume", "A"): 1,
        ("look", "A"): 1,
        ("confirm", "A"): 1,
        ("deliver", "A", "record"): None,
        ("finish", "A", "record"): None,
        ("check", "A"): 1,
        ("act", "A"): None,
        ("enforce", "A"): None,
        ("unfence", "B"): 1,
        ("hurry", "B"): 2,
        TICK: 1,
    },
    at_least=100,
)
"""A is asked for the fence and confirms it, while B acts on what it reads."""
