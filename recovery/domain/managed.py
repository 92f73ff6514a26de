"""PostgreSQL that a provider runs (Amazon RDS): what its API says of instances, replicas and snapshots."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from pydantic import Field

from recovery.domain.base import Model, Recorded

SERVES_NOBODY = frozenset(
    {
        "stopped", "failed", "deleting", "restore-error", "inaccessible-encryption-credentials",
        "inaccessible-encryption-credentials-recoverable", "incompatible-create", "incompatible-network",
        "incompatible-restore", "insufficient-capacity",
    }
)  # fmt: skip
"""States in which RDS itself says that no server of the instance runs or can be reached. Not so `stopping`,
`rebooting` or `storage-full`: these serve, or will again."""
WILL_NOT_COME = frozenset(
    {
        "failed", "deleting", "restore-error", "inaccessible-encryption-credentials",
        "inaccessible-encryption-credentials-recoverable", "incompatible-create", "incompatible-network",
        "incompatible-option-group", "incompatible-parameters", "incompatible-restore", "insufficient-capacity",
    }
)  # fmt: skip
"""States that no waiting turns into `available`: somebody has to mend something, or to delete the instance."""
SERVES = frozenset({"available", "storage-optimization", "storage-initialization"})
"""States in which an instance is fully operational and takes orders. RDS still moves blocks of its volume in the last
two, after a change of the storage or a restore, for hours and more: whoever waited for `available` would give up."""


class ManagedRule(Model):
    """What the configuration says of a group's managed PostgreSQL."""

    instances: dict[str, str]  # region -> instance
    restored_instance: str | None = None
    snapshot: str | None = None
    instance_class: str = "db.r6g.xlarge"
    fence_security_groups: dict[str, list[str]] = Field(default_factory=dict)  # region -> groups that let nobody in
    snapshot_copies: list[str] = Field(default_factory=list)  # regions that get a copy of each recovery point
    kms_keys: dict[str, str] = Field(default_factory=dict)  # region -> key of the copies there
    subnet_groups: dict[str, str] = Field(default_factory=dict)  # region -> subnet group of restored instances
    security_groups: dict[str, list[str]] = Field(default_factory=dict)  # region -> those of restored instances


class ManagedInstance(Model):
    """One instance as its provider describes it."""

    region: str
    name: str
    status: str
    host: str | None = None
    port: int | None = None
    replica_of: str | None = None  # name of its source, without the region
    replicas: list[str] = Field(default_factory=list)
    replication_error: str | None = None  # why it does not follow; None while it does, or is no replica
    security_groups: list[str] = Field(default_factory=list)
    security_groups_active: bool = True  # a change of them is not in force at once
    pending_changes: bool = False
    instance_class: str = ""
    subnet_group: str | None = None
    parameter_group: str | None = None
    multi_az: bool = False
    public: bool = False
    mark: str | None = None  # of the run that made it
    taken_on: str | None = None  # the attempt of a validation that goes on with it
    opened: str | None = None  # the restore that let clients in: from then on it is theirs
    arn: str = ""
    engine_version: str = ""
    encrypted: bool = False
    gigabytes: int = 0
    created_at: datetime | None = None

    @property
    def is_available(self) -> bool:
        return self.status in SERVES

    @property
    def serves_nobody(self) -> bool:
        return self.status in SERVES_NOBODY


class ManagedEvent(Model):
    at: datetime
    message: str
    categories: list[str] = Field(default_factory=list)


class ManagedSnapshot(Model):
    name: str
    region: str
    instance: str
    taken_at: datetime
    gigabytes: int = 0
    status: str = "available"
    percent: int = 100
    arn: str = ""
    engine: str = "postgres"
    engine_version: str = ""
    encrypted: bool = False
    kms_key: str | None = None
    resource_id: str = ""  # of the instance: stays its own when another one gets its name
    tags: dict[str, str] = Field(default_factory=dict)


class SnapshotCopy(Recorded):
    """A snapshot in one region, as it was when the recovery point was completed."""

    arn: str
    kms_key: str | None = None


class SnapshotSource(Recorded):
    """What a recovery point that is a provider's snapshot consists of: nothing of it is at the locations.

    ``copies``: by region, with the region in which it was taken. ``lacking``: regions that were to get a copy, and why
    they have none.
    """

    name: str  # the same in every region
    instance: str
    instance_class: str = ""
    engine: str = "postgres"
    encrypted: bool = False
    gigabytes: int = 0  # allocated, and not what the data need
    began_at: datetime
    taken_at: datetime
    copies: dict[str, SnapshotCopy]
    lacking: dict[str, str] = Field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return not self.lacking


def snapshot_name(point_id: str) -> str:
    """Known before anything is made, the same for every attempt, and a name that RDS takes."""
    return f"recovery-{point_id.lower()}"


def restored_name(source: str, run: str) -> str:
    """Of an instance that replaces another: RDS takes 63 letters, digits and single hyphens."""
    return f"{source[:50].rstrip('-')}-{run}"


def snapshot_tags(group: str, point_id: str) -> dict[str, str]:
    """By which a snapshot is known as the recovery point's own: only what carries them is ever deleted."""
    return {"recovery-plans-group": group, "recovery-plans-point": point_id}


class Way(StrEnum):
    PROMOTE = "promote"  # a read replica becomes a primary of its own: what it had not received is lost
    RESTORE = "restore"  # a new instance from a snapshot: what was written after the snapshot is lost


class ManagedTarget(Model):
    """What a run works towards: the instance that is to serve, and the one that it replaces."""

    way: Way
    source_region: str
    source_instance: str
    region: str
    instance: str
    snapshot: str | None = None
    data_as_of: datetime | None = None
    source_security_groups: list[str] = Field(default_factory=list)  # as they were: what the undo of the fence restores
    fenced_by: Literal["", "security-group", "stop", "status"] = ""
    host: str | None = None
    port: int | None = None


class RestoreManaged(Model):
    """A new instance from a snapshot. ``mark`` names the run: only what carries it is ever removed."""

    region: str
    instance: str
    snapshot: str
    instance_class: str
    mark: str
    security_groups: list[str] = Field(default_factory=list)
    like: ManagedInstance | None = None  # whose network and settings it takes
    engine_version: str | None = None  # of the snapshot, where it is known

    @property
    def parameter_group(self) -> str | None:
        """That of ``like``; RDS refuses one of another major version's family."""
        return self.like.parameter_group if self.like is not None and not self.left_out else None

    @property
    def left_out(self) -> str:
        """What the new instance does not take from ``like``, and why; empty: nothing."""
        like = self.like
        if like is None or like.parameter_group is None or not self.engine_version or not like.engine_version:
            return ""
        ours, theirs = (version.partition(".")[0] for version in (self.engine_version, like.engine_version))
        if ours == theirs:
            return ""
        return (
            f"{self.instance} gets RDS's default parameters: {like.parameter_group} of {like.name} is for PostgreSQL "
            f"{theirs}, and the snapshot is of {ours}"
        )


def choose_way(
    rule: ManagedRule,
    source_region: str,
    replicas: list[ManagedInstance],
    snapshots: list[ManagedSnapshot],
    *,
    region: str | None = None,
    snapshot: str | None = None,
    priorities: dict[str, int] | None = None,
) -> tuple[Way, ManagedInstance | ManagedSnapshot | None, list[str]]:
    """A replica that follows, the one of highest priority; else the newest snapshot, nearest to the application.

    Args:
        region: only there. ``snapshot``: this one is restored, and no replica promoted.

    Returns:
        The way, what it goes by (None: there is none), and why each other was not taken.
    """
    source = rule.instances[source_region]
    rejected: list[str] = []
    usable: list[ManagedInstance] = []
    for replica in replicas:
        if (why := _unusable(replica, source, region)) is None:
            usable.append(replica)
        else:
            rejected.append(f"{replica.name} in {replica.region}: {why}")
    wanted = snapshot or rule.snapshot
    if usable and snapshot is None:
        best = max(usable, key=lambda replica: ((priorities or {}).get(replica.region, 0), replica.region))
        return Way.PROMOTE, best, rejected
    found = [each for each in snapshots if region is None or each.region == region]
    if wanted is not None:
        found = [each for each in found if each.name == wanted]
    rejected += [f"snapshot {each.name}: it is {each.status}" for each in found if each.status != "available"]
    found = [each for each in found if each.status == "available"]
    if not found:
        return Way.RESTORE, None, rejected
    return Way.RESTORE, max(found, key=lambda each: (each.taken_at, each.region == source_region)), rejected


def _unusable(replica: ManagedInstance, source: str, region: str | None) -> str | None:
    if region is not None and replica.region != region:
        return f"{region} was asked for"
    if replica.replica_of != source:
        return f"it is no read replica of {source}"
    if not replica.is_available:
        return f"it is {replica.status}"
    if replica.replication_error is not None:
        return f"it does not follow: {replica.replication_error}"
    return None


RECENT = timedelta(hours=24)
"""Events of the instance that an assessment looks at."""
