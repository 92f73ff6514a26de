"""What rehearsals are of: groups of several kinds, so that every row of every plan occurs in one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from recovery.domain.group import DnsRecord, GroupSnapshot, Objectives, PostgresAt, RegionPlan, WalRule
from recovery.domain.managed import ManagedTarget, Way
from recovery.domain.ownership import FenceProof
from recovery.domain.plan import DnsBefore, Facts, RestoredServer
from recovery.domain.recovery_point import BackupKind, DataStore, Verdict, VerdictState
from recovery.domain.recovery_set import ChosenSet, SetPart

NOW = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
PARTS = {
    DataStore.POSTGRES: "point-1", DataStore.NATS: "point-3", DataStore.REDIS: "point-4", DataStore.SEARCH: "point-5",
}  # fmt: skip
CHOSEN = ChosenSet(set_id="set-1", parts=[SetPart(store=store, point_id=point) for store, point in PARTS.items()])
RESTORED = RestoredServer(
    region="region-b", host="127.0.0.1", port=5432, database="shop", kind=BackupKind.PHYSICAL, point_id="point-1"
)
VERDICT = Verdict(
    point_id="point-1", group="shop", state=VerdictState.VALID, location="folder", manifest_sha256="0" * 64,
    validated_at=NOW, duration=timedelta(seconds=3), run_id="run",
)  # fmt: skip
DAMAGED = VERDICT.model_copy(update={"state": VerdictState.CORRUPT, "reason": "an object at folder differs"})

MANAGED = ManagedTarget(
    way=Way.RESTORE, source_region="region-a", source_instance="shop-production", region="region-b",
    instance="shop-restored", snapshot="newest",
)  # fmt: skip
FENCE = FenceProof(epoch=1, region="region-a", how="demotion-confirmed", by="region-b/guard", at=NOW, run="run")

# What the following steps need to know, as the real activities would tell them.
FACTS: Mapping[str, Facts] = {
    "restores.choose_target": Facts(target_region="region-b"),
    "choosing.choose_target": Facts(target_region="region-b"),
    "choosing.find_way_home": Facts(target_region="region-a", source_region="region-b", stale_regions=["region-a"]),
    "reprotecting.find_returned": Facts(target_region="region-b"),
    "guarding.fence": Facts(fence=FENCE),
    "managed_postgres.choose_replacement": Facts(managed=MANAGED, target_region="region-b"),
    "managed_postgres.fence_primary": Facts(fence=FENCE),
    "managed_postgres.confirm_service": Facts(service_restored_at=NOW + timedelta(seconds=5)),
    "standbys.write_probe": Facts(service_restored_at=NOW + timedelta(seconds=5)),
    "standbys.verify_switchover": Facts(verification_failed=""),
    "points.choose_validated": Facts(point_id="point-1", outage_began_at=NOW),
    "restores.restore_database": Facts(restored=RESTORED, last_recovered_commit_at=NOW),
    "set_restores.restore_streams": Facts(restored_nats=RESTORED),
    "set_restores.restore_redis": Facts(restored_redis=RESTORED),
    "set_restores.restore_search": Facts(restored_search=RESTORED),
    "restores.confirm_service": Facts(service_restored_at=NOW + timedelta(seconds=42)),
    "dns.remember_records": Facts(
        dns_before=[DnsBefore(name="shop.example.com", type="A", ttl=60, values=["10.0.0.1"], zone="example.com")]
    ),
    "points.take_physical_backup": Facts(physical_point="point-1"),
    "points.take_logical_backup": Facts(logical_point="point-2"),
    "points.take_streams_backup": Facts(streams_point="point-3"),
    "points.take_redis_backup": Facts(rdb_point="point-4"),
    "points.take_search_backup": Facts(search_point="point-5"),
    "points.choose_to_validate": Facts(points_to_validate=["point-1"]),
    "points.validate": Facts(verdicts=[DAMAGED]),
    "points.repair": Facts(points_repaired=["point-1"]),
    "points.prove_again": Facts(verdicts=[VERDICT]),
    "points.expire": Facts(points_removed=["point-0"]),
}


@dataclass(frozen=True)
class Variant:
    """One kind of group. Its name stands first in the names of its groups, by which the workers know it.

    ``tells``: what activities tell otherwise than ``FACTS``.
    """

    name: str
    guarded: bool = True
    pooled: bool = False
    kinds: tuple[BackupKind, ...] = (BackupKind.PHYSICAL, BackupKind.LOGICAL)
    tells: Mapping[str, Facts] = field(default_factory=dict)

    def told_by(self, activity: str) -> Facts:
        return self.tells.get(activity, FACTS.get(activity, Facts()))


PLAIN = Variant("group")
"""Guarded, with every kind of store, without poolers. Nothing is taken back; what is validated is damaged at first."""

VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        PLAIN,
        Variant("unguarded", guarded=False, pooled=True, tells={"managed_postgres.fence_primary": Facts()}),
        Variant(
            "returned", pooled=True,
            tells={"standbys.verify_switchover": Facts(verification_failed="the new side serves nobody")},
        ),
        Variant("streams", kinds=tuple(BackupKind)),
        Variant(
            "together",
            tells={"points.choose_validated": Facts(point_id="point-1", outage_began_at=NOW, chosen_set=CHOSEN)},
        ),
        Variant("lacking", kinds=tuple(BackupKind), tells={"points.take_streams_backup": Facts()}),
    )
}  # fmt: skip


def variant_of(group: str) -> Variant:
    return VARIANTS.get(group.partition("-")[0], PLAIN)


def group(name: str, queue: str) -> GroupSnapshot:
    """A group of two regions, both of whose queues the recording workers take."""
    variant = variant_of(name)
    return GroupSnapshot(
        name=name,
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="region-a",
        regions=[_region(variant, "region-a", queue, "10.0.0.1"), _region(variant, "region-b", queue, "10.0.0.2")],
        streams=["ORDERS"],
        records=[DnsRecord(name="shop.example.com", zone="example.com")],
        backup_kinds=[kind.value for kind in variant.kinds],
        poolers=["10.0.0.9:6432"] if variant.pooled else [],
        config_hash="0" * 64,
        validation_queue=queue,
        wal=WalRule(),
    )


def _region(variant: Variant, name: str, queue: str, address: str) -> RegionPlan:
    """With every kind of store."""
    return RegionPlan(
        name=name,
        task_queue=queue,
        dns_value=address,
        guard=f"http://{address}:7450" if variant.guarded else None,
        postgres=PostgresAt(host=address),
        redis=f"{address}:6379",
        nats=f"{address}:4222",
    )
