"""Amazon RDS for PostgreSQL.

What RDS promises and what it does not (RDS user guide): promoting a read replica ends its replication and makes it a
primary of its own; it neither stops nor fences its source. An instance that has read replicas cannot be stopped, and a
stopped one is started again after seven days. A changed security group keeps new sessions out; those that are
established go on until the instance is rebooted.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from recovery.adapters.aws import AwsAccess, AwsCalls, code_of, words_of
from recovery.backup.bounded import to_the_end
from recovery.domain.managed import ManagedEvent, ManagedInstance, ManagedSnapshot, RestoreManaged
from recovery.errors import NotFound, NotOurs, Refused, Unreachable

if TYPE_CHECKING:
    from mypy_boto3_rds import RDSClient
else:
    RDSClient = object

MARK = "recovery-plans-run"  # the tag by which a run knows its own instance
OPENED = "recovery-plans-opened"  # the tag of one that clients were let into
ATTEMPT = "recovery-plans-attempt"  # the tag that names the attempt of a validation that goes on with it
LONGEST_LOOK_BACK = timedelta(days=14)  # what RDS keeps of events
ABSENT = ("DBInstanceNotFound", "DBInstanceNotFoundFault")
FULL = ("InsufficientDBInstanceCapacity", "InsufficientDBInstanceCapacityFault")
BUSY = ("InvalidDBInstanceState", "InvalidDBInstanceStateFault")
UNREADY = ("InvalidDBSnapshotState", "InvalidDBSnapshotStateFault")


class RdsPostgres:
    """``recovery.ports.managed_postgres.ManagedPostgres``.

    Args:
        access: for each region of the configuration; its ``region`` is Amazon's name of it.
        patience: how long a throttled call is made again.
    """

    def __init__(self, access: dict[str, AwsAccess], patience: timedelta = timedelta(seconds=20)) -> None:
        self._calls: dict[str, AwsCalls[RDSClient]] = {
            region: AwsCalls("rds", each, patience) for region, each in access.items()
        }
        self._amazon = {region: each.region for region, each in access.items()}

    async def close(self) -> None:
        for calls in self._calls.values():
            await calls.close()

    async def instance(self, region: str, name: str) -> ManagedInstance | None:
        """See the port."""
        try:
            answer: Any = await self.of(region).run(
                lambda client: client.describe_db_instances(DBInstanceIdentifier=name),
                f"look at instance {name} in {region}",
                leave=ABSENT,
            )
        except ClientError:
            return None
        return instance_as(region, answer["DBInstances"][0])

    async def events(self, region: str, name: str, since: timedelta) -> list[ManagedEvent]:
        """See the port."""
        minutes = int(min(since, LONGEST_LOOK_BACK).total_seconds() // 60)

        def every_page(client: RDSClient) -> list[Any]:  # RDS gives the oldest first
            pages = client.get_paginator("describe_events").paginate(
                SourceIdentifier=name, SourceType="db-instance", Duration=minutes
            )
            return [each for page in pages for each in page["Events"]]

        answer = await self.of(region).run(every_page, f"read the events of {name} in {region}")
        found = [
            ManagedEvent(at=each["Date"], message=each["Message"], categories=each.get("EventCategories", []))
            for each in answer
        ]
        oldest = datetime.now(UTC) - since
        return sorted((each for each in found if each.at >= oldest), key=lambda each: each.at, reverse=True)

    async def snapshots(self, region: str, instance: str) -> list[ManagedSnapshot]:
        """See the port."""

        def every_page(client: RDSClient) -> list[Any]:
            pages = client.get_paginator("describe_db_snapshots").paginate(DBInstanceIdentifier=instance)
            return [each for page in pages for each in page["DBSnapshots"]]

        found = await self.of(region).run(every_page, f"list the snapshots of {instance} in {region}")
        snapshots = [snapshot_as(region, each) for each in found if each.get("SnapshotCreateTime") is not None]
        return sorted(snapshots, key=lambda each: each.taken_at, reverse=True)

    async def promote(self, region: str, name: str) -> None:
        """See the port."""
        now = await self._existing(region, name)
        if now.replica_of is None or now.status == "promoting":
            return
        await self._order(
            region, name, "promote", lambda client: client.promote_read_replica(DBInstanceIdentifier=name)
        )

    async def restore(self, order: RestoreManaged) -> None:
        """See the port."""
        if await self._ours(order.region, order.instance, order.mark) is not None:
            return
        request: dict[str, Any] = {
            "DBInstanceIdentifier": order.instance,
            "DBSnapshotIdentifier": order.snapshot,
            "DBInstanceClass": order.instance_class,
            "Tags": [{"Key": MARK, "Value": order.mark}],
            "CopyTagsToSnapshot": True,
        }
        if order.security_groups:
            request["VpcSecurityGroupIds"] = order.security_groups
        # RDS makes an instance public that is said nothing of, in a network that lets it.
        request["PubliclyAccessible"] = order.like.public if order.like is not None else False
        if (like := order.like) is not None:
            request["MultiAZ"] = like.multi_az
            if like.subnet_group:
                request["DBSubnetGroupName"] = like.subnet_group
            if order.parameter_group:
                request["DBParameterGroupName"] = order.parameter_group
        call = self.of(order.region).run(
            lambda client: client.restore_db_instance_from_db_snapshot(**request),
            f"restore {order.instance} from snapshot {order.snapshot} in {order.region}",
            repeat=False,
            leave=["DBInstanceAlreadyExists", "DBSnapshotNotFound", "DBSnapshotNotFoundFault", *FULL, *UNREADY],
        )
        try:
            await to_the_end(call)  # else it could make the instance after an undo that found none
        except ClientError as error:
            if code_of(error) in FULL:
                raise Unreachable(
                    f"RDS has no room for a {order.instance_class} in {order.region} now ({words_of(error)}): it is "
                    "asked again; another rds.instance_class may be there at once"
                ) from None
            if code_of(error) in UNREADY:
                raise Unreachable(
                    f"snapshot {order.snapshot} in {order.region} cannot be restored now: {words_of(error)}"
                ) from None
            if code_of(error) != "DBInstanceAlreadyExists":
                raise NotFound(
                    f"there is no snapshot {order.snapshot} in {order.region}: copy it there, or name another one"
                ) from None
            await self._ours(order.region, order.instance, order.mark)

    async def remove(self, region: str, name: str, mark: str) -> bool:
        """See the port."""
        now = await self._ours(region, name, mark)
        if now is None:
            return False
        if now.status != "deleting":
            await self._order(
                region,
                name,
                "remove",
                lambda client: client.delete_db_instance(
                    DBInstanceIdentifier=name, SkipFinalSnapshot=True, DeleteAutomatedBackups=True
                ),
            )
        return True

    async def set_security_groups(self, region: str, name: str, groups: list[str]) -> None:
        """See the port."""
        await self._order(
            region,
            name,
            "change the security groups of",
            lambda client: client.modify_db_instance(
                DBInstanceIdentifier=name, VpcSecurityGroupIds=groups, ApplyImmediately=True
            ),
        )

    async def reboot(self, region: str, name: str) -> None:
        """See the port."""
        await self._order(region, name, "reboot", lambda client: client.reboot_db_instance(DBInstanceIdentifier=name))

    async def stop(self, region: str, name: str) -> None:
        """See the port. Raises Refused for an instance that has read replicas, or is one: RDS stops none of these."""
        now = await self._existing(region, name)
        if now.status in ("stopping", "stopped"):
            return
        if now.replicas or now.replica_of:
            raise Refused(
                f"RDS stops no instance that has read replicas or is one, and {name} "
                + (f"has {', '.join(now.replicas)}" if now.replicas else f"is one of {now.replica_of}")
            )
        await self._order(region, name, "stop", lambda client: client.stop_db_instance(DBInstanceIdentifier=name))

    async def start(self, region: str, name: str) -> None:
        """See the port."""
        if (await self._existing(region, name)).status not in ("starting", "available"):
            await self._order(region, name, "start", lambda client: client.start_db_instance(DBInstanceIdentifier=name))

    # Parts of the above.

    def of(self, region: str) -> AwsCalls[RDSClient]:
        """The API of a region. Raises NotFound: none is configured there."""
        if region not in self._calls:
            raise NotFound(f"no RDS instance is configured in {region}: set the group's rds.instances.{region}")
        return self._calls[region]

    def amazons_name(self, region: str) -> str:
        return self._amazon[region]

    async def _order(self, region: str, name: str, what: str, call: Any) -> None:
        """An order to an instance in another state than it needs is worth another attempt."""
        try:
            await self.of(region).run(call, f"{what} {name} in {region}", leave=(*ABSENT, *BUSY), repeat=False)
        except ClientError as error:
            if code_of(error) in ABSENT:
                raise absent(region, name) from None
            raise Unreachable(f"RDS does not {what} {name} in {region} now: {words_of(error)}") from None

    async def _existing(self, region: str, name: str) -> ManagedInstance:
        found = await self.instance(region, name)
        if found is None:
            raise absent(region, name)
        return found

    async def _ours(self, region: str, name: str, mark: str) -> ManagedInstance | None:
        found = await self.instance(region, name)
        if found is not None and found.mark != mark:
            raise NotOurs(
                f"there is an instance {name} in {region} that this run did not make (its tag {MARK} is "
                f"{found.mark or 'absent'}): it was not touched. Delete or rename it, or set rds.restored_instance"
            )
        return found


def absent(region: str, name: str) -> NotFound:
    return NotFound(f"RDS knows no instance {name} in {region}: compare it with the group's rds.instances")


def instance_as(region: str, found: Any) -> ManagedInstance:
    endpoint = found.get("Endpoint") or {}
    source = found.get("ReadReplicaSourceDBInstanceIdentifier") or None
    groups = found.get("VpcSecurityGroups", [])
    failing = [
        f"{each.get('Status')}: {each.get('Message') or 'no reason given'}"
        for each in found.get("StatusInfos", [])
        if each.get("StatusType") == "read replication" and not each.get("Normal", True)
    ]
    tags = tags_of(found)
    parameters = [each["DBParameterGroupName"] for each in found.get("DBParameterGroups", [])]
    return ManagedInstance(
        region=region,
        name=found["DBInstanceIdentifier"],
        status=found["DBInstanceStatus"],
        host=endpoint.get("Address"),
        port=endpoint.get("Port"),
        replica_of=source.rpartition(":")[2] if source else None,  # of another region it is an ARN
        replicas=[each.rpartition(":")[2] for each in found.get("ReadReplicaDBInstanceIdentifiers", [])],
        replication_error="; ".join(failing) or None,
        security_groups=sorted(each["VpcSecurityGroupId"] for each in groups),
        security_groups_active=all(each.get("Status", "active") == "active" for each in groups),
        pending_changes=bool(found.get("PendingModifiedValues")),
        instance_class=found.get("DBInstanceClass", ""),
        subnet_group=(found.get("DBSubnetGroup") or {}).get("DBSubnetGroupName"),
        parameter_group=parameters[0] if parameters else None,
        multi_az=bool(found.get("MultiAZ")),
        public=bool(found.get("PubliclyAccessible")),
        mark=tags.get(MARK),
        taken_on=tags.get(ATTEMPT),
        opened=tags.get(OPENED),
        arn=found.get("DBInstanceArn", ""),
        engine_version=found.get("EngineVersion", ""),
        encrypted=bool(found.get("StorageEncrypted")),
        gigabytes=int(found.get("AllocatedStorage", 0)),
        created_at=found.get("InstanceCreateTime"),
    )


def snapshot_as(region: str, found: Any) -> ManagedSnapshot:
    # A copy is younger than its data: what counts is when the original was taken. One that is being made has no time.
    taken = found.get("OriginalSnapshotCreateTime") or found.get("SnapshotCreateTime") or datetime.now(UTC)
    status = found.get("Status", "available")
    return ManagedSnapshot(
        name=found["DBSnapshotIdentifier"],
        region=region,
        instance=found["DBInstanceIdentifier"],
        taken_at=taken,
        gigabytes=int(found.get("AllocatedStorage", 0)),
        status=status,
        percent=100 if status == "available" else int(found.get("PercentProgress") or 0),
        arn=found.get("DBSnapshotArn", ""),
        engine=found.get("Engine", "postgres"),
        engine_version=found.get("EngineVersion", ""),
        encrypted=bool(found.get("Encrypted")),
        kms_key=found.get("KmsKeyId"),
        resource_id=found.get("DbiResourceId") or "",
        tags=tags_of(found),
    )


def tags_of(found: Any) -> dict[str, str]:
    return {each["Key"]: each.get("Value", "") for each in found.get("TagList", [])}
