"""A world of guards, companions, stores, plans and a witness, in which anything may happen between any two actions.

The guards use the real rules of ``recovery.guard`` (``rules.py``; the mutants of ``mutants.py`` break one rule each).
Every action is atomic, and whoever drives the world chooses the next one freely: so every process may be paused for any
time between any two of its actions, also between a check and the act that it was for. Requests to the witness stay
under way until they are delivered; the sender may give up on them at any time, delivered or not, and a write that it
gave up on may still arrive, once or twice, at any later time. Clocks start anywhere and run at their own rates; a
paused virtual machine's clock stands still, a suspended host's goes on.

What the model takes for granted (the assumptions of docs/at-most-one-primary.md): a compare-and-swap witness; clock
rates within DRIFT; while a host runs, its companion, or else its guard, ends the writes within DEMOTION seconds of the
deadline that was written for it; a killed server executes nothing that was sent to it before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from recovery.domain.ownership import Phase
from tests.model.conduct import Conduct
from tests.model.parts import Guard
from tests.model.rules import RECORD

Action = tuple[Any, ...]


class World(Conduct):
    """See the module. ``do`` performs an action, ``enabled`` lists those that are possible now."""

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
