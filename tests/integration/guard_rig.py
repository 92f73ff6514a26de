"""Guards as real processes beside a lab's PostgreSQL: their configurations, their life, and what they are asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
from ruamel.yaml import YAML

from lab import Lab
from lab.addresses import reserve
from recovery.adapters.guard_client import GuardClient
from recovery.adapters.s3 import S3Store
from recovery.adapters.witness import WitnessStore
from recovery.backup.sealing import generate_age_key
from recovery.backup.signing import generate_signing_key
from recovery.domain.guarding import GuardOrder, GuardStatus, StoreRole
from recovery.domain.ownership import OwnershipRecord
from recovery.errors import Contended, Unreachable

ROOT = Path(__file__).parents[2]
GROUP = "shop"
A, B = "region-a", "region-b"
TTL = 3.0
MARGIN = 0.7
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg says when a server is killed under it."""
PATIENCE = 40.0  # for a condition, on a busy machine


@dataclass
class GuardedLab:
    """A lab with one guard process per region. ``through``: the guards' addresses as other regions see them."""

    lab: Lab
    folder: Path
    token: str
    addresses: dict[str, str]
    witness: WitnessStore
    store: S3Store
    client: GuardClient
    ttl: float
    sites: dict[str, str] = field(default_factory=dict)  # of regions that are lost together with another one
    replication: bool = False  # the configuration names the role to stream as: a former primary can follow
    guards: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    @property
    def regions(self) -> list[str]:
        return list(self.addresses)

    # -- processes ------------------------------------------------------------------------------------------------

    async def start_guard(self, region: str, *options: str) -> asyncio.subprocess.Process:
        """Starts ``drctl guard`` and returns once it says that it is ready."""
        process = await self.spawn_guard(region, *options)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await process.stdout.readline()
        assert b"is ready at" in line, (line, self.log(region))
        self.guards[region] = process
        return process

    async def spawn_guard(self, region: str, *options: str) -> asyncio.subprocess.Process:
        with (self.folder / f"guard-{region}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "drctl", "guard", "--region", region, *options),
                *("--config", str(self.config_file(region))),
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def config_file(self, region: str) -> Path:
        return self.folder / f"{region}.yaml"

    def log(self, region: str) -> str:
        return (self.folder / f"guard-{region}.log").read_text()[-6000:]

    def state_folder(self, region: str) -> Path:
        return self.folder / "state" / region

    def companion(self, region: str) -> int:
        """The companion's process."""
        return int((self.state_folder(region) / "companion.lock").read_text())

    def postmaster(self, region: str) -> int:
        """The process of the region's PostgreSQL, as its data directory says."""
        return int((self.lab.postgres(region).data_directory / "postmaster.pid").read_text().splitlines()[0])

    def signal_guard(self, region: str, number: signal.Signals) -> None:
        self.guards[region].send_signal(number)

    async def end_guard(self, region: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.guards.pop(region)
        if process.returncode is None:
            process.send_signal(number)
        await process.wait()

    async def end(self) -> None:
        for region in list(self.guards):
            await self.end_guard(region)
        for region in self.regions:
            with contextlib.suppress(OSError, ValueError):
                os.kill(self.companion(region), signal.SIGKILL)

    # -- looking ----------------------------------------------------------------------------------------------------

    async def status(self, region: str) -> GuardStatus:
        return await self.client.status(region, GROUP)

    async def role(self, region: str) -> StoreRole | None:
        """Of PostgreSQL; None while the guard does not answer."""
        try:
            status = await self.status(region)
        except Unreachable:
            return None
        return status.groups[0].stores[0].role

    async def record(self) -> OwnershipRecord:
        found = await self.witness.read(GROUP)
        assert found is not None
        return found[0]

    async def writes(self, region: str, value: str = "") -> bool:
        """Whether the region's PostgreSQL acknowledges a write now."""
        place = self.lab.postgres(region)
        try:
            async with asyncio.timeout(2):
                connection = await asyncpg.connect(place.dsn(), timeout=2)
                try:
                    await connection.execute("INSERT INTO written (value) VALUES ($1)", value)
                finally:
                    connection.terminate()
        except (OSError, TimeoutError, *LOST):
            return False
        return True

    async def values(self, region: str) -> set[str]:
        connection = await asyncpg.connect(self.lab.postgres(region).dsn(), timeout=5)
        try:
            return {row["value"] for row in await connection.fetch("SELECT value FROM written")}
        finally:
            await connection.close()

    async def until(self, what: str, condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Waits until the (awaited) condition is true; says what was waited for, and the guards' logs, otherwise."""
        try:
            async with asyncio.timeout(seconds):
                while not await condition():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logs = "\n".join(f"--- {region}\n{self.log(region)}" for region in self.guards)
            raise AssertionError(f"{what}: not within {seconds:g} s\n{logs}") from None

    async def steady(self) -> None:
        """A is primary under its guard, the others stream."""
        others = [region for region in self.regions if region != A]

        async def is_so() -> bool:
            if await self.role(A) is not StoreRole.PRIMARY:
                return False
            if any([await self.role(region) is not StoreRole.STANDBY for region in others]):
                return False
            record, status = await self.record(), await self.status(A)
            return record.guard == status.instance and status.holds_lease

        await self.until(f"A is primary and {', '.join(others)} follow", is_so)

    async def free(self) -> None:
        """Releases the group's lock, as a run that has ended does."""
        while True:
            found = await self.witness.read(GROUP)
            if found is None or found[0].run is None:
                return
            with contextlib.suppress(Contended):
                await self.witness.write(
                    found[0].model_copy(update={"run": None, "plan": None, "changed_at": datetime.now(UTC)}),
                    version=found[1],
                )

    # -- plans' part ------------------------------------------------------------------------------------------------

    async def claim(self, run: str, target: str | None = None) -> GuardOrder:
        """Takes the group's lock as a run would, and returns the order from the owner to ``target``, else A or B."""
        found = await self.witness.read(GROUP)
        assert found is not None
        record, version = found
        claimed = record.model_copy(update={"run": run, "plan": "Failover", "changed_at": datetime.now(UTC)})
        await self.witness.write(claimed, version=version)
        target = target or (B if record.region == A else A)
        return GuardOrder(
            group=GROUP,
            run=run,
            epoch=record.epoch,
            source=record.region,
            target=target,
            effect_id=f"{run}-effect",
            store="postgres",
            deadline=30.0,
        )


@contextlib.asynccontextmanager
async def guarded_lab(
    folder: Path,
    *,
    ttl: float = TTL,
    peers: bool = True,
    start: Sequence[str] = (A, B),
    regions: Sequence[str] = (A, B),
    sites: Mapping[str, str] | None = None,
    replication: bool = False,
) -> AsyncIterator[GuardedLab]:
    """A fresh lab with streaming PostgreSQL, its witness, and running guards. ``peers``: they hear each other.

    ``regions``: in the order of their priority.
    """
    lab = await Lab.start(regions=regions, standby="streaming", services=("postgres", "witness"))
    names, held = reserve([f"guard-{region}" for region in regions])
    guarded = None
    try:
        addresses = {region: f"http://{lab.postgres(region).host}:{names[f'guard-{region}']}" for region in regions}
        token = secrets.token_hex(16)
        place = lab.witness()
        store = S3Store(
            "witness", place.bucket, prefix="guards", endpoint_url=place.endpoint, access_key=place.access_key,
            secret_key=place.secret_key, versioning_required=False,
        )  # fmt: skip
        guarded = GuardedLab(
            lab, folder, token, addresses, WitnessStore(store), store, GuardClient(addresses, token), ttl,
            dict(sites or {}), replication,
        )  # fmt: skip
        write_configurations(guarded, peers=peers)
        connection = await asyncpg.connect(lab.postgres(A).dsn())
        await connection.execute("CREATE TABLE written (value text, at timestamptz DEFAULT now())")
        await connection.close()
        await asyncio.gather(*(guarded.start_guard(region) for region in start))
        yield guarded
    finally:
        for holder in held:
            holder.close()
        if guarded is not None:
            await guarded.end()
            await guarded.client.close()
            await guarded.store.close()
        await lab.stop()


def write_configurations(guarded: GuardedLab, *, peers: bool) -> None:
    """One file per region, with the witness and the other region's servers as that region sees them."""
    for region in guarded.regions:
        document = {
            "version": 1,
            "keys": {"recipients": [generate_age_key().public], "trusted_signers": [generate_signing_key().public]},
            "witness": _witness(guarded, region),
            "guards": {
                "token": _secret(guarded, "guard.token", guarded.token),
                "state_folder": str(guarded.folder / "state"),
                "margin": f"{MARGIN}s",
            },
            "locations": {"here": {"url": f"file://{guarded.folder}/points"}},
            "regions": {
                other: {
                    "guard": guarded.addresses[other] if peers or other == region else "http://127.0.0.1:1",
                    "priority": 100 - 5 * number,
                    **({"site": guarded.sites[other]} if other in guarded.sites else {}),
                }
                for number, other in enumerate(guarded.regions)
            },
            "groups": {GROUP: _group(guarded, region)},
        }
        with guarded.config_file(region).open("w") as stream:
            YAML().dump(document, stream)


def _secret(guarded: GuardedLab, name: str, value: str) -> str:
    """Its reference."""
    keys = guarded.folder / "secrets"
    keys.mkdir(mode=0o700, exist_ok=True)
    path = keys / name
    path.touch(mode=0o600)
    path.write_text(value)
    return f"file:{path}"


def _witness(guarded: GuardedLab, region: str) -> dict[str, Any]:
    witness = guarded.lab.witness()
    host, port = guarded.lab.seen_from(region, "witness", "witness")
    return {
        "url": f"s3://{witness.bucket}/guards",
        "endpoint": f"http://{host}:{port}",
        "region": witness.region,
        "credentials": {
            "access_key": _secret(guarded, "witness.access", witness.access_key),
            "secret_key": _secret(guarded, "witness.secret", witness.secret_key),
        },
    }


def _group(guarded: GuardedLab, region: str) -> dict[str, Any]:
    place = guarded.lab.postgres(A)
    streaming = {}
    if guarded.replication:
        member = guarded.lab.postgres(guarded.regions[-1])  # the only roles that the lab made are those of its standbys
        password = _secret(guarded, "replication.password", member.replication_password)
        streaming = {"replication_user": member.replication_user, "replication_password": password}
    return {
        "tier": "critical",
        "home": A,
        "regions": {other: {"postgres": _postgres(guarded.lab, region, other)} for other in guarded.regions},
        "postgres": {
            "database": place.database,
            "user": place.superuser,
            "password": _secret(guarded, "postgres.password", place.password),
            **streaming,
        },
        "replication": {"mode": "streaming"},
        "failover": {"lease_ttl": f"{guarded.ttl:g}s"},
    }


def _postgres(lab: Lab, region: str, other: str) -> dict[str, Any]:
    """The server of ``other`` as ``region`` reaches it."""
    own = lab.postgres(other)
    host, port = (own.host, own.port) if other == region else lab.seen_from(region, other, "postgres")
    return {
        "host": host,
        "port": port,
        "data_directory": str(own.data_directory),
        "bin_directories": {own.version: str(own.bin_directory)},
        **({"run_as": own.run_as} if own.run_as else {}),
    }


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() is not None
    except OSError:
        return False
