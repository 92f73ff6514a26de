"""PostgreSQL that lets nobody in without TLS, its certificate checked: every way that we take to a server.

With the distribution's PostgreSQL: the packaged one is built without TLS.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import pytest

from recovery.adapters.postgres.connection import connected
from recovery.adapters.postgres.folder import give_to
from recovery.adapters.postgres.wal_stream import WalStream
from recovery.adapters.probes import PostgresProbe
from recovery.adapters.probes.reach import Limits
from recovery.domain.health import Finding, Part
from recovery.errors import RecoveryError
from recovery.ports.postgres import PostgresLogin
from tests.certificates import issued
from tests.integration.postgres_pair import cluster
from tests.integration.postgres_servers import MemoryPoint, Server, eventually, public_folder, running_source, take
from tests.integration.test_postgres_rejoin import failed_over, options, standbys
from tests.system.debian_postgres import WITHOUT_VECTOR, newest

pytestmark = pytest.mark.system
ONLY_TLS = "hostssl all all 127.0.0.1/32 trust\nhostssl replication all 127.0.0.1/32 trust\n"
SPOKEN = "SELECT ssl AND version IS NOT NULL FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@dataclass
class Encrypted:
    server: Server
    authority: Path
    other: Path

    @property
    def login(self) -> PostgresLogin:
        return replace(self.server.login, sslmode="verify-full", sslrootcert=str(self.authority))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


@pytest.fixture(scope="module")
async def encrypted(folder: Path) -> AsyncIterator[Encrypted]:
    major, postgres = newest()
    async with running_source(folder, major=major, postgres=postgres, schema=WITHOUT_VECTOR) as server:
        authority = await demand_tls(server, certificates(folder, "server"))
        yield Encrypted(server, authority, certificates(folder, "other")[0])


def certificates(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Authority, certificate and key in a folder of their own, which the server's user may read."""
    (folder / name).mkdir(mode=0o755)
    made = issued(folder / name)
    made[0].chmod(0o644)
    return made


async def demand_tls(server: Server, made: tuple[Path, Path, Path], *, plain_too: bool = False) -> Path:
    """From now on; returns the authority's certificate. ``plain_too``: others are let in as before."""
    authority, certificate, key = made
    data, user = server.place.data_directory, server.postgres.host.user_for(server.place)
    for source, name in ((certificate, "server.crt"), (key, "server.key")):
        await asyncio.to_thread(shutil.copy, source, data / name)
        give_to(data / name, user)
        (data / name).chmod(0o600)
    connection = await server.connect()
    try:
        for statement in ("ALTER SYSTEM SET ssl = on", "ALTER SYSTEM SET ssl_cert_file = 'server.crt'",
                          "ALTER SYSTEM SET ssl_key_file = 'server.key'"):  # fmt: skip
            await connection.execute(statement)
        if not plain_too:
            (data / "pg_hba.conf").write_text(ONLY_TLS)
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()

    async def as_wanted() -> bool:
        if plain_too:
            return str(await server.value("SHOW ssl")) == "on"
        try:
            await (await server.connect()).close()
        except asyncpg.InvalidAuthorizationSpecificationError:
            return True
        return False

    await eventually(as_wanted)
    return authority


async def test_questions_are_asked_over_tls(encrypted: Encrypted) -> None:
    async with connected(encrypted.login, "look") as session:
        assert await session.fetchval(SPOKEN)


@pytest.mark.parametrize("wrong", ["authority", "plain"])
async def test_who_is_not_trusted_is_not_talked_to(encrypted: Encrypted, wrong: str) -> None:
    login = replace(encrypted.login, sslrootcert=str(encrypted.other))
    if wrong == "plain":
        login = replace(encrypted.login, sslmode="disable", sslrootcert=None)
    words = "certificate" if wrong == "authority" else "pg_hba.conf"
    with pytest.raises(RecoveryError, match=words):
        async with connected(login, "look"):
            pass
    with pytest.raises(RecoveryError, match=words):
        await WalStream(login, "spied").identify()
    for kind in ("physical", "logical"):
        with pytest.raises(RecoveryError, match=words):
            await taken(encrypted.server, login, kind)
    found = await looked(login)
    assert not found.passed and not found.vital and words in found.detail, "no reason to leave a region"


async def test_a_probe_sees_what_clients_see(encrypted: Encrypted) -> None:
    found = await looked(encrypted.login)
    assert found.passed and found.vital, found.detail


async def looked(login: PostgresLogin) -> Finding:
    probe = PostgresProbe(login, "outside", Limits(5.0, 2.0))
    try:
        (found,) = await probe.look(Part.OWNER)
        return found
    finally:
        await probe.close()


async def taken(server: Server, login: PostgresLogin, kind: str) -> MemoryPoint:
    if kind == "physical":
        return await take(server.postgres.physical_source(login, kind), kind)
    return await take(server.postgres.logical_source(login, kind, ["shop"]), kind)


@pytest.mark.parametrize("kind", ["physical", "logical"])
async def test_backups_go_over_tls(encrypted: Encrypted, kind: str) -> None:
    point = await taken(encrypted.server, encrypted.login, kind)
    assert sum(len(body) for body in point.content.values()) > 1 << 20


async def test_wal_goes_over_tls(encrypted: Encrypted) -> None:
    stream = WalStream(encrypted.login, "encrypted")
    try:
        found = await stream.identify()
        begin = await stream.take_slot()
        await stream.start(found.timeline, begin - begin % found.segment_bytes)
        async with connected(encrypted.login, "write") as session:
            await session.execute("SELECT pg_switch_wal()")
            assert await session.fetchval(
                "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)"
            ), "the walsender's session, too"
        async with asyncio.timeout(20):
            while not await stream.receive(1.0):
                pass
    finally:
        await stream.close()


@pytest.mark.parametrize("method", ["rewind", "clone"])
async def test_a_returned_primary_follows_over_tls(method: str) -> None:
    major, postgres = newest()
    with public_folder() as folder:
        async with cluster(folder, "a", "b", major=major, postgres=postgres) as (a, b):
            made = certificates(folder, "tls")
            await demand_tls(a, made, plain_too=True)
            await failed_over(a, b)
            authority = str(await demand_tls(b, made))
            login = replace(b.login, sslmode="verify-full", sslrootcert=authority)
            wanted = options(b, method=method)
            streaming = replace(wanted.streaming, sslmode="verify-full", sslrootcert=authority)
            back = await standbys(a).rejoin(a.place, login, replace(wanted, streaming=streaming))
            assert (back.method, back.streaming) == (method, True), back
            async with connected(login, "look") as session:
                assert await session.fetchval(
                    "SELECT count(*) = 1 AND bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)"
                )
