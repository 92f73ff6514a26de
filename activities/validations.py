"""Steps that prove recovery points: a point counts once it was restored and checked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from activities.boundary import step, told_as
from recovery.domain.plan import Facts, PlanContext, StepOutcome
from recovery.domain.recovery_point import NO_LOCATION, CheckResult, RecoveryPoint, Verdict, VerdictState
from recovery.domain.wal_read_back import BASE_DUE
from recovery.domain.words import duration, size
from recovery.errors import Corrupt, NotFound, RecoveryError, RestoreFailed
from recovery.ports.measurements import Measurements
from recovery.ports.recovery_points import RecoveryPoints, RecoveryTargets

log = structlog.get_logger("recovery.points")

ONE_DAY = timedelta(days=1)
OVERLAP = timedelta(hours=2)  # what a daily run that begins late would otherwise pass over


class ValidationSteps:
    """``targets``: where WAL is archived; None: nowhere."""

    def __init__(
        self, points: RecoveryPoints, measurements: Measurements, targets: RecoveryTargets | None = None
    ) -> None:
        self._points = points
        self._measurements = measurements
        self._targets = targets

    @step("points.choose_to_validate")
    async def choose_to_validate(self, context: PlanContext) -> StepOutcome:
        """The named point, or all points of the last 24 hours (or of the given while)."""
        if context.request.point_id is not None:
            chosen = [context.request.point_id]
            await self._known(context, context.request.point_id)
        else:
            since = context.request.since or ONE_DAY
            chosen = [point.point_id for point in await self._points.points(context.group, since)]
            unbelieved = [
                point_id for point_id in await self._points.unbelieved(context.group) if point_id not in chosen
            ]
            chosen += [point_id for point_id in unbelieved if _is_younger(point_id, since)]
            if not chosen:
                raise NotFound(
                    f"group {context.group.name} has no recovery point of the last {duration(since)}: "
                    f"take one with drctl backup run --group {context.group.name}"
                )
        return StepOutcome(summary=f"{len(chosen)} to validate", facts=Facts(points_to_validate=chosen))

    @step("points.validate")
    async def validate(self, context: PlanContext) -> StepOutcome:
        """Restores each chosen point for real. Another attempt goes on after the points that have a verdict."""
        verdicts: list[Verdict] = []
        for point_id in context.facts.points_to_validate or []:
            point = await self._known(context, point_id)
            verdict = point.verdict if point is not None else None
            if verdict is None or verdict.run_id != context.run_id:
                verdict = await self._points.validate(
                    context.group, point_id, context.run_id, told_as(f"validating {point_id}")
                )
                if point is not None:
                    self._measurements.point_validated(verdict, point.manifest.kind, point.manifest.finished_at)
            verdicts.append(verdict)
        return _judged(verdicts)

    @step("points.repair")
    async def repair(self, context: PlanContext) -> StepOutcome:
        """Writes what is damaged at one location anew from another that holds it intact."""
        sound: list[str] = []
        warnings: list[str] = []
        written = 0
        for verdict in context.facts.verdicts or []:
            if verdict.state is not VerdictState.CORRUPT or verdict.location == NO_LOCATION:
                continue  # what another service lost cannot be written anew from a location
            try:
                done = await self._points.repair(context.group, verdict.point_id, told_as("repairing"))
            except RecoveryError as error:
                warnings.append(f"{verdict.point_id} was not repaired: {error}")
                continue
            written += sum(len(keys) for keys in done.written.values())
            warnings += [
                f"{verdict.point_id} was damaged at {name}, and {_listed(keys)} written anew from another location"
                for name, keys in done.written.items()
            ]
            warnings += [f"{verdict.point_id} was not repaired at {name}: {why}" for name, why in done.left.items()]
            if not done.left:
                sound.append(verdict.point_id)
        return StepOutcome(
            summary=f"{written} objects written anew; all copies of {len(sound)} points are sound again",
            facts=Facts(points_repaired=sound),
            warnings=warnings,
        )

    @step("points.prove_again")
    async def prove_again(self, context: PlanContext) -> StepOutcome:
        """Restores each repaired point for real: only a new verdict takes the old one back."""
        verdicts: list[Verdict] = []
        for earlier in context.facts.verdicts or []:
            if earlier.point_id not in (context.facts.points_repaired or []):
                verdicts.append(earlier)
                continue
            point = await self._points.point(context.group, earlier.point_id)
            verdict = point.verdict
            if verdict is None or verdict.run_id != context.run_id or verdict.state is VerdictState.CORRUPT:
                verdict = await self._points.validate(
                    context.group, earlier.point_id, context.run_id, told_as(f"validating {earlier.point_id}")
                )
                self._measurements.point_validated(verdict, point.manifest.kind, point.manifest.finished_at)
            verdicts.append(verdict)
        return _judged(verdicts)

    @step("points.read_back_wal")
    async def read_back_wal(self, context: PlanContext) -> StepOutcome:
        """Reads what was archived since the validation before this one, at every location: a recovery needs it."""
        assert self._targets is not None, "a group with archived WAL has workers that know where"
        since = datetime.now(UTC) - (context.request.since or ONE_DAY) - OVERLAP
        found = await self._targets.read_back(context.group, since, told_as("reading archived WAL"))
        damage = f", {len(found.damaged)} damaged" if found.damaged else ""
        detail = f"{found.pieces} pieces of WAL, {size(found.read_bytes)}, read back{damage}"
        lost = f"; no location gives {', '.join(found.lost)}" if found.lost else ""
        return StepOutcome(
            summary=detail + lost,
            facts=Facts(wal_lost=found.lost),
            checks=[CheckResult(name="archived WAL", passed=not found.lost, detail=detail + lost)],
            warnings=[*found.damaged, *(f"its WAL was not read back at {words}" for words in found.silent)],
        )

    @step("points.judge")
    async def judge(self, context: PlanContext) -> StepOutcome:
        """The overall verdict: fails when any point is not VALID, or archived WAL is lost."""
        verdicts = context.facts.verdicts or []
        bad = [verdict for verdict in verdicts if verdict.state is not VerdictState.VALID]
        if bad:
            words = "; ".join(f"{verdict.point_id} is {verdict.state}: {verdict.reason}" for verdict in bad)
            raise RestoreFailed(f"{len(bad)} of {len(verdicts)} recovery points are not VALID: {words}")
        if context.facts.wal_lost:
            raise RestoreFailed(f"{', '.join(context.facts.wal_lost)} cannot be read at any location: {BASE_DUE}")
        return StepOutcome(summary=f"all {len(verdicts)} VALID")

    async def _known(self, context: PlanContext, point_id: str) -> RecoveryPoint | None:
        """None for a point that is there and whose manifest is not believed."""
        try:
            return await self._points.point(context.group, point_id)
        except Corrupt as error:
            log.warning("a manifest is not believed", point=point_id, reason=str(error))
            return None


def _judged(verdicts: list[Verdict]) -> StepOutcome:
    valid = sum(verdict.state is VerdictState.VALID for verdict in verdicts)
    return StepOutcome(
        summary=f"{valid} of {len(verdicts)} VALID",
        facts=Facts(verdicts=verdicts, point_id=verdicts[0].point_id if len(verdicts) == 1 else None),
        checks=[_as_check(verdict, many=len(verdicts) > 1) for verdict in verdicts]
        + [check for verdict in verdicts for check in verdict.checks if len(verdicts) == 1],
    )


def _listed(keys: list[str]) -> str:
    """The first of them, for a sentence."""
    return f"{keys[0]} was" if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more were"


def _is_younger(point_id: str, since: timedelta) -> bool:
    """By the moment that the id begins with; of an id without one nobody knows, so it counts."""
    try:
        began = datetime.strptime(point_id.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return True
    return began >= datetime.now(UTC) - since


def _as_check(verdict: Verdict, *, many: bool) -> CheckResult:
    return CheckResult(
        name=f"{verdict.point_id} {verdict.state}" if many else "verdict",
        passed=verdict.state is VerdictState.VALID,
        detail=verdict.reason or f"restored and checked at {verdict.location}",
        seconds=verdict.duration.total_seconds(),
    )
