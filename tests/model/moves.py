"""Several actions of the model in one, in no time at all: what small worlds do not look at is over quickly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from recovery.domain.guarding import GuardOrder
from tests.model.model import MOVES, World
from tests.model.rules import AT, GROUP


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
