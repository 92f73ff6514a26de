"""Steps that look at the services."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.services import ServiceSteps
from recovery.domain.health_answer import Expected
from recovery.domain.recovery_point import CheckResult
from tests.fakes.handover import group_of
from tests.fakes.measurements import FakeMeasurements
from tests.unit.activities.moved import Site


class Answers:
    """Every endpoint is well but those that are named."""

    def __init__(self, broken: set[str]) -> None:
        self.broken = broken

    async def check(self, url: str, *, expected: Expected, timeout: timedelta) -> CheckResult:
        return CheckResult(name=url, passed=url not in self.broken, detail=f"{expected} within {timeout}")


@pytest.mark.parametrize("broken", [set(), {"http://b/health"}], ids=["well", "broken"])
async def test_what_the_endpoints_answered_is_measured_whether_or_not_it_is_well(broken: set[str]) -> None:
    group = group_of("a", "b", "c")
    group.region("b").health_urls[:] = ["http://b/health", "http://b/ready"]
    measurements = FakeMeasurements()
    steps = ServiceSteps(Answers(broken), measurements)
    context = Site(group).context("FullRecovery")
    if broken:
        with pytest.raises(ApplicationError, match="1 of 2 health endpoints of b are not well: http://b/health"):
            await ActivityEnvironment().run(steps.verify_services, context)
    else:
        outcome = await ActivityEnvironment().run(steps.verify_services, context)
        assert outcome.summary == "2 endpoints well"
    assert {check.name: check.passed for check in measurements.checks} == {
        "http://b/health": not broken, "http://b/ready": True,
    }  # fmt: skip


@pytest.mark.parametrize("broken", [set(), {"http://prometheus:9090/api/v1/query?query=up"}], ids=["well", "lost"])
async def test_a_prometheus_that_is_lost_is_a_warning_and_holds_nobody_up(broken: set[str]) -> None:
    group = group_of("a", "b", "c").model_copy(update={"prometheus": "http://prometheus:9090/"})
    group.region("b").health_urls[:] = ["http://b/health"]
    measurements = FakeMeasurements()
    outcome = await ActivityEnvironment().run(
        ServiceSteps(Answers(broken), measurements).verify_services, Site(group).context("FullRecovery")
    )
    assert outcome.summary == "1 endpoint well"
    assert [(check.name, check.passed) for check in outcome.checks][1:] == [("monitoring", not broken)]
    assert {check.name: check.passed for check in measurements.checks}["monitoring"] is not bool(broken)
    assert len(outcome.warnings) == len(broken) and all("monitoring does not work" in said for said in outcome.warnings)
