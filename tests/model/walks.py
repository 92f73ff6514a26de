"""Long random ways through a larger world of ``model.py``."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from tests.model.exhaustive import Found
from tests.model.model import World
from tests.model.rules import Rules, Violation

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
