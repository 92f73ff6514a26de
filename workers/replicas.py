"""Where a group's stores are and how they are logged in to, for looking at their replication."""

from __future__ import annotations

from recovery.adapters.probes.nats import NatsLogin
from recovery.adapters.probes.replicas import Places, Replicas
from recovery.adapters.redis.connection import RedisServer
from recovery.config.names import split_address
from recovery.domain.group import GroupSnapshot
from recovery.domain.health import ReplicaLag
from recovery.domain.secret import SecretRef
from recovery.errors import BadInput, NotFound
from recovery.ports.postgres import PostgresLogin
from workers.jetstream import user_credentials
from workers.redis import redis_server
from workers.tls import tls_context
from workers.wiring import Wiring


class StoreLogins:
    """Logins of one group's stores in its regions."""

    def __init__(self, wiring: Wiring, group: GroupSnapshot) -> None:
        self._wiring, self._group = wiring, group
        self._configured = wiring.config.group(group.name)

    async def postgres(self, region: str) -> PostgresLogin | None:
        """Raises NotFound or BadInput where a secret is not on this machine; so do the others."""
        if self._group.region(region).postgres is None:
            return None
        return await self._wiring.admin(self._group.name, region)

    async def redis(self, region: str) -> RedisServer | None:
        if self._group.region(region).redis is None:
            return None
        return await redis_server(self._wiring.config, self._wiring.secrets, self._group.name, region)

    async def nats(self, region: str) -> NatsLogin | None:
        address, configured = self._group.region(region).nats, self._configured.nats
        if address is None or configured is None:
            return None
        host, port = _place(address)
        return NatsLogin(
            host,
            port,
            configured.user,
            await self._secret(configured.password),
            await user_credentials(configured, self._wiring.secrets, self._group.name),
            await tls_context(configured.tls, self._wiring.secrets, f"groups.{self._group.name}.nats.tls"),
            configured.domain,
            configured.tls.server_name if configured.tls else None,
        )

    async def places(self) -> Places:
        """Of all regions; a store whose secret is not on this machine is left out."""
        places: dict[str, dict[str, object]] = {"postgres": {}, "redis": {}, "nats": {}}
        for region in self._group.regions:
            for store, login in (("postgres", self.postgres), ("redis", self.redis), ("nats", self.nats)):
                try:
                    found = await login(region.name)
                except (NotFound, BadInput):
                    continue
                if found is not None:
                    places[store][region.name] = found
        return Places(**places)  # type: ignore[arg-type]  # each store has logins of its own kind

    async def _secret(self, reference: SecretRef | None) -> str | None:
        return None if reference is None else await self._wiring.secrets.resolve(reference)


def _place(address: str) -> tuple[str, int]:
    host, port = split_address(address)
    assert port is not None, "a snapshot's address has a port"
    return host, port


async def replicas_of(wiring: Wiring, name: str) -> tuple[str, list[ReplicaLag]]:
    """The group's owner by the witness, else its home region, and every replica of its stores."""
    group = wiring.config.snapshot(name)
    found = await (await wiring.witness()).read(name)
    owner = found[0].region if found is not None else group.home_region
    replicas = Replicas(group, await StoreLogins(wiring, group).places())
    return owner, list(await replicas.replicas(owner))
