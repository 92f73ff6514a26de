"""One look at a region: what is waited for, and what is not any more once the verdict is known. In virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from recovery.adapters.probes import ProbesOfRegion
from recovery.domain.health import Finding, Part, Sighting
from tests.fakes.guard import in_virtual_time

QUICK = 1.0


@dataclass
class Pretended:
    """Answers after ``seconds``."""

    check: str
    seconds: float
    passed: bool = True
    vital: bool = True
    ended: bool = False

    async def look(self, part: Part) -> list[Finding]:
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.ended = True
            raise
        if self.check == "broken":
            raise RuntimeError("a mistake in a probe")
        return [Finding(check=self.check, passed=self.passed, vital=self.vital)]


def looked(part: Part, *probes: Pretended) -> tuple[Sighting, float]:
    """What was seen, and after how many seconds."""

    async def look() -> tuple[Sighting, float]:
        clock = asyncio.get_running_loop().time
        began = clock()
        return await ProbesOfRegion(probes, QUICK).look(part), clock() - began

    return in_virtual_time(look())


def test_what_hangs_is_not_waited_for_once_something_vital_of_the_owner_has_failed() -> None:
    hangs = Pretended("endpoint", 600.0)
    sighting, seconds = looked(Part.OWNER, hangs, Pretended("postgres", 0.1, passed=False), Pretended("redis", 0.5))
    assert [finding.check for finding in sighting.findings] == ["postgres", "redis"], "what answered in time counts"
    assert not sighting.passed and sighting.is_alive
    assert seconds == pytest.approx(QUICK)
    assert hangs.ended, "nothing goes on after the look"


def test_a_failure_that_comes_later_than_that_ends_the_look_at_once() -> None:
    hangs = Pretended("endpoint", 600.0)
    sighting, seconds = looked(Part.OWNER, hangs, Pretended("postgres", 3.0, passed=False))
    assert not sighting.passed and hangs.ended
    assert seconds == pytest.approx(3.0)


@pytest.mark.parametrize("first", [Pretended("postgres", 0.1), Pretended("dns", 0.1, passed=False, vital=False)])
def test_a_slow_answer_of_an_owner_that_has_not_failed_is_waited_for(first: Pretended) -> None:
    sighting, seconds = looked(Part.OWNER, first, Pretended("endpoint", 4.0, passed=False))
    assert [finding.check for finding in sighting.findings] == [first.check, "endpoint"]
    assert not sighting.passed
    assert seconds == pytest.approx(4.0)


def test_elsewhere_every_answer_is_waited_for() -> None:
    """Whether anything lives there decides where a group can go."""
    sighting, seconds = looked(Part.STANDBY, Pretended("redis", 4.0), Pretended("postgres", 0.1, passed=False))
    assert [finding.check for finding in sighting.findings] == ["redis", "postgres"]
    assert sighting.is_alive
    assert seconds == pytest.approx(4.0)


def test_a_mistake_in_a_probe_ends_the_others() -> None:
    hangs = Pretended("endpoint", 600.0)
    with pytest.raises(RuntimeError):
        looked(Part.OWNER, hangs, Pretended("broken", 0.1))
    assert hangs.ended
