"""Small worlds to be gone through completely, each for one part of the rules."""

from __future__ import annotations

import math
from dataclasses import replace

from recovery.guard.lease import Watched
from tests.model.exhaustive import Small
from tests.model.model import Action, World
from tests.model.moves import hurry, watching
from tests.model.rules import Rules
from tests.model.walks import settle

TICK: Action = ("advance", 1.0)


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
