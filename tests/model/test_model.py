"""At most one primary: the real rules hold in every world that was tried, and each broken rule is found out.

Fast versions of what tests/chaos/test_at_most_one_primary.py does at length.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from recovery.guard import lease
from tests.model import mutants
from tests.model.exhaustive import Small, everything
from tests.model.model import World
from tests.model.rules import Rules
from tests.model.small_worlds import CONFIRMATIONS, EFFECTS, LEASES, PROMISED, UNKNOWNS
from tests.model.walks import follow_plan, promise, settle, uneven, walk

RATES = (0.99, 1.0, 1.01)


@pytest.fixture
def even_clocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small worlds count in whole ticks: their clocks run alike, and the margin is a demotion's second to the point."""
    monkeypatch.setattr(lease, "DRIFT", 0.0)
    yield


@pytest.mark.usefixtures("even_clocks")
@pytest.mark.parametrize("small", [LEASES, UNKNOWNS, PROMISED, EFFECTS, CONFIRMATIONS], ids=lambda small: small.name)
def test_in_a_small_world_every_way_keeps_at_most_one_primary(small: Small) -> None:
    states, found = everything(small, Rules())
    assert found is None
    assert states > small.at_least, "the world became too small to mean anything"


@pytest.mark.usefixtures("even_clocks")
@pytest.mark.parametrize(
    ("small", "broken"),
    [
        (LEASES, mutants.CountsFromAfterTheWrite),
        (LEASES, mutants.WatchesFromBeforeTheRead),
        (LEASES, mutants.BreaksWhateverStands),
        (LEASES, mutants.LeavesNoMargin),
        (EFFECTS, mutants.PromotesWithoutItsOwnLease),
        (PROMISED, mutants.ForgetsItsPromises),
        (UNKNOWNS, mutants.UsesASerialAgain),
        (PROMISED, mutants.CountsPromisesFromTheAnswer),
        (EFFECTS, mutants.ActsOnAnotherServer),
        (EFFECTS, mutants.ArmsNoCompanion),
        (CONFIRMATIONS, mutants.ConfirmsBeforeItDemoted),
    ],
    ids=lambda one: getattr(one, "__name__", getattr(one, "name", "")),
)
def test_the_model_finds_a_broken_rule(small: Small, broken: type[Rules]) -> None:
    _, found = everything(small, broken())
    assert found is not None, f"{broken.__doc__} Nobody noticed."
    assert "accept" in found.why


def test_long_random_ways_keep_at_most_one_primary_and_bound_what_a_woken_host_accepts() -> None:
    happened, found = walk(uneven(Rules()), range(40), steps=150)
    assert found is None
    assert happened["promotions"] > 40
    assert happened["takeovers"] > 80


class Anything(RuleBasedStateMachine):
    """Hypothesis chooses the next action among all that are possible, so that it can shrink what it finds."""

    @initialize(rates=st.tuples(*[st.sampled_from(RATES)] * 3), offset=st.floats(0, 1000))
    def begin(self, rates: tuple[float, ...], offset: float) -> None:
        self.world = World(Rules(), ("A", "B", "C"), rates=rates, offsets=(0.0, offset, 2 * offset))

    def _calm(self, region: str) -> bool:
        host = self.world.hosts[region]
        return host.guard is not None and host.frozen is None

    @rule(region=st.sampled_from("ABC"))
    def runs_without_delay(self, region: str) -> None:
        if self._calm(region):
            settle(self.world, region)

    @rule(region=st.sampled_from("ABC"))
    def asks_for_promises(self, region: str) -> None:
        if self._calm(region):
            promise(self.world, region)

    @rule(region=st.sampled_from("ABC"))
    def takes_over(self, region: str) -> None:
        if self._calm(region):
            follow_plan(self.world, region)

    @rule(seconds=st.sampled_from((0.1, 1.0, 2.5, 7.0)))
    def time_goes_on(self, seconds: float) -> None:
        self.world.do(("advance", seconds))

    @rule(data=st.data())
    def anything_happens(self, data: st.DataObject) -> None:
        self.world.do(data.draw(st.sampled_from(self.world.enabled())))


def test_no_sequence_that_hypothesis_finds_makes_two_primaries() -> None:
    quick = settings(
        max_examples=25,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Anything, settings=quick)


@pytest.mark.parametrize(("kind", "window"), [("paused", 5.0), ("suspended", 0.0)])
def test_a_woken_host_accepts_writes_for_one_ttl_at_most(kind: str, window: float) -> None:
    """The window of strength ``guard``: there for a paused virtual machine, and no longer than its lease was."""
    world = World(Rules(), ("A", "B"))
    for region in ("A", "A", "B"):
        settle(world, region)
    world.do(("freeze", "A", kind))
    world.do(("plan", "B"))
    while not world.hosts["B"].primary:
        world.do(("advance", 1.0))
        follow_plan(world, "B")
        assert world.now < 20
    world.do(("thaw", "A"))
    while world.hosts["A"].primary:
        world.do(("advance", 0.25))
    assert window - 0.5 <= max(world.windows) <= window + lease.DEMOTION
