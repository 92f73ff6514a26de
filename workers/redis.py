"""From the configuration to a group's Redis in one region."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from recovery.adapters.guard_permission import demand_permission
from recovery.adapters.redis.connection import RedisLogin, RedisServer
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.config.names import split_address
from recovery.config.snapshot import REDIS_PORT
from recovery.domain.group import GroupSnapshot
from recovery.domain.redis import Way
from recovery.errors import BadInput, Refused
from recovery.ports.guard import Guards
from workers.tls import tls_context


async def redis_server(config: Config, secrets: Secrets, group: str, region: str) -> RedisServer:
    """Where this process reaches it, and as whom: the password is resolved now.

    Raises:
        BadInput: the group has no Redis.
    """
    redis, address = config.group(group).redis, config.snapshot(group).region(region).redis
    if redis is None or address is None:
        raise BadInput(f"group {group} has no Redis: set groups.{group}.redis in the configuration")
    host, port = split_address(address)
    password = await secrets.resolve(redis.password) if redis.password else None
    tls = await tls_context(redis.tls, secrets, f"groups.{group}.redis.tls")
    name = redis.tls.server_name if redis.tls else None
    return RedisServer(host, port or REDIS_PORT, RedisLogin(redis.user, password, tls, name))


def write_permit(guards: Guards, group: GroupSnapshot, region: str) -> Callable[[Way], Awaitable[None]] | None:
    """What a restore asks before it writes; None where no guard keeps the group."""
    if not group.guarded:
        return None

    async def permit(way: Way) -> None:
        if way == "replicate":
            raise Refused(
                f"redis of {group.name} in {region} stands under a guard, behind whose back it must not become a"
                " replica: restore key by key (--way keys)"
            )
        await demand_permission(guards, group, region, "redis")

    return permit
