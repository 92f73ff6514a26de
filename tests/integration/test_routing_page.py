"""The connection string of docs/routing.md, with two real servers in the place of its hosts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psycopg
import pytest

from tests.integration.postgres_pair import Node, cluster
from tests.integration.postgres_servers import public_folder

PAGE = Path(__file__).parents[2] / "docs" / "routing.md"


@pytest.fixture(scope="module")
async def nodes() -> AsyncIterator[list[Node]]:
    with public_folder() as folder:
        async with cluster(folder, "a", "b") as nodes:
            yield nodes


def connection_string(nodes: list[Node]) -> str:
    """The page's, with our servers, user and database."""
    (found,) = re.findall(r"```text\n(postgresql://.*)\n```", PAGE.read_text())
    for label, node in zip("ab", nodes, strict=True):
        assert f"db.{label}.example.com:5432" in found
        found = found.replace(f"db.{label}.example.com:5432", f"{node.place.host}:{node.place.port}")
    return str(found.replace("//app@", "//postgres@").replace("/shop?", "/postgres?"))


def by_libpq(text: str) -> int:
    """The port of the server that took a write."""
    with psycopg.connect(text, autocommit=True) as session:
        session.execute("INSERT INTO marks VALUES ((SELECT count(*) FROM marks), 'by libpq')")
        return session.info.port


async def by_asyncpg(text: str) -> int:
    session = await asyncpg.connect(text.replace("&connect_timeout=3", ""), ssl=False, timeout=5)
    try:
        await session.execute("INSERT INTO marks VALUES ((SELECT count(*) FROM marks), 'by asyncpg')")
        return int(await session.fetchval("SELECT inet_server_port()"))
    finally:
        await session.close()


async def test_clients_find_the_primary_before_and_after_it_moved(nodes: list[Node]) -> None:
    text, reversed_text = connection_string(nodes), connection_string(nodes[::-1])
    first, second = (node.place.port for node in nodes)
    for each in (text, reversed_text):
        assert [await asyncio.to_thread(by_libpq, each), await by_asyncpg(each)] == [first, first]
    await nodes[0].guarded.end_in_order(20)
    await nodes[1].guarded.promote(2)
    for each in (text, reversed_text):
        assert [await asyncio.to_thread(by_libpq, each), await by_asyncpg(each)] == [second, second]


async def test_without_a_primary_they_get_an_error_and_no_standby(nodes: list[Node]) -> None:
    await nodes[1].guarded.demote()
    with pytest.raises(psycopg.OperationalError):
        await asyncio.to_thread(by_libpq, connection_string(nodes))
