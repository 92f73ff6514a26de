"""Steps that restore a group's data into a region and open it to clients."""

from __future__ import annotations

import time

from activities.boundary import step, told_as
from recovery.domain.addresses import address_of
from recovery.domain.group import GroupSnapshot, RegionPlan
from recovery.domain.plan import Facts, PlanContext, RestoredServer, StepOutcome
from recovery.domain.recovery_point import BackupKind, CheckResult, DataStore, store_of
from recovery.domain.words import size
from recovery.errors import NotFound, Refused, RestoreFailed
from recovery.ports.measurements import Measurements
from recovery.ports.recovery_points import RestoreOrder, Restores


class RestoreSteps:
    def __init__(self, restores: Restores, measurements: Measurements) -> None:
        self._restores = restores
        self._measurements = measurements

    @step("restores.choose_target")
    async def choose_target(self, context: PlanContext) -> StepOutcome:
        """The region that was asked for; else, of a recovery, the best that does not own the group.

        A restore lands beside the running service, in the region that owns the group: there its operator looks for it.
        """
        owner = context.facts.source_region
        wanted = context.request.region
        store = _store(context)
        candidates = [region for region in context.group.regions if region.has(store)]
        if wanted is not None:
            candidates = [region for region in candidates if region.name == wanted]
        elif context.plan == "Restore":
            candidates = [region for region in candidates if region.name == owner] or candidates
        else:
            candidates = _elsewhere(context.group, candidates, owner)
        if not candidates:
            raise NotFound(
                f"group {context.group.name} has no region to restore into: give one a {store} place "
                f"(groups.{context.group.name}.{store.key}) in the configuration"
            )
        chosen = max(candidates, key=_priority)
        return StepOutcome(
            summary=f"{chosen.name} ({owner or 'nobody'} owned the group)", facts=Facts(target_region=chosen.name)
        )

    @step("restores.verify_infrastructure")
    async def verify_infrastructure(self, context: PlanContext) -> StepOutcome:
        """Everything the restore needs is there, and the target is empty. Changes nothing."""
        checks = await self._restores.verify_infrastructure(_order(context))
        _demand(checks, Refused, "the target cannot take this restore")
        return _passed(checks)

    @step("restores.restore_database")
    async def restore_database(self, context: PlanContext) -> StepOutcome:
        """Restores the point and starts its server; clients are kept out until ``open_writes``."""
        began = time.monotonic()
        restored = await self._restores.restore(_order(context), told_as())
        rate = size(int(restored.restored_bytes / max(time.monotonic() - began, 0.001)))
        reached = [] if restored.reached is None else [f"recovered to {restored.reached}"]
        return StepOutcome(
            summary="; ".join([f"{size(restored.restored_bytes)} at {rate}/s into {_named(restored)}", *reached]),
            checks=[CheckResult(name="recovery target", passed=True, detail=words) for words in reached],
            facts=Facts(restored=restored, last_recovered_commit_at=restored.last_commit_at),
        )

    @step("restores.remove_restored")
    async def remove_restored(self, context: PlanContext) -> StepOutcome:
        """Undo of ``restore_database``: stops and removes what carries this restore's id, and nothing else."""
        removed = await self._restores.remove(_order(context))
        return StepOutcome(summary="target removed" if removed else "nothing had been restored")

    @step("restores.verify_data")
    async def verify_data(self, context: PlanContext) -> StepOutcome:
        """Holds the restored data against the manifest and the critical tables of the configuration."""
        checks = await self._restores.verify(context.group, _restored(context))
        self._measurements.recovery_checked(checks)
        _demand(checks, RestoreFailed, "the restored data are not right")
        return _passed(checks)

    @step("restores.open_writes")
    async def open_writes(self, context: PlanContext) -> StepOutcome:
        """Lets clients in: from here on their writes are acknowledged by this server."""
        restored = _restored(context)
        await self._restores.open_writes(context.group, restored)
        opened = f"{address_of(restored.host, restored.port)} accepts clients"
        return StepOutcome(summary=f"{_named(restored)} is in place" if _is_placed(restored) else opened)

    @step("restores.observe_writes")
    async def observe_writes(self, context: PlanContext) -> StepOutcome:
        """Whether clients are let in, whatever an earlier attempt reported."""
        open_now = await self._restores.accepts_writes(context.group, _restored(context))
        return StepOutcome(
            summary="clients are let in" if open_now else "clients are kept out", effect_present=open_now
        )

    @step("restores.confirm_service")
    async def confirm_service(self, context: PlanContext) -> StepOutcome:
        """Commits a row as a client would: the moment at which the service is back."""
        restored = _restored(context)
        at = await self._restores.write_probe(context.group, restored, context.run_id)
        return StepOutcome(
            summary=f"a write was acknowledged at {at:%H:%M:%S} UTC", facts=Facts(service_restored_at=at)
        )


def _order(context: PlanContext) -> RestoreOrder:
    region, point = context.facts.target_region, context.facts.point_id
    if region is None or point is None:
        raise Refused(f"{context.step} needs a target region and a recovery point: the plan's table is wrong")
    return RestoreOrder(
        group=context.group,
        region=region,
        point_id=point,
        restore_id=context.effect_id,
        target_database=context.request.target_database,
        target_directory=context.request.target_directory,
        target_port=context.request.target_port,
        target_instance=context.request.target_instance,
        recovery=context.facts.recovery,
        streams=context.request.streams or (),
        target_stream=context.request.target_stream,
        replicas=context.request.replicas,
        replace=context.request.replace,
        way=context.request.way,
        append_only=context.request.append_only,
        search=context.request.search,
    )


def _store(context: PlanContext) -> DataStore:
    """Of the point that is restored."""
    request = context.request
    if request.point_id is not None:
        return store_of(request.point_id)
    if request.kind is not None:
        return request.kind.store
    return request.store or DataStore.POSTGRES


def _restored(context: PlanContext) -> RestoredServer:
    if context.facts.restored is None:
        raise Refused(f"{context.step} needs a restored server: the plan's table is wrong")
    return context.facts.restored


def _named(restored: RestoredServer) -> str:
    """Where the data are: dumps and streams went into a server, a base backup is the server."""
    if _is_placed(restored):
        return f"{restored.data_directory}, which its Redis loads when it starts"
    at = address_of(restored.host, restored.port)
    if restored.search is not None:
        return f"{len(restored.search.indices)} indices at {at}"
    if restored.kind is BackupKind.SNAPSHOT:
        return f"instance {restored.instance} at {at}"
    if restored.kind is BackupKind.STREAMS:
        return f"streams {', '.join(restored.streams)} at {at}"
    return f"database {restored.database} at {at}" if restored.kind is BackupKind.LOGICAL else at


def _is_placed(restored: RestoredServer) -> bool:
    """A dump for a Redis that does not run."""
    return restored.kind is BackupKind.RDB and restored.data_directory is not None


def _elsewhere(group: GroupSnapshot, regions: list[RegionPlan], owner: str | None) -> list[RegionPlan]:
    """Those that are not lost with the owner, else the others of its site, else all."""
    here = next((region.place for region in group.regions if region.name == owner), None)
    others = [region for region in regions if region.name != owner]
    return [region for region in others if region.place != here] or others or regions


def _priority(region: RegionPlan) -> tuple[int, str]:
    return region.priority, region.name


def _passed(checks: list[CheckResult]) -> StepOutcome:
    warnings = [check.warning for check in checks if check.warning]
    return StepOutcome(summary=f"{len(checks)} checks passed", checks=checks, warnings=warnings)


def _demand(checks: list[CheckResult], error: type[Refused] | type[RestoreFailed], what: str) -> None:
    failed = [check for check in checks if not check.passed]
    if failed:
        raise error(f"{what}: " + "; ".join(f"{check.name}: {check.detail}" for check in failed))
