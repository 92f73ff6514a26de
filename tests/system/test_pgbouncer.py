"""A real PgBouncer between clients and two real servers: held, cut, led on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from recovery.adapters.pgbouncer import PgBouncer, PgBouncerAt, PgBouncerRouting
from recovery.domain.group import GroupSnapshot, Objectives, RegionPlan
from recovery.errors import Refused, Unreachable
from tests.integration.postgres_pair import Node, cluster
from tests.integration.postgres_servers import public_folder
from tests.ports import free_port

pytestmark = pytest.mark.system
GROUP = GroupSnapshot(
    name="shop",
    objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
    home_region="a",
    regions=[RegionPlan(name="a", task_queue="a"), RegionPlan(name="b", task_queue="b")],
)
SETTINGS = """
[databases]
shop = host=127.0.0.1 port={port} dbname=postgres user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = plain
auth_file = {folder}/users
admin_users = admin
pool_mode = transaction
server_login_retry = 1
logfile = {folder}/log
pidfile = {folder}/pid
"""


@dataclass
class Pooled:
    """Two servers of which ``nodes[0]`` is primary, and a pooler whose file names one of them."""

    nodes: list[Node]
    folder: Path
    at: PgBouncerAt

    @property
    def pooler(self) -> PgBouncer:
        return PgBouncer(self.at)

    @property
    def routing(self) -> PgBouncerRouting:
        async def poolers(group: str) -> list[PgBouncerAt]:
            return [self.at]

        return PgBouncerRouting(poolers)

    def point_at(self, node: Node) -> None:
        """What the operator's configuration management, or a record's new address, does."""
        text = SETTINGS.format(port=node.place.port, listen=self.at.port, folder=self.folder)
        (self.folder / "pgbouncer.ini").write_text(text)

    async def client(self) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(
            host="127.0.0.1", port=self.at.port, user="app", password="app", database="shop", ssl=False,
            statement_cache_size=0,
        )  # fmt: skip

    async def move_primary(self) -> None:
        await self.nodes[0].guarded.demote()
        await self.nodes[1].guarded.promote(2)
        self.point_at(self.nodes[1])


@pytest.fixture
async def pooled() -> AsyncIterator[Pooled]:
    with public_folder() as folder:
        async with cluster(folder, "a", "b") as nodes:
            home = folder / "pgbouncer"
            home.mkdir()
            found = Pooled(nodes, home, PgBouncerAt("127.0.0.1", free_port(), "admin", ("shop",), "admin-password"))
            (home / "users").write_text('"admin" "admin-password"\n"app" "app"\n"postgres" ""\n')
            found.point_at(nodes[0])
            _give(home)
            async with _running(home):
                yield found


def _give(home: Path) -> None:
    """PgBouncer does not run as root."""
    if os.getuid() == 0:
        for path in (home, *home.iterdir()):
            shutil.chown(path, "nobody", "nogroup")


@contextlib.asynccontextmanager
async def _running(home: Path) -> AsyncIterator[None]:
    program = shutil.which("pgbouncer")
    assert program is not None, "make test-system needs the Debian package pgbouncer"
    process = await asyncio.create_subprocess_exec(
        program, "-q", str(home / "pgbouncer.ini"), user="nobody" if os.getuid() == 0 else None,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(20):
            while not (home / "pid").exists():
                assert process.returncode is None, (home / "log").read_text()
                await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_what_the_real_console_shows(pooled: Pooled) -> None:
    client = await pooled.client()
    assert await client.fetchval("SELECT 1") == 1
    (pool,) = [found for found in await pooled.pooler.pools() if found.database == "shop"]
    assert (pool.user, pool.clients, pool.waiting) == ("postgres", 1, 0)
    assert await pooled.pooler.servers("shop") == {("127.0.0.1", pooled.nodes[0].place.port)}
    assert ("shop", "127.0.0.1", False) in [(db.name, db.host, db.paused) for db in await pooled.pooler.databases()]
    assert await pooled.pooler.resolved() == []
    await client.close()


async def test_a_planned_switch_is_a_pause_for_clients_and_no_error(pooled: Pooled) -> None:
    client = await pooled.client()
    await client.execute("INSERT INTO marks VALUES (1, 'before')")
    assert await pooled.routing.hold(GROUP, timedelta(seconds=3)) == []
    waiting = asyncio.create_task(client.execute("INSERT INTO marks VALUES (2, 'while it was held')"))
    await pooled.nodes[0].guarded.end_in_order(20)
    await pooled.nodes[1].guarded.promote(2)
    pooled.point_at(pooled.nodes[1])
    assert not waiting.done()
    assert await pooled.routing.move(GROUP, held=True, within=timedelta(seconds=1)) == []
    await asyncio.wait_for(waiting, 10)
    assert await pooled.nodes[1].value("SELECT count(*) FROM marks") == 2
    await client.close()


async def test_a_dead_primary_leaves_no_stale_pool(pooled: Pooled) -> None:
    stale = await pooled.client()
    assert await stale.fetchval("SELECT 1") == 1
    await pooled.move_primary()
    assert await pooled.routing.move(GROUP, held=False, within=timedelta(seconds=1)) == []
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await stale.execute("INSERT INTO marks VALUES (1, 'through a stale connection')")
    fresh = await pooled.client()
    await fresh.execute("INSERT INTO marks VALUES (1, 'after')")
    assert await pooled.nodes[1].value("SELECT note FROM marks") == "after"
    assert await pooled.pooler.servers("shop") == {("127.0.0.1", pooled.nodes[1].place.port)}
    await fresh.close()


async def test_the_name_alone_ends_no_pooled_connection(pooled: Pooled) -> None:
    """Why routing exists: without it the pool goes on with the server that it knows."""
    client = await pooled.client()
    await client.execute("SELECT 1")
    pooled.point_at(pooled.nodes[1])
    await client.execute("INSERT INTO marks VALUES (1, 'still the old one')")
    assert await pooled.nodes[0].value("SELECT count(*) FROM marks") == 1
    await client.close()


async def test_an_open_transaction_is_waited_for_and_the_pause_taken_back(pooled: Pooled) -> None:
    client = await pooled.client()
    await client.execute("BEGIN")
    await client.execute("INSERT INTO marks VALUES (1, 'in a long transaction')")
    with pytest.raises(Unreachable, match=r"did not end within 0\.5 s \(1 server connections are in use\)"):
        await pooled.routing.hold(GROUP, timedelta(seconds=0.5))
    await client.execute("COMMIT")
    other = await pooled.client()
    assert await asyncio.wait_for(other.fetchval("SELECT count(*) FROM marks"), 5) == 1
    await client.close()
    await other.close()


async def test_only_an_admin_may_change_anything(pooled: Pooled) -> None:
    app = PgBouncer(PgBouncerAt("127.0.0.1", pooled.at.port, "app", ("shop",), "app"))
    with pytest.raises(Refused, match="admin_users"):
        await app.pause("shop", 1)
    with pytest.raises(Refused, match="did not let admin in"):
        await PgBouncer(PgBouncerAt("127.0.0.1", pooled.at.port, "admin", ("shop",), "wrong")).reload()
