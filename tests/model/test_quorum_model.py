"""R + W > N, gone through completely: every order of writing, sending, acknowledging, stopping and judging.

A small world of members of a set, ``W`` of which acknowledge a commit. What the guard of a fence's target does
(``recovery.guard.synchronous.judge``) must never call proven what can lose an acknowledged commit, then or later. Each
broken rule has to be found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import pytest

from recovery.domain.ownership import AcknowledgingSet
from recovery.guard.synchronous import CatchUp, Proven, Unproven, judge

COMMITS = 2
Judge = Callable[[AcknowledgingSet, Mapping[str, int], int | None], Proven | CatchUp | Unproven]


@dataclass(frozen=True)
class World:
    """``has``: commits on each member's disk; ``confirmed``: what it said after it stopped, or None."""

    written: int
    acknowledged: int
    has: tuple[int, ...]
    stopped: tuple[bool, ...]
    confirmed: tuple[int | None, ...]
    promoted_with: int | None = None


@dataclass(frozen=True)
class Rules:
    """``judge``, and what the guards of members do; the last three are how they are broken."""

    judge: Judge = judge
    says_before_it_stops: bool = False
    resumes: bool = False
    catches_up_from_anybody: bool = False


def search(members: int, wait_for: int, rules: Rules) -> World | None:
    """A world in which a commit that was acknowledged is missing where it was proven that none can be; None: no such.

    The first member is the target's own standby.
    """
    claimed = AcknowledgingSet(members=[f"m{number}" for number in range(members)], wait_for=wait_for)
    start = World(0, 0, (0,) * members, (False,) * members, (None,) * members)
    seen, left = {start}, [start]
    while left:
        world = left.pop()
        if world.promoted_with is not None and world.acknowledged > world.promoted_with:
            return world
        for after in _next(world, claimed, rules):
            if after not in seen:
                seen.add(after)
                left.append(after)
    return None


def _next(world: World, claimed: AcknowledgingSet, rules: Rules) -> Iterator[World]:
    if world.written < COMMITS:
        yield replace(world, written=world.written + 1)
    flushed = sorted(world.has, reverse=True)[claimed.wait_for - 1]
    if flushed > world.acknowledged:
        yield replace(world, acknowledged=flushed)
    for number, has in enumerate(world.has):
        if not world.stopped[number] and has < world.written:
            yield replace(world, has=_put(world.has, number, has + 1))
        yield from _stopping(world, number, rules)
    if world.promoted_with is None:
        yield from _judging(world, claimed, rules)


def _stopping(world: World, number: int, rules: Rules) -> Iterator[World]:
    said = world.confirmed[number]
    if rules.says_before_it_stops and said is None:
        yield replace(world, confirmed=_put(world.confirmed, number, world.has[number]))
    if not world.stopped[number]:
        yield replace(world, stopped=_put(world.stopped, number, True))
    elif said is None:
        yield replace(world, confirmed=_put(world.confirmed, number, world.has[number]))
    if rules.resumes and world.stopped[number]:
        yield replace(world, stopped=_put(world.stopped, number, False))


def _judging(world: World, claimed: AcknowledgingSet, rules: Rules) -> Iterator[World]:
    said = {f"m{number}": has for number, has in enumerate(world.confirmed) if has is not None}
    match rules.judge(claimed, said, world.confirmed[0]):
        case Proven():
            yield replace(world, promoted_with=world.has[0])
        case CatchUp(member, position) if world.stopped[0]:
            source = int(member[1:])
            got = position if not rules.catches_up_from_anybody else min(world.has)
            assert world.has[source] >= position
            there = max(world.has[0], got)
            if rules.catches_up_from_anybody:
                yield replace(world, promoted_with=there)
            yield replace(world, has=_put(world.has, 0, there), confirmed=_put(world.confirmed, 0, there))
        case _:
            return


def _put(values: tuple[object, ...], number: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*values[:number], value, *values[number + 1 :])


SIZES = [(members, wait_for) for members in (1, 2, 3) for wait_for in range(1, members + 1)]


@pytest.mark.parametrize(("members", "wait_for"), SIZES)
def test_what_is_proven_loses_nothing(members: int, wait_for: int) -> None:
    assert search(members, wait_for, Rules()) is None


@pytest.mark.parametrize(("members", "wait_for"), SIZES)
def test_it_can_be_proven(members: int, wait_for: int) -> None:
    """A rule that proved nothing would be safe, too."""

    def refuted(claimed: AcknowledgingSet, stopped: Mapping[str, int], own: int | None) -> Proven | CatchUp | Unproven:
        found = judge(claimed, stopped, own)
        assert not (isinstance(found, Proven) and found.position == COMMITS), "proven"
        return found

    with pytest.raises(AssertionError, match="proven"):
        search(members, wait_for, Rules(judge=refuted))


def one_less(claimed: AcknowledgingSet, stopped: Mapping[str, int], own: int | None) -> Proven | CatchUp | Unproven:
    """R + W = N."""
    easier = claimed.model_copy(update={"wait_for": claimed.wait_for + 1})
    return judge(easier, stopped, own) if easier.wait_for <= len(claimed.members) else Proven(0)


def own_is_enough(
    claimed: AcknowledgingSet, stopped: Mapping[str, int], own: int | None
) -> Proven | CatchUp | Unproven:
    """The most advanced is not asked for."""
    found = judge(claimed, stopped, own)
    return Proven(own) if isinstance(found, CatchUp) and own is not None else found


def strangers_count(
    claimed: AcknowledgingSet, stopped: Mapping[str, int], own: int | None
) -> Proven | CatchUp | Unproven:
    """Somebody who is no member is taken for one."""
    return judge(claimed, {**stopped, "m1": stopped.get("m1", 0)}, own)


@pytest.mark.parametrize(("members", "wait_for"), [(2, 1), (3, 2)])
@pytest.mark.parametrize(
    "broken",
    [
        Rules(judge=one_less),
        Rules(judge=own_is_enough),
        Rules(judge=strangers_count),
        Rules(says_before_it_stops=True),
        Rules(resumes=True),
        Rules(catches_up_from_anybody=True),
    ],
    ids=["one-less", "own-is-enough", "strangers", "says-before-it-stops", "resumes", "catches-up-from-anybody"],
)
def test_a_broken_rule_is_found(broken: Rules, members: int, wait_for: int) -> None:
    found = search(members, wait_for, broken)
    assert found is not None and found.promoted_with is not None
    assert found.acknowledged > found.promoted_with
