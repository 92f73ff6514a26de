"""Checks that a recovery may not go on without: of the restored data, of the target, of the services."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from unittest.mock import create_autospec

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.restores import RestoreSteps
from activities.services import ServiceSteps
from recovery.domain.health_answer import Expected
from recovery.domain.plan import Facts, PlanContext, PlanRequest, RestoredServer
from recovery.domain.recovery_point import BackupKind, CheckResult
from recovery.ports.recovery_points import Restores
from tests.fakes.handover import group_of
from tests.fakes.measurements import FakeMeasurements

GOOD = CheckResult(name="roles", passed=True)
ADVISED = CheckResult(name="collations", passed=True, warning="rebuild the indexes")
BAD = CheckResult(name="fingerprints", passed=False, detail="orders has 3 rows and not 4")


def context(step: str) -> PlanContext:
    group = group_of("region-a", "region-b")
    regions = [region.model_copy(update={"health_urls": ["http://one", "http://two"]}) for region in group.regions]
    restored = RestoredServer(
        region="region-b", host="127.0.0.1", port=5432, database="shop", kind=BackupKind.PHYSICAL, point_id="point-1"
    )
    return PlanContext(
        plan="FullRecovery",
        run_id="run-1",
        workflow_id="recovery/shop",
        step=step,
        request=PlanRequest(group="shop"),
        facts=Facts(
            group=group.model_copy(update={"regions": regions}),
            source_region="region-a",
            target_region="region-b",
            point_id="point-1",
            restored=restored,
        ),
        started_at=datetime(2026, 11, 22, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("verify_infrastructure", "Refused", "the target cannot take this restore"),
        ("verify_data", "RestoreFailed", "the restored data are not right"),
    ],
)
async def test_one_check_that_failed_ends_the_step(name: str, error: str, words: str) -> None:
    restores = create_autospec(Restores, instance=True)
    measured = FakeMeasurements()
    step = getattr(RestoreSteps(restores, measured), name)
    asked = restores.verify if name == "verify_data" else restores.verify_infrastructure
    asked.return_value = [GOOD]
    assert (await ActivityEnvironment().run(step, context(name))).checks == [GOOD]
    asked.return_value = [ADVISED]
    assert (await ActivityEnvironment().run(step, context(name))).warnings == ["rebuild the indexes"]
    asked.return_value = [GOOD, BAD]
    with pytest.raises(ApplicationError, match=f"{words}: fingerprints: orders has 3 rows and not 4") as caught:
        await ActivityEnvironment().run(step, context(name))
    assert (caught.value.type, caught.value.non_retryable) == (error, True)
    assert name != "verify_data" or measured.checks == [GOOD, ADVISED, GOOD, BAD], "what failed is measured, too"


async def test_one_endpoint_that_is_not_well_is_asked_again_until_it_is() -> None:
    class Probe:
        async def check(self, url: str, *, expected: Expected, timeout: timedelta) -> CheckResult:
            return CheckResult(name=url, passed=url == "http://one", detail="503")

    steps, words = ServiceSteps(Probe(), FakeMeasurements()), "1 of 2 health endpoints of region-b are not well"
    with pytest.raises(ApplicationError, match=f"{words}: http://two: 503") as caught:
        await ActivityEnvironment().run(steps.verify_services, context("verify-services"))
    assert (caught.value.type, caught.value.non_retryable) == ("Unreachable", False)
