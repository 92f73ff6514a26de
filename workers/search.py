"""From the configuration to a group's search engine in a region, and to the cluster in which its points are proven."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from recovery.adapters.search.connection import SearchLogin
from recovery.adapters.search.recovery import SearchSnapshots
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.config.stores import Elasticsearch, SearchScratch
from recovery.errors import BadInput
from workers.tls import tls_context


@asynccontextmanager
async def search_engine(config: Config, secrets: Secrets, group: str, region: str) -> AsyncIterator[SearchSnapshots]:
    """Where this process reaches it, and as whom: the password is resolved now.

    Raises:
        BadInput: the group has no search engine.
    """
    search, address = config.group(group).elasticsearch, config.snapshot(group).region(region).search
    if search is None or address is None:
        raise BadInput(
            f"group {group} has no search engine: set groups.{group}.elasticsearch in the configuration, and its "
            f"address in groups.{group}.regions.{region}.elasticsearch"
        )
    login = await _login(search, secrets, f"groups.{group}.elasticsearch.tls")
    async with SearchSnapshots(address, login) as engine:
        yield engine


@asynccontextmanager
async def scratch_engine(config: Config, secrets: Secrets, group: str) -> AsyncIterator[SearchSnapshots | None]:
    """None: no such cluster is configured."""
    search = config.group(group).elasticsearch
    if search is None or search.scratch is None:
        yield None
        return
    login = await _login(search.scratch, secrets, f"groups.{group}.elasticsearch.scratch.tls")
    async with SearchSnapshots(search.scratch.address, login) as engine:
        yield engine


async def _login(section: Elasticsearch | SearchScratch, secrets: Secrets, where: str) -> SearchLogin:
    return SearchLogin(
        user=section.user,
        password=await secrets.resolve(section.password) if section.password else None,
        tls=await tls_context(section.tls, secrets, where),
        server_name=section.tls.server_name if section.tls else None,
    )
