"""Every way through a small world of ``model.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.model.model import Action, World
from tests.model.moves import POSSIBLE
from tests.model.rules import Rules, Violation

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
