"""Steps that fail PostgreSQL over where a provider runs it: its API is all there is to hold on to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from activities.boundary import step
from activities.lock import check_held
from activities.managed_instances import (
    LOOK_EVERY,
    address_of,
    instance_of,
    remembering,
    rule_of,
    source_of,
    target_of,
    until,
)
from recovery.domain.managed import (
    RECENT,
    ManagedInstance,
    ManagedSnapshot,
    ManagedTarget,
    RestoreManaged,
    Way,
    choose_way,
    restored_name,
)
from recovery.domain.ownership import FenceProof, OwnershipRecord, Strength
from recovery.domain.plan import Facts, PlanContext, StepOutcome
from recovery.domain.recovery_point import CheckResult
from recovery.errors import Contended, NotFound, RecoveryError, Refused, RestoreFailed, Unreachable
from recovery.ports.managed_postgres import ManagedPostgres, ManagedProbe
from recovery.ports.ownership import OwnershipStore

CONFIRMATION = "confirm-fence"
EVENTS_SHOWN = 10


class ManagedPostgresSteps:
    """``databases`` gives the API for a group, ``probe`` logs in to its servers."""

    def __init__(
        self,
        databases: Callable[[str], Awaitable[ManagedPostgres]],
        ownership: OwnershipStore,
        probe: ManagedProbe,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self._databases = databases
        self._ownership = ownership
        self._probe = probe
        self._look_every = look_every

    # Before the point of no return.

    @step("managed_postgres.assess")
    async def assess(self, context: PlanContext) -> StepOutcome:
        """What the provider says of the group's instance, its replicas and its last events. Changes nothing."""
        rule, region = rule_of(context), source_of(context)
        name = instance_of(context, region)
        database = await self._databases(context.group.name)
        checks: list[CheckResult] = []
        try:
            instance = await database.instance(region, name)
            events = await database.events(region, name, RECENT)
        except Unreachable as error:
            instance, events = None, []
            checks.append(CheckResult(name=f"{name} in {region}", passed=False, detail=str(error)))
        else:
            words = instance.status if instance else "does not exist"
            well = instance is not None and instance.is_available
            checks.append(CheckResult(name=f"{name} in {region}", passed=well, detail=words))
            if well and not context.request.force:
                raise Refused(
                    f"RDS says that {name} is {words}. Look whether clients reach it (network, connection limit, "
                    "credentials); if it has to be replaced all the same, start the run with --force and a reason"
                )
        for other in rule.instances:
            if other != region:
                checks.append(await self._replica_check(context, other))
        failed = [check for check in checks if not check.passed]
        checks += [
            CheckResult(name=f"event of {event.at:%Y-%m-%d %H:%M} UTC", passed=True, detail=event.message)
            for event in events[:EVENTS_SHOWN]
        ]
        return StepOutcome(
            summary="; ".join(f"{check.name}: {check.detail}" for check in failed) or "all instances are available",
            checks=checks,
            facts=Facts(outage_began_at=context.request.outage_began_at or context.started_at),
        )

    @step("managed_postgres.choose_replacement")
    async def choose_replacement(self, context: PlanContext) -> StepOutcome:
        """A read replica that follows, else the newest snapshot; each that was not taken with its reason."""
        rule, region = rule_of(context), source_of(context)
        source = instance_of(context, region)
        database = await self._databases(context.group.name)
        replicas: list[ManagedInstance] = []
        snapshots: list[ManagedSnapshot] = []
        silent: list[str] = []
        old: ManagedInstance | None = None
        for place, name in rule.instances.items():
            try:
                found = await database.instance(place, name)
                if place == region:
                    old = found
                elif found is not None:
                    replicas.append(found)
                snapshots += await database.snapshots(place, source)
            except Unreachable as error:
                silent.append(f"{place}: {error}")
        way, chosen, rejected = choose_way(
            rule,
            region,
            replicas,
            snapshots,
            region=context.request.region,
            snapshot=context.request.point_id,
            priorities={each.name: each.priority for each in context.group.regions},
        )
        rejected += silent
        if chosen is None:
            raise NotFound(
                f"nothing can replace {source}: no read replica follows it, and there is no snapshot of it. "
                + ("; ".join(rejected) or "no other instance is configured")
            )
        target = remembering(self._target(context, way, chosen), rule, old)
        if isinstance(chosen, ManagedInstance):
            as_of = await self._replayed_until(context, chosen, rejected)
            target = target.model_copy(update={"data_as_of": as_of})
        since = f", data as of {target.data_as_of:%Y-%m-%d %H:%M:%S} UTC" if target.data_as_of else ""
        what = f"promote {target.instance}" if way is Way.PROMOTE else f"restore {target.snapshot} as {target.instance}"
        return StepOutcome(
            summary=f"{what} in {target.region}{since}",
            warnings=rejected,
            facts=Facts(managed=target, target_region=target.region, last_recovered_commit_at=target.data_as_of),
        )

    @step("managed_postgres.restore_snapshot")
    async def restore_snapshot(self, context: PlanContext) -> StepOutcome:
        """Starts the new instance. It keeps clients out until it is opened, where a closed security group is known."""
        target, rule = target_of(context), rule_of(context)
        database = await self._databases(context.group.name)
        assert target.snapshot is not None, "a target that is restored has its snapshot"
        like = await self._model_for(database, context, target)
        closed = rule.fence_security_groups.get(target.region, [])
        order = RestoreManaged(
            region=target.region,
            instance=target.instance,
            snapshot=target.snapshot,
            instance_class=rule.instance_class,
            mark=context.effect_id,
            security_groups=closed or target.source_security_groups or (like.security_groups if like else []),
            like=like,
            engine_version=await self._version_of(database, target),
        )
        await database.restore(order)
        warnings = [order.left_out] if order.left_out else []
        warnings += [] if like else ["no instance of the group could be looked at: RDS takes its own default settings"]
        return StepOutcome(summary=f"{target.instance} ({rule.instance_class}) is being made", warnings=warnings)

    @step("managed_postgres.remove_restored")
    async def remove_restored(self, context: PlanContext) -> StepOutcome:
        """Undo of the restore: deletes the instance if this run made it, and no other."""
        target = context.facts.managed
        if target is None or target.way is not Way.RESTORE:
            return StepOutcome(summary="nothing had been restored")
        database = await self._databases(context.group.name)
        removed = await database.remove(target.region, target.instance, context.effect_id)
        return StepOutcome(summary=f"{target.instance} is being deleted" if removed else "nothing had been restored")

    @step("managed_postgres.wait_until_restored")
    async def wait_until_restored(self, context: PlanContext) -> StepOutcome:
        """Waits until the restored instance is available."""
        return await self._available(context)

    # The point of no return, and after it.

    @step("managed_postgres.open_database")
    async def open_database(self, context: PlanContext) -> StepOutcome:
        """Promotes the replica, or lets clients into the restored instance; the fence's proof is stored first."""
        proof = _proof(context)
        await self._store_proof(context, proof)
        target = target_of(context)
        database = await self._databases(context.group.name)
        if target.way is Way.PROMOTE:
            await database.promote(target.region, target.instance)
            return StepOutcome(summary=f"{target.instance} is being promoted", facts=Facts(fence=proof))
        groups = await self._groups_to_open(database, context, target)
        if groups:
            await database.set_security_groups(target.region, target.instance, groups)
        return StepOutcome(summary=f"{target.instance} lets clients in", facts=Facts(fence=proof))

    @step("managed_postgres.observe_database")
    async def observe_database(self, context: PlanContext) -> StepOutcome:
        """Whether the replacement was opened, whatever an earlier attempt reported."""
        target = target_of(context)
        now = await (await self._databases(context.group.name)).instance(target.region, target.instance)
        closed = sorted(rule_of(context).fence_security_groups.get(target.region, []))
        is_open: bool | None
        if target.way is Way.PROMOTE:
            is_open = now is not None and now.replica_of is None
            if now is not None and not is_open and not now.is_available:
                is_open = None  # on its way, to a promotion or to something else
        else:
            is_open = now is not None and (not closed or now.security_groups != closed)
        words = {True: "open", False: "not open", None: f"{now.status if now else 'absent'}: not known"}[is_open]
        return StepOutcome(summary=f"{target.instance} is {words}", effect_present=is_open)

    @step("managed_postgres.wait_until_available")
    async def wait_until_available(self, context: PlanContext) -> StepOutcome:
        """Waits until the replacement is available, and says where it is."""
        return await self._available(context)

    @step("managed_postgres.verify_data")
    async def verify_data(self, context: PlanContext) -> StepOutcome:
        """The group's critical tables are there and can be read."""
        target = target_of(context)
        host, port = address_of(target, context)
        checks = await self._probe.tables(context.group, target.region, host, port)
        failed = [check for check in checks if not check.passed]
        if failed:
            words = "; ".join(f"{check.name}: {check.detail}" for check in failed)
            raise RestoreFailed(f"the data of {target.instance} are not right: {words}")
        return StepOutcome(summary=f"{len(checks)} tables can be read" if checks else "no tables named", checks=checks)

    @step("managed_postgres.confirm_service")
    async def confirm_service(self, context: PlanContext) -> StepOutcome:
        """Commits a row as a client would: the moment at which the database is back."""
        target = target_of(context)
        host, port = address_of(target, context)
        at = await self._probe.write(context.group, target.region, host, port, context.run_id)
        warnings = []
        if target.way is Way.RESTORE:
            warnings.append(
                f"the group's database is now {target.instance} in {target.region}: "
                f"set groups.{context.group.name}.rds.instances.{target.region} to it before the next run"
            )
        return StepOutcome(
            summary=f"a write was acknowledged at {at:%H:%M:%S} UTC",
            facts=Facts(service_restored_at=at),
            warnings=warnings,
        )

    # Parts of the above.

    async def _replica_check(self, context: PlanContext, region: str) -> CheckResult:
        name = instance_of(context, region)
        try:
            found = await (await self._databases(context.group.name)).instance(region, name)
        except RecoveryError as error:
            return CheckResult(name=f"{name} in {region}", passed=False, detail=str(error))
        if found is None:
            return CheckResult(name=f"{name} in {region}", passed=False, detail="does not exist")
        follows = f"follows {found.replica_of}" if found.replica_of else "is no replica"
        words = f"{found.status}, {found.replication_error or follows}"
        well = found.is_available and found.replica_of is not None and found.replication_error is None
        return CheckResult(name=f"{name} in {region}", passed=well, detail=words)

    def _target(self, context: PlanContext, way: Way, chosen: ManagedInstance | ManagedSnapshot) -> ManagedTarget:
        rule, region = rule_of(context), source_of(context)
        source = instance_of(context, region)
        restored = rule.restored_instance or restored_name(source, context.effect_id)
        as_of = chosen.taken_at if isinstance(chosen, ManagedSnapshot) else None
        return ManagedTarget(
            way=way,
            source_region=region,
            source_instance=source,
            region=chosen.region,
            instance=chosen.name if way is Way.PROMOTE else restored,
            snapshot=chosen.name if way is Way.RESTORE else None,
            data_as_of=as_of,
        )

    async def _replayed_until(
        self, context: PlanContext, replica: ManagedInstance, notes: list[str]
    ) -> datetime | None:
        """The replica's last replayed commit; not knowing it is no reason to leave the group without a database."""
        if replica.host is None or replica.port is None:
            return None
        try:
            return await self._probe.replayed_until(context.group, replica.region, replica.host, replica.port)
        except RecoveryError as error:
            notes.append(f"how far {replica.name} had come is not known: {error}")
            return None

    async def _store_proof(self, context: PlanContext, proof: FenceProof) -> OwnershipRecord:
        for _ in range(5):
            found = await self._ownership.read(context.group.name)
            record = check_held(found[0] if found else None, context)
            if record.fence == proof:
                return record
            changed = record.model_copy(update={"fence": proof, "changed_at": datetime.now(UTC)})
            try:
                await self._ownership.write(changed, version=found[1] if found else None)
            except Contended:
                continue
            return changed
        raise Contended(f"the ownership record of {context.group.name} changed while the proof was being stored")

    async def _model_for(
        self, database: ManagedPostgres, context: PlanContext, target: ManagedTarget
    ) -> ManagedInstance | None:
        """An instance of the group in that region, whose network and settings the new one takes."""
        name = rule_of(context).instances.get(target.region)
        return None if name is None else await database.instance(target.region, name)

    @staticmethod
    async def _version_of(database: ManagedPostgres, target: ManagedTarget) -> str | None:
        """Of the snapshot that is restored: an upgraded instance's settings do not fit an older one."""
        listed = await database.snapshots(target.region, target.source_instance)
        return next((each.engine_version for each in listed if each.name == target.snapshot), None)

    async def _groups_to_open(
        self, database: ManagedPostgres, context: PlanContext, target: ManagedTarget
    ) -> list[str]:
        closed = sorted(rule_of(context).fence_security_groups.get(target.region, []))
        now = await database.instance(target.region, target.instance)
        if not closed or now is None or now.security_groups != closed:
            return []
        if target.region == target.source_region and target.source_security_groups:
            return target.source_security_groups
        like = await self._model_for(database, context, target)
        if like is None or like.security_groups == closed:
            raise Refused(
                f"{target.instance} is closed, and no other instance of the group in {target.region} says which "
                "security groups let its clients in: set them in RDS, then retry"
            )
        return like.security_groups

    async def _available(self, context: PlanContext) -> StepOutcome:
        target = target_of(context)
        database = await self._databases(context.group.name)
        promoted = target.way is Way.PROMOTE

        def ready(seen: ManagedInstance) -> bool:
            return seen.is_available and seen.host is not None and not (promoted and seen.replica_of)

        now = await until(database, target.region, target.instance, ready, "is available", None, self._look_every)
        found = target.model_copy(update={"host": now.host, "port": now.port})
        return StepOutcome(
            summary=f"{target.instance} is available at {now.host}:{now.port}", facts=Facts(managed=found)
        )


def _proof(context: PlanContext) -> FenceProof:
    """The provider's, or a person's word."""
    if context.facts.fence is not None:
        return context.facts.fence
    person = (context.facts.consents or {}).get(CONFIRMATION, "")
    if not person and context.request.confirm_fence:
        person = context.request.requested_by
    if not person:
        raise Refused(
            f"{context.step} needs the proof that the old database is fenced, or a person who vouches for it: "
            "nothing is opened without it"
        )
    record = context.facts.ownership
    return FenceProof(
        epoch=record.epoch if record else 0,
        region=source_of(context),
        how="person",
        by=person,
        at=context.started_at,
        run=context.holder,
        strengths={"postgres": Strength.MANUAL},
        reason=context.request.reason,
    )
