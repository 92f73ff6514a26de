"""The host of a region as docker-compose.yaml runs it: its script with real servers, a guard, and no container."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import nats
import psutil
import pytest
import redis.asyncio
from ruamel.yaml import YAML

from lab.packages import postgres_binaries, redis_server, script
from recovery.backup.sealing import generate_age_key
from recovery.backup.signing import generate_signing_key
from tests.integration.postgres_servers import public_folder

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
ADDRESSES = {"region-a": "127.77.0.1", "region-b": "127.77.0.2"}
PASSWORDS = {
    f"{name}_PASSWORD": f"{name.lower()}-word"
    for name in ("POSTGRES", "BACKUP", "REPLICATION", "NATS", "NATS_APP", "NATS_LEAF", "REDIS")
}
USER = "nobody"


@dataclass
class Host:
    """One region's script, run as the container's user would run it."""

    region: str
    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def address(self) -> str:
        return ADDRESSES[self.region]

    @property
    def base(self) -> Path:
        return self.folder / self.region

    def run(self, *arguments: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        entry = pwd.getpwnam(USER)
        command = ["sh", str(self.folder / "sources/deploy/compose/region.sh"), *arguments]
        with (log or Path(os.devnull)).open("ab") as said:
            return subprocess.Popen(
                command,
                env=self.environment,
                cwd="/",
                stdout=said,
                stderr=said,
                start_new_session=True,
                user=entry.pw_uid,
                group=entry.pw_gid,
                extra_groups=[],
            )

    def start(self) -> None:
        self.process = self.run(log=self.folder / f"{self.region}.log")

    async def healthy(self) -> bool:
        return await asyncio.to_thread(self.run("healthy").wait, 20) == 0

    def processes(self, word: str = "") -> list[psutil.Process]:
        """All that live in its session or work in its folder, of which ``word`` is in the command line."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                line = " ".join(process.cmdline())
                is_ours = str(self.base) in line or str(self.base) in process.cwd() or f"--region {self.region}" in line
                is_ours = is_ours and process.username() == USER  # other labs on this machine have such regions, too
                if is_ours and word in line and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    async def sell(self) -> None:
        dsn = f"postgresql://postgres:{PASSWORDS['POSTGRES_PASSWORD']}@{self.address}/shop"
        connection = await asyncpg.connect(dsn, timeout=5)
        try:
            await connection.execute("INSERT INTO orders DEFAULT VALUES")
        finally:
            await connection.close()

    async def orders(self) -> int:
        dsn = f"postgresql://postgres:{PASSWORDS['POSTGRES_PASSWORD']}@{self.address}/shop"
        connection = await asyncpg.connect(dsn, timeout=5)
        try:
            return int(await connection.fetchval("SELECT count(*) FROM orders"))
        finally:
            await connection.close()

    async def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            assert await asyncio.to_thread(self.process.wait, 90) == 0

    def kill(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the hosts live, with the program at a place that their user reaches wherever it was cloned to."""
    assert os.geteuid() == 0, "make test-system needs root, to run the hosts as another user"
    with public_folder() as made:
        mounted = {made / "sources": ROOT, made / "python": Path(sys.base_prefix)}
        for at, what in mounted.items():
            at.mkdir()
            subprocess.run(["mount", "--bind", str(what), str(at)], check=True)
        try:
            yield made
        finally:
            for at in mounted:
                subprocess.run(["umount", "--lazy", str(at)], check=True)


@pytest.fixture
async def hosts(folder: Path) -> AsyncIterator[dict[str, Host]]:
    programs = folder / "programs"
    programs.mkdir()
    python = folder / "python/bin" / f"python3.{sys.version_info.minor}"
    for name, line in {
        "python": f'LD_LIBRARY_PATH="{folder}/python/lib" exec "{python}" "$@"',
        "drctl": 'exec python -m drctl "$@"',
        "redis-server": f'exec -a redis-server "{_below(folder, redis_server())}" "$@"',
        "nats-server": f'exec "{_below(folder, script("nats-server"))}" "$@"',
    }.items():
        program = programs / name
        program.write_text(f"#!/bin/bash\n{line}\n")
        program.chmod(0o755)
    binaries = postgres_binaries(16, USER, folder / "copies")
    made = {region: _host(region, folder, programs, binaries) for region in ADDRESSES}
    try:
        yield made
    finally:
        for host in made.values():
            host.kill()
            log = folder / f"{host.region}.log"
            print(log.read_text()[-4000:] if log.exists() else f"{host.region} was not started")


def _below(folder: Path, program: Path) -> Path:
    return folder / "sources" / program.relative_to(ROOT)


def _host(region: str, folder: Path, programs: Path, binaries: Path) -> Host:
    other = next(name for name in ADDRESSES if name != region)
    configuration = folder / f"{region}.yaml"
    with configuration.open("w") as stream:
        YAML().dump(_configuration(region, folder, binaries), stream)
    configuration.chmod(0o644)
    for name in (region, "witness", "points"):
        (folder / name).mkdir(exist_ok=True, mode=0o755)
        entry = pwd.getpwnam(USER)
        os.chown(folder / name, entry.pw_uid, entry.pw_gid)
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "PYTHONPATH": f"{folder}/sources:{_below(folder, Path(asyncpg.__file__).parents[1])}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder / region),
        "RECOVERY_CONFIG": str(configuration),
        "REGION": region,
        "HOME_REGION": "region-a",
        "OTHER_REGIONS": other,
        "REGION_FOLDER": str(folder / region),
        "REGION_LISTEN": ADDRESSES[region],
        "REGION_ADDRESS": ADDRESSES[region],
        "HOME_ADDRESS": ADDRESSES["region-a"],
        "POSTGRES_BIN": str(binaries),
        "REGION_WORKER": "no",  # it would wait for Temporal, which a guard does not
        "GUARD_TOKEN": "0123456789abcdef",
        **PASSWORDS,
    }
    return Host(region, folder, environment)


def _configuration(region: str, folder: Path, binaries: Path) -> dict[str, Any]:
    stack = YAML(typ="safe").load((ROOT / "deploy/compose/recovery.yaml").read_text())
    shop = stack["groups"]["shop"]
    for name, place in shop["regions"].items():
        address = ADDRESSES[name]
        data = str(folder / name / "postgres")
        place["postgres"] = {"host": address, "data_directory": data, "bin_directories": {16: str(binaries)}}
        place["nats"] = place["redis"] = address
        stack["regions"][name]["guard"] = f"http://{address}:7450"
    stack["guards"]["state_folder"] = str(folder / region / "guard")
    stack["witness"] = {"url": f"file://{folder}/witness"}
    stack["locations"] = {"here": {"url": f"file://{folder}/points"}}
    stack["monitoring"]["metrics"]["bind"] = ADDRESSES[region]
    stack["keys"] = {
        "recipients": [generate_age_key().public],
        "trusted_signers": [generate_signing_key().public],
    }
    del stack["temporal"]["payload_key"], stack["notifications"]
    return dict(stack)


async def eventually(condition: Any, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, redis.asyncio.RedisError, nats.errors.Error):
                if await condition():
                    return
            await asyncio.sleep(0.2)


async def _mirrors(host: Host) -> bool:
    client = await nats.connect(
        f"nats://{host.address}:4222", user="recovery", password=PASSWORDS["NATS_PASSWORD"], max_reconnect_attempts=1
    )
    try:
        info = await client.jetstream().stream_info("events")
        return info.config.mirror is not None
    finally:
        await client.close()


async def test_the_script_of_a_regions_host(hosts: dict[str, Host]) -> None:
    a, b = hosts["region-a"], hosts["region-b"]
    store = redis.asyncio.Redis(host=a.address, password=PASSWORDS["REDIS_PASSWORD"], socket_timeout=5)

    async def sells() -> bool:
        await a.sell()
        return await store.set("sold", "yes") is True

    # A new group: its home's PostgreSQL is found and claimed, and the other stores are made primaries, too.
    a.start()
    await eventually(sells)
    await eventually(a.healthy)
    assert (a.base / "postgres/standby.signal").exists(), "at rest it would be a standby"

    # Another region clones it, and follows in all of its stores.
    b.start()
    copy = redis.asyncio.Redis(host=b.address, password=PASSWORDS["REDIS_PASSWORD"], socket_timeout=5)

    async def follows() -> bool:
        return await b.orders() == await a.orders() and await copy.get("sold") == b"yes" and await _mirrors(b)

    await eventually(follows, 90)
    await eventually(b.healthy)
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await b.sell()

    # A guard that dies is started again, and what was primary goes on meanwhile.
    [server] = [process for process in a.processes("/postgres -D") if process.parent() is not None]
    for guard in a.processes("guard --region"):
        guard.kill()
    await a.sell()
    await eventually(a.healthy)
    assert server.is_running()
    await a.sell()

    # A PostgreSQL that dies is made primary again, by the guard.
    server.kill()
    await eventually(sells)

    # In order: the primaries end, nothing is left; and it comes back as it was.
    sold = await a.orders()
    await a.end()
    assert a.processes() == []
    a.start()
    await eventually(sells)
    assert await a.orders() > sold
    await store.aclose()
    await copy.aclose()
