"""Snapshots of Amazon RDS that are recovery points, and what is restored from them.

What RDS promises (RDS user guide and API reference): a snapshot's name is unique in its account and region, so a second
request for it is refused. A copy into another region is asked for there, knows the moment of its data
(``OriginalSnapshotCreateTime``), and needs a key of that region where the source is encrypted. A snapshot is deleted
only while it is available or has failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from recovery.adapters.aws import code_of, words_of
from recovery.adapters.rds import (
    ABSENT,
    ATTEMPT,
    BUSY,
    OPENED,
    UNREADY,
    RdsPostgres,
    absent,
    instance_as,
    snapshot_as,
)
from recovery.domain.managed import ManagedInstance, ManagedSnapshot, snapshot_name, snapshot_tags
from recovery.errors import Contended, NotFound, NotOurs, Refused, Unreachable
from recovery.ports.managed_postgres import ManagedSnapshots

_GONE = ("DBSnapshotNotFound", "DBSnapshotNotFoundFault")
_THERE = ("DBSnapshotAlreadyExists", "DBSnapshotAlreadyExistsFault")
_FULL = ("SnapshotQuotaExceeded", "SnapshotQuotaExceededFault")
_COPYING = "cannot copy more than"  # under the same code: as many copies as may run at once run now
_KEY = ("KMSKeyNotAccessible", "KMSKeyNotAccessibleFault")
_AMAZONS = "aws:"  # how tags begin that nobody else may set


class RdsSnapshots:
    """``recovery.ports.managed_postgres.ManagedSnapshots``, by the calls of ``rds``, which is closed by its owner."""

    def __init__(self, rds: RdsPostgres) -> None:
        self._rds = rds

    async def snapshot(self, region: str, name: str) -> ManagedSnapshot | None:
        """See the port."""
        try:
            answer: Any = await self._rds.of(region).run(
                lambda client: client.describe_db_snapshots(DBSnapshotIdentifier=name),
                f"look at snapshot {name} in {region}",
                leave=_GONE,
            )
        except ClientError:
            return None
        return snapshot_as(region, answer["DBSnapshots"][0]) if answer["DBSnapshots"] else None

    async def take(self, region: str, instance: str, name: str, tags: dict[str, str]) -> None:
        """See the port."""
        try:
            await self._rds.of(region).run(
                lambda client: client.create_db_snapshot(
                    DBInstanceIdentifier=instance, DBSnapshotIdentifier=name, Tags=_listed(tags)
                ),
                f"take snapshot {name} of {instance} in {region}",
                repeat=False,
                leave=(*_THERE, *ABSENT, *BUSY, *_FULL),
            )
        except ClientError as error:
            code = code_of(error)
            if code in ABSENT:
                raise absent(region, instance) from None
            if code in BUSY:
                raise Unreachable(f"RDS takes no snapshot of {instance} in {region} now: {words_of(error)}") from None
            if code in _FULL:
                raise _full(region, error) from None

    async def copy(self, taken: ManagedSnapshot, region: str, tags: dict[str, str], kms_key: str | None) -> None:
        """See the port."""
        kept = {key: value for key, value in taken.tags.items() if not key.startswith(_AMAZONS)}
        request: dict[str, Any] = {
            "SourceDBSnapshotIdentifier": taken.arn,
            "TargetDBSnapshotIdentifier": taken.name,
            "SourceRegion": self._rds.amazons_name(taken.region),
            "Tags": _listed(kept | tags),
        }
        if kms_key is not None:
            request["KmsKeyId"] = kms_key
        try:
            await self._rds.of(region).run(
                lambda client: client.copy_db_snapshot(**request),
                f"copy snapshot {taken.name} to {region}",
                repeat=False,
                leave=(*_THERE, *_GONE, *UNREADY, *_FULL, *_KEY),
            )
        except ClientError as error:
            code = code_of(error)
            if code in _GONE:
                raise NotFound(f"snapshot {taken.name} is not in {taken.region} any more: nothing was copied") from None
            if code in UNREADY:
                raise Unreachable(f"snapshot {taken.name} cannot be copied now: {words_of(error)}") from None
            if code in _FULL and _COPYING in words_of(error).lower():
                raise Contended(
                    f"RDS makes as many copies in {region} as it makes at once ({words_of(error)}): it is asked again"
                ) from None
            if code in _FULL:
                raise _full(region, error) from None
            if code in _KEY:
                raise Refused(
                    f"the key {kms_key} of {region} cannot be used ({words_of(error)}): see rds.kms_keys.{region} and "
                    "what the key's policy permits"
                ) from None

    async def delete(self, region: str, name: str, tags: dict[str, str]) -> bool:
        """See the port."""
        found = await self.snapshot(region, name)
        if found is None:
            return False
        demand_ours(found, tags)
        try:
            await self._rds.of(region).run(
                lambda client: client.delete_db_snapshot(DBSnapshotIdentifier=name),
                f"delete snapshot {name} in {region}",
                leave=(*_GONE, *UNREADY),
            )
        except ClientError as error:
            if code_of(error) in UNREADY:
                raise Unreachable(f"RDS does not delete snapshot {name} in {region} now: {words_of(error)}") from None
            return False
        return True

    async def of_points(self, region: str, group: str) -> list[ManagedSnapshot]:
        """See the port."""

        def every_page(client: Any) -> list[Any]:
            pages = client.get_paginator("describe_db_snapshots").paginate(SnapshotType="manual")
            return [each for page in pages for each in page["DBSnapshots"]]

        listed = await self._rds.of(region).run(every_page, f"list the snapshots in {region}")
        found = [snapshot_as(region, each) for each in listed]
        return [each for each in found if (point := point_of(each)) and demanded(each, snapshot_tags(group, point))]

    async def account(self, region: str) -> str | None:
        """See the port."""

        def some(client: Any) -> list[str]:
            arns = [each["DBSnapshotArn"] for each in client.describe_db_snapshots(MaxRecords=20)["DBSnapshots"]]
            if not arns:
                arns = [each["DBInstanceArn"] for each in client.describe_db_instances(MaxRecords=20)["DBInstances"]]
            return arns

        arns = await self._rds.of(region).run(some, f"ask whose account {region} shows")
        return account_of(arns[0]) if arns else None

    async def restored(self, region: str, mark: str) -> list[ManagedInstance]:
        """See the port."""

        def every_page(client: Any) -> list[Any]:
            pages = client.get_paginator("describe_db_instances").paginate()
            return [each for page in pages for each in page["DBInstances"]]

        found = await self._rds.of(region).run(every_page, f"list the instances in {region}")
        instances = [instance_as(region, each) for each in found]
        return [each for each in instances if each.mark is not None and each.mark.startswith(mark)]

    async def take_on(self, instance: ManagedInstance, attempt: str) -> None:
        """See the port."""
        await self._rds.of(instance.region).run(
            lambda client: client.add_tags_to_resource(ResourceName=instance.arn, Tags=_listed({ATTEMPT: attempt})),
            f"note at {instance.name} in {instance.region} who goes on with it",
        )

    async def note_opened(self, instance: ManagedInstance, mark: str) -> None:
        """See the port."""
        await self._rds.of(instance.region).run(
            lambda client: client.add_tags_to_resource(ResourceName=instance.arn, Tags=_listed({OPENED: mark})),
            f"note at {instance.name} in {instance.region} that it is in use",
        )


def demand_ours(found: ManagedSnapshot, tags: Mapping[str, str]) -> None:
    """Raises NotOurs: others made what is called so."""
    if not demanded(found, tags):
        said = ", ".join(f"{key} {found.tags.get(key) or 'absent'}" for key in tags)
        raise NotOurs(
            f"there is a snapshot {found.name} in {found.region} that is not of this recovery point ({said}): it was "
            "not touched"
        )


def demanded(found: ManagedSnapshot, tags: Mapping[str, str]) -> bool:
    return all(found.tags.get(key) == value for key, value in tags.items())


def point_of(found: ManagedSnapshot) -> str:
    """The recovery point that the snapshot is, by its tag and its name; empty: it is none."""
    point = found.tags.get("recovery-plans-point", "")
    return point if point and found.name == snapshot_name(point) else ""


def account_of(arn: str) -> str:
    """Empty where that is no ARN."""
    parts = arn.split(":")
    return parts[4] if len(parts) > 5 else ""


async def demand_account(api: ManagedSnapshots, regions: Sequence[str], arn: str) -> None:
    """Before that something is not there counts for anything. ``regions``: where to look, the most telling first.

    Raises:
        Refused: the credentials at hand are of another account than what was recorded as ``arn``, or none can be told.
    """
    wanted, here = account_of(arn), None
    for region in regions:
        here = here or await api.account(region)
    if wanted and here != wanted:
        shown = f"show account {here}" if here else "show neither a snapshot nor an instance"
        raise Refused(
            f"{arn} is of account {wanted}, and the credentials of this machine {shown}: that it is not there proves "
            "nothing. Give this machine a role, or rds.access_key, of that account"
        )


def _listed(tags: Mapping[str, str]) -> list[Any]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _full(region: str, error: ClientError) -> Refused:
    return Refused(
        f"this account may have no more snapshots in {region} ({words_of(error)}): delete some that nobody needs, or "
        "have Amazon raise the quota"
    )
