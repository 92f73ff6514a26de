"""The managed databases of all groups, each with its own regions and credentials."""

from __future__ import annotations

import asyncio

from recovery.adapters.aws import AwsAccess
from recovery.adapters.rds import RdsPostgres
from recovery.adapters.rds_snapshots import RdsSnapshots
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.domain.secret import SecretRef
from recovery.errors import BadInput


class ConfiguredDatabases:
    """Gives the API of a group's managed PostgreSQL; made when it is first asked for."""

    def __init__(self, config: Config, secrets: Secrets) -> None:
        self._config = config
        self._secrets = secrets
        self._made: dict[str, RdsPostgres] = {}
        self._making = asyncio.Lock()

    async def __call__(self, group: str) -> RdsPostgres:
        """Raises BadInput for a group without managed PostgreSQL."""
        async with self._making:
            if group not in self._made:
                self._made[group] = await self._connect(group)
            return self._made[group]

    async def snapshots(self, group: str) -> RdsSnapshots:
        """Raises as the call itself."""
        return RdsSnapshots(await self(group))

    async def close(self) -> None:
        for each in self._made.values():
            await each.close()

    async def _connect(self, group: str) -> RdsPostgres:
        rds = self._config.group(group).rds
        if rds is None:
            raise BadInput(f"group {group} has no managed PostgreSQL: set groups.{group}.rds in the configuration")
        access_key, secret_key = await self._secret(rds.access_key), await self._secret(rds.secret_key)
        return RdsPostgres(
            {
                region: AwsAccess(
                    region=rds.aws_regions.get(region, region),
                    endpoint_url=rds.endpoint,
                    access_key=access_key,
                    secret_key=secret_key,
                )
                for region in dict.fromkeys([*rds.instances, *rds.snapshot_copies])
            }
        )

    async def _secret(self, reference: SecretRef | None) -> str | None:
        return None if reference is None else await self._secrets.resolve(reference)
