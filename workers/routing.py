"""Poolers and Patroni clusters of all groups, each with its own addresses and credentials."""

from __future__ import annotations

import asyncio

from recovery.adapters.patroni_rest import PatroniAccess, PatroniCluster, tls_context
from recovery.adapters.pgbouncer import PgBouncerAt
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.config.names import split_address
from recovery.domain.secret import SecretRef
from recovery.errors import BadInput

PGBOUNCER_PORT = 6432


class ConfiguredPoolers:
    """Gives the poolers of a group, with their passwords as they are now."""

    def __init__(self, config: Config, secrets: Secrets) -> None:
        self._config = config
        self._secrets = secrets

    async def __call__(self, group: str) -> list[PgBouncerAt]:
        found = []
        for pooler in self._config.group(group).routing.pgbouncer:
            host, port = split_address(pooler.address)
            found.append(
                PgBouncerAt(
                    host,
                    port or PGBOUNCER_PORT,
                    pooler.user,
                    tuple(pooler.databases),
                    await _secret(self._secrets, pooler.password),
                    pooler.sslmode,
                    pooler.ssl_root_certificate,
                )
            )
        return found


class ConfiguredClusters:
    """Gives a group's Patroni cluster as the members of one region see it; made when it is first asked for."""

    def __init__(self, config: Config, secrets: Secrets) -> None:
        self._config = config
        self._secrets = secrets
        self._made: dict[tuple[str, str], tuple[PatroniCluster, PatroniAccess]] = {}
        self._making = asyncio.Lock()

    async def __call__(self, group: str, region: str) -> tuple[PatroniCluster, PatroniAccess]:
        """Raises BadInput where the configuration names no member there."""
        async with self._making:
            if (group, region) not in self._made:
                access = await self._access(group, region)
                self._made[group, region] = PatroniCluster(access), access
            return self._made[group, region]

    async def close(self) -> None:
        for cluster, _ in self._made.values():
            await cluster.close()

    async def _access(self, group: str, region: str) -> PatroniAccess:
        patroni = self._config.group(group).patroni
        members = patroni.members.get(region) if patroni else None
        if patroni is None or not members:
            raise BadInput(f"no Patroni member of group {group} is known in {region}: set its patroni.members.{region}")
        tls = any(address.startswith("https:") for address in members)
        return PatroniAccess(
            tuple(members),
            patroni.user,
            await _secret(self._secrets, patroni.password),
            tls_context(patroni.ca_file, patroni.certificate_file) if tls else None,
            patroni.spans_regions,
        )


async def _secret(secrets: Secrets, reference: SecretRef | None) -> str | None:
    return None if reference is None else await secrets.resolve(reference)
