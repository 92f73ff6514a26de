"""From the configuration to a group's NATS server in one region."""

from __future__ import annotations

from recovery.adapters.nats.connection import NatsLogin, NatsServer
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.config.names import split_address
from recovery.config.snapshot import NATS_PORT
from recovery.errors import BadInput
from workers.tls import tls_context


async def nats_server(config: Config, secrets: Secrets, group: str, region: str) -> NatsServer:
    """Where this process reaches it, and as whom: the password is resolved now.

    Raises:
        BadInput: the group has no NATS.
    """
    nats, address = config.group(group).nats, config.snapshot(group).region(region).nats
    if nats is None or address is None:
        raise BadInput(f"group {group} has no NATS: set groups.{group}.nats in the configuration")
    host, port = split_address(address)
    password = await secrets.resolve(nats.password) if nats.password else None
    tls = await tls_context(nats.tls, secrets, f"groups.{group}.nats.tls")
    return NatsServer(host, port or NATS_PORT, NatsLogin(user=nats.user, password=password, tls=tls))
