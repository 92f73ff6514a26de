"""A source in one region, its read replica in another, two snapshots; and what looks at them."""

from __future__ import annotations

import asyncio
import functools
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.request import Request, urlopen

import boto3

from recovery.adapters.aws import AwsAccess
from recovery.adapters.rds import RdsPostgres
from recovery.domain.group import GroupSnapshot
from recovery.domain.recovery_point import CheckResult
from tests.contract.rds_front import Front

HOME, AWAY = "eu-central-1", "eu-west-1"
SOURCE, REPLICA = "shop-production", "shop-replica"
OPEN, CLOSED = "sg-0a1b2c3d4e5f60718", "sg-0ffffffffffffffff"
NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


async def reset(amazon: str) -> None:
    """A source in one region, its replica in the other, two snapshots."""

    def make() -> None:
        urlopen(Request(f"{amazon}/moto-api/reset", method="POST")).close()
        home, away = _api(amazon, HOME), _api(amazon, AWAY)
        made = home.create_db_instance(
            DBInstanceIdentifier=SOURCE,
            DBInstanceClass="db.r6g.large",
            Engine="postgres",
            AllocatedStorage=20,
            MasterUsername="shop",
            MasterUserPassword="not-a-secret",
            VpcSecurityGroupIds=[OPEN],
        )
        away.create_db_instance_read_replica(
            DBInstanceIdentifier=REPLICA,
            SourceDBInstanceIdentifier=made["DBInstance"]["DBInstanceArn"],
            SourceRegion=HOME,
        )
        for name in ("older", "newest"):
            home.create_db_snapshot(DBInstanceIdentifier=SOURCE, DBSnapshotIdentifier=name)

    await asyncio.to_thread(make)


@functools.cache
def _api(address: str, region: str) -> Any:
    return boto3.session.Session().client(
        "rds", region_name=region, endpoint_url=address, aws_access_key_id="key", aws_secret_access_key="secret"
    )


def adapter_of(front: Front, patience: timedelta = timedelta(seconds=2)) -> RdsPostgres:
    access = {
        region: AwsAccess(
            region=region, endpoint_url=front.address, access_key="key", secret_key="secret", read_timeout=5
        )
        for region in (HOME, AWAY)
    }
    return RdsPostgres(access, patience)


class Probe:
    """``recovery.ports.managed_postgres.ManagedProbe`` that notes where it was asked."""

    def __init__(self) -> None:
        self.written: list[tuple[str, int]] = []
        self.missing: list[str] = []

    async def write(self, group: GroupSnapshot, region: str, host: str, port: int, run_id: str) -> datetime:
        self.written.append((host, port))
        return NOW

    async def replayed_until(self, group: GroupSnapshot, region: str, host: str, port: int) -> datetime | None:
        return NOW - timedelta(seconds=7)

    async def tables(self, group: GroupSnapshot, region: str, host: str, port: int) -> list[CheckResult]:
        return [CheckResult(name=each, passed=False, detail="is missing") for each in self.missing]
