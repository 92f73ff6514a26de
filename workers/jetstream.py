"""From the configuration to a group's NATS server in one region."""

from __future__ import annotations

from recovery.adapters.nats.connection import NatsLogin, NatsServer
from recovery.adapters.nats.credentials import UserCredentials
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.config.names import split_address
from recovery.config.snapshot import NATS_PORT
from recovery.config.stores import Nats
from recovery.errors import BadInput
from workers.tls import tls_context


async def nats_server(config: Config, secrets: Secrets, group: str, region: str) -> NatsServer:
    """Where this process reaches it, and as whom: password and credentials are resolved now.

    Raises:
        BadInput: the group has no NATS, or its credentials are none.
        NotFound: a secret is not on this machine.
    """
    nats, address = config.group(group).nats, config.snapshot(group).region(region).nats
    if nats is None or address is None:
        raise BadInput(f"group {group} has no NATS: set groups.{group}.nats in the configuration")
    host, port = split_address(address)
    password = await secrets.resolve(nats.password) if nats.password else None
    tls = await tls_context(nats.tls, secrets, f"groups.{group}.nats.tls")
    login = NatsLogin(
        user=nats.user,
        password=password,
        tls=tls,
        credentials=await user_credentials(nats, secrets, group),
        domain=nats.domain,
        server_name=nats.tls.server_name if nats.tls else None,
    )
    return NatsServer(host, port or NATS_PORT, login)


async def user_credentials(nats: Nats, secrets: Secrets, group: str) -> UserCredentials | None:
    """As the configuration refers to them. Raises as ``nats_server``."""
    if nats.credentials is None:
        return None
    return UserCredentials.parse(await secrets.resolve(nats.credentials), f"groups.{group}.nats.credentials")
