"""The page docs/restore-by-hand.md, run as it stands, with the tools of the distribution."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from recovery.adapters.postgres import LocalPostgres, PostgresBinaries
from recovery.adapters.redis.connection import connected
from recovery.backup.sets import write_set
from recovery.backup.signing import Signer
from recovery.domain.recovery_point import BackupKind
from recovery.domain.recovery_set import set_of
from recovery.domain.report import RunState
from recovery.ports.postgres import PostgresPlace
from tests.integration.installation import CACHE, HOME, Site, installed_site, value_of
from tests.integration.redis_dumps import redis_of
from tests.ports import free_port
from tests.system.by_hand import DOWNLOAD, Page

pytestmark = pytest.mark.system
PAGE = Path(__file__).parents[2] / "docs" / "restore-by-hand.md"


def paragraphs() -> dict[str, str]:
    """The page's commands, by the number of their comment."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL))
    parts = re.split(r"^# (\d)\. .*\n", blocks, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


async def shell(commands: str, folder: Path, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        commands,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    async with installed_site() as site:
        yield site


async def download(site: Site, kind: BackupKind, folder: Path) -> Path:
    """The shared point's folder."""
    return await fetched(site, f"shop/postgres/{await site.point(kind)}/", folder)


async def fetched(site: Site, prefix: str, folder: Path) -> Path:
    """A point's folder as any S3 client brings it, and the operator's key beside its objects."""
    (store, *_) = await site.stores()
    async for info in store.list(prefix):
        target = folder / info.key.removeprefix(prefix)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((await store.get(info.key))[0])
    shutil.copy(site.installation.folder / "secrets" / "operator.agekey", folder / "key.txt")
    return folder


async def test_a_physical_point_opens_with_age_zstd_and_tar(site: Site, tmp_path: Path):
    folder = await download(site, BackupKind.PHYSICAL, tmp_path)
    place = site.lab.postgres(HOME)
    path = f"{place.bin_directory}:{os.environ['PATH']}"
    page = paragraphs()
    assert "OK" in await shell(page["2"], folder)
    await shell(page["3"].replace("pg_ctl -D data start\n", ""), folder, PATH=path)
    data = folder / "data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    # The page's last line starts the server; here at a free address, as the lab's user.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (data / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{data}'\n")
    if place.run_as:
        shutil.chown(tmp_path, place.run_as)
        for part in [data, *data.rglob("*")]:
            shutil.chown(part, place.run_as)
        for parent in tmp_path.parents:
            if parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o001)
    host = LocalPostgres(PostgresBinaries({place.version: Path(place.bin_directory)}), run_as=place.run_as).host
    server = PostgresPlace("127.0.0.1", port, data, place.run_as)
    await host.start(server)
    try:
        dsn = f"postgresql://postgres:{place.password}@127.0.0.1:{port}/shop"
        assert await value_of(dsn, "SELECT count(*) FROM orders") > 0
    finally:
        await host.stop(server)


async def test_the_page_beside_a_set_opens_its_points(site: Site, tmp_path: Path) -> None:
    """In one shell, up to where servers come in: ``test_page_by_hand.py`` goes on to them."""
    points = [await site.point(kind) for kind in (BackupKind.PHYSICAL, BackupKind.LOGICAL)]
    catalogue = await site.catalogue()
    members = [await catalogue.point("shop", point_id) for point_id in points]
    (store, *_) = await site.stores()
    signer = Signer((site.installation.folder / "secrets" / "signing.key").read_text().strip())
    found = set_of(members, set_id="20261122T101500Z-set-1a2b3c4d", run_id="by-hand")
    assert await write_set([store], found, [member.manifest for member in members], signer) == {}
    location = tmp_path / "location"
    async for info in store.list("shop/"):
        target = location / info.key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((await store.get(info.key))[0])
    shutil.copy(site.installation.folder / "secrets" / "operator.agekey", tmp_path / "key.txt")
    page = Page(sorted((location / "shop" / "sets").glob("*.RESTORE-BY-HAND.md"))[-1].read_text())
    definitions, *physical = page.blocks("physical")
    opened = [definitions, *physical[:2], *page.blocks("logical")[1:]]
    commands = DOWNLOAD + "\n".join(opened).replace("psql postgres", "cat > globals.sql")
    commands = commands.replace("pg_restore --create -d postgres", "pg_restore -f dump.sql")
    path = f"{site.lab.postgres(HOME).bin_directory}:{os.environ['PATH']}"
    said = await shell(commands, tmp_path, PATH=path, LOCATION=str(location))
    assert "backup successfully verified" in said
    assert (tmp_path / "data" / "PG_VERSION").exists()
    assert "CREATE ROLE" in (tmp_path / "globals.sql").read_text()
    assert "COPY public.orders" in (tmp_path / "dump.sql").read_text()


async def test_a_logical_point_opens_with_pg_restore(site: Site, tmp_path: Path):
    folder = await download(site, BackupKind.LOGICAL, tmp_path)
    place = site.lab.postgres(HOME)
    page = paragraphs()
    assert "OK" in await shell(page["2"], folder)
    by_hand = (
        page["4"].replace("pg_restore --create -d postgres", "pg_restore -f dump.sql").replace("psql postgres", "cat")
    )
    said = await shell(by_hand, folder, PATH=f"{place.bin_directory}:{os.environ['PATH']}")
    assert "CREATE ROLE" in said
    assert "COPY public.orders" in (folder / "dump.sql").read_text()


async def test_a_server_starts_on_a_dump_of_redis(site: Site, tmp_path: Path) -> None:
    """The page's last line, here at a free port and in the background."""
    async with connected(redis_of(site.lab, HOME)) as connection:
        await connection.run("SET", "cart:7", "a book")
    report = await site.run("Backup", group=CACHE)
    assert report.state is RunState.COMPLETED, report.error
    folder = await fetched(site, f"{CACHE}/redis/{report.point_ids[0]}/", tmp_path)
    page = paragraphs()
    assert "OK" in await shell(page["2"], folder)
    port, last = free_port(), "--appendonly no\n"
    assert page["6"].endswith(last)
    background = f"--appendonly no --port {port} --bind 127.0.0.1 --save '' --daemonize yes\n"
    commands = page["6"].replace("cd points/", "# cd points/").removesuffix(last) + background
    said = await shell(
        f"{commands}until redis-cli -p {port} get cart:7 | grep book; do sleep 0.05; done\n"
        f"redis-cli -p {port} shutdown nosave\n",
        folder,
    )
    assert "Checksum OK" in said and "a book" in said
