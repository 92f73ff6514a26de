"""The composition root of a guard: from a configuration to the stores that one region's guard drives.

It imports no Temporal: a guard runs on when Temporal does not, and stays small.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from recovery.adapters.guard_client import GuardClient
from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.guarded import GuardedPostgres
from recovery.adapters.s3 import S3Store
from recovery.adapters.secrets import Secrets
from recovery.adapters.witness import WitnessStore
from recovery.config import Config
from recovery.config.names import split_address
from recovery.domain.group import GroupSnapshot
from recovery.domain.ownership import AcknowledgingSet, Strength
from recovery.domain.replication import standby_slot
from recovery.errors import BadInput
from recovery.guard.gauges import Gauges
from recovery.guard.guard import Guard, GuardPlan, guard_of, lock_folder
from recovery.guard.holding import Pace
from recovery.guard.process import settle
from recovery.guard.server import Address, GuardServer
from recovery.ports.guard import GuardedGroup, GuardedStore, Upstream
from recovery.ports.object_store import ObjectStore
from recovery.ports.postgres import PostgresLogin, PostgresPlace
from recovery.ports.standby import Streaming
from workers.object_stores import object_store

log = structlog.get_logger("recovery.guard")

WITNESS_CONNECTIONS = 16


@dataclass(frozen=True)
class GuardProcess:
    """What one process does. ``metrics_port``: None for no endpoint, 0 for a free port.

    ``demote_at_end``: whether an orderly stop ends the region's primaries and gives the lease back. Otherwise they go
    on, the companion ends them at the deadline, and a guard that is started before takes them over as they are.
    """

    config: Config
    region: str
    metrics_port: int | None = None
    demote_at_end: bool = True


async def run_guard(process: GuardProcess, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Guards until ``stop`` is set. ``ready`` is called once with a sentence, when questions are answered.

    Raises:
        NotFound: there is no such region. BadInput: no group of it is guarded, or a key is missing.
        Refused: another guard of the region runs on this host.
    """
    config, region = process.config, process.region
    address = _address(config, region)
    plan = _plan(config, region)
    folder = plan.folder
    async with AsyncExitStack() as stack:
        stack.enter_context(lock_folder(folder, region))
        secrets = Secrets()
        stack.callback(secrets.close)
        token = await _token(config, secrets)
        wiring = _Wiring(config, region, folder, secrets)
        plan = GuardPlan(**{**plan.__dict__, "groups": [await wiring.group(name) for name in _guarded(config, region)]})
        witness = await wiring.witness(Pace(plan.ttl, plan.margin))
        stack.push_async_callback(witness.close)
        addresses = {name: place.guard for name, place in config.regions.items() if place.guard and name != region}
        peers = await stack.enter_async_context(GuardClient(addresses, token, ca_file=config.guards.ca_file))
        store = WitnessStore(witness, timeout=Pace(plan.ttl, plan.margin).request)
        guard = await asyncio.to_thread(guard_of, plan, store, store, peers)
        await guard.watchdog.open()
        settle()
        gauges = Gauges(guard)
        if process.metrics_port is not None:
            stack.enter_context(gauges.serve(config.monitoring.metrics.bind, process.metrics_port))
        await _run(guard, GuardServer(guard, token), address, process, ready, stop)


async def _run(
    guard: Guard,
    server: GuardServer,
    address: Address,
    process: GuardProcess,
    ready: Callable[[str], None],
    stop: asyncio.Event,
) -> None:
    """The guard and its address until ``stop``; one of them failing ends both."""

    def say() -> None:
        groups = ", ".join(guard.groups)
        ready(
            f"guard of {process.region} is ready at {address.host}:{address.port}: {groups} "
            f"(lease {guard.plan.ttl:g} s)"
        )

    guarding = asyncio.create_task(guard.run())
    serving = asyncio.create_task(server.serve(address, say))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({guarding, serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for failed in (guarding, serving):
            if failed.done():
                failed.result()
        if process.demote_at_end:
            log.warning("the guard is stopped: it demotes what is primary and gives the lease back")
            await guard.release()
        else:
            log.warning("the guard is stopped: what is primary stays so until the deadline, or the next guard")
    finally:
        for task in (serving, guarding, stopping):
            task.cancel()
        await asyncio.gather(serving, guarding, stopping, return_exceptions=True)


# -- from the configuration ----------------------------------------------------------------------------------------


def _guarded(config: Config, region: str) -> list[str]:
    return [name for name, group in config.groups.items() if region in group.regions and config.snapshot(name).guarded]


def _address(config: Config, region: str) -> Address:
    guard = config.region(region).guard
    if guard is None:
        raise BadInput(f"region {region} has no guard in the configuration: set regions.{region}.guard to its address")
    return Address.of(guard, config.guards.certificate_file, config.guards.key_file)


async def _token(config: Config, secrets: Secrets) -> str:
    if config.guards.token is None:
        raise BadInput("guards have no token in the configuration: set guards.token, the same for all regions")
    token = await secrets.resolve(config.guards.token)
    if len(token) < 16:
        raise BadInput(
            "guards.token is too short: expected 16 characters or more, for example of: openssl rand -hex 32"
        )
    return token


def _plan(config: Config, region: str) -> GuardPlan:
    """Without its groups. Raises BadInput when there is nothing to guard."""
    names = _guarded(config, region)
    if not names:
        raise BadInput(
            f"no group of {region} is guarded: that needs guards.token, and regions.<name>.guard in each of its regions"
        )
    ttls = [config.snapshot(name).failover.lease_ttl.total_seconds() for name in names]
    # A peer's ttl is the least of its own groups', some of which may not be here.
    longest = max(config.snapshot(name).failover.lease_ttl.total_seconds() for name in config.groups)
    device = config.guards.watchdog_device
    return GuardPlan(
        region=region,
        folder=Path(config.guards.state_folder) / region,
        ttl=min(ttls),
        margin=config.guards.margin.total_seconds(),
        groups=(),
        longest_promise=longest,
        watchdog_device=Path(device) if device else None,
    )


@dataclass
class _Wiring:
    """Adapters of one guard."""

    config: Config
    region: str
    folder: Path
    secrets: Secrets

    async def witness(self, pace: Pace) -> ObjectStore:
        """The witness with a guard's patience: a request that hangs frees its thread within the same time."""
        store = await object_store(
            "witness",
            self.config.witness,
            self.secrets,
            connections=WITNESS_CONNECTIONS,
            connect_timeout=pace.request,
            read_timeout=pace.request,
        )
        if isinstance(store, S3Store):
            await store.open()
        return store

    async def group(self, name: str) -> GuardedGroup:
        snapshot = self.config.snapshot(name)
        group = self.config.group(name)
        stores: list[GuardedStore] = []
        upstreams: dict[str, dict[str, Upstream]] = {}
        if group.postgres is not None:
            upstreams["postgres"] = _postgres_upstreams(snapshot)
            stores.append(await self._postgres(snapshot))
        if group.redis is not None:
            upstreams["redis"] = _upstreams({region.name: region.redis for region in snapshot.regions})
            stores.append(await self._redis(snapshot, upstreams["redis"]))
        if group.nats is not None:
            upstreams["nats"] = _upstreams({region.name: region.nats for region in snapshot.regions})
            stores.append(await self._nats(snapshot, upstreams["nats"]))
        return GuardedGroup(
            name=name,
            home_region=snapshot.home_region,
            stores=stores,
            upstreams=upstreams,
            peers=tuple(region.name for region in snapshot.regions if region.name != self.region),
            state_folder=self.folder,
            acknowledging=self._acknowledging(snapshot),
            on_standby_loss=snapshot.replication.on_standby_loss,
        )

    def _acknowledging(self, snapshot: GroupSnapshot) -> AcknowledgingSet | None:
        """Commits wait for the standbys of the other regions: for all, so that each alone proves zero loss, or for as
        many as are configured."""
        rule = snapshot.replication
        if not (rule.synchronous and rule.streaming):
            return None
        others = [one.name for one in snapshot.regions if one.name != self.region and one.postgres is not None]
        members = [standby_slot(one) for one in others if not rule.replicas or snapshot.replica_rule(one) is not None]
        wait_for = min(rule.acknowledgements or len(members), len(members))
        return AcknowledgingSet(members=members, wait_for=wait_for) if members else None

    @property
    def _strength(self) -> Strength:
        return Strength.WATCHDOG if self.config.guards.watchdog_device else Strength.GUARD

    async def _postgres(self, snapshot: GroupSnapshot) -> GuardedPostgres:
        name, region = snapshot.name, self.region
        group, at = self.config.group(name), snapshot.region(region).postgres
        postgres = group.postgres
        assert postgres is not None and at is not None, "asked for a group with PostgreSQL"
        if at.data_directory is None:
            raise BadInput(
                f"the guard has to find PostgreSQL's data directory: set groups.{name}.regions.{region}.postgres."
                "data_directory"
            )
        directories = group.regions[region].postgres.bin_directories
        binaries = PostgresBinaries({major: Path(folder) for major, folder in directories.items()} or None)
        password = await self.secrets.resolve(postgres.password) if postgres.password else None
        login = PostgresLogin(
            at.host, at.port, postgres.user, at.database, password, postgres.sslmode, postgres.ssl_root_certificate
        )
        replication: Streaming | None = None
        if (streams_as := group.replicates_as(region)) is not None:
            user, reference = streams_as
            replication = Streaming(
                host=at.host,  # replaced by the upstream's
                port=at.port,
                user=user,
                password=await self.secrets.resolve(reference) if reference else None,
                slot=standby_slot(region),
                application_name=standby_slot(region),
                sslmode=postgres.sslmode,
                sslrootcert=postgres.ssl_root_certificate,
            )
        place = PostgresPlace(at.host, at.port, Path(at.data_directory), at.run_as)
        return GuardedPostgres(place, login, binaries=binaries, strength=self._strength, replication=replication)

    async def _redis(self, snapshot: GroupSnapshot, peers: Mapping[str, Upstream]) -> GuardedStore:
        from recovery.adapters.redis.guarded import GuardedRedis
        from workers.redis import redis_server

        server = await redis_server(self.config, self.secrets, snapshot.name, self.region)
        others = {region: upstream for region, upstream in peers.items() if region != self.region}
        return GuardedRedis(
            server,
            self.folder,
            recipients=self.config.keys.recipients,
            group=snapshot.name,
            peers=others,
            strength=self._strength,
        )

    async def _nats(self, snapshot: GroupSnapshot, peers: Mapping[str, Upstream]) -> GuardedStore:
        from recovery.adapters.nats.guarded import GuardedStreams
        from workers.jetstream import nats_server

        return GuardedStreams(
            await nats_server(self.config, self.secrets, snapshot.name, self.region),
            snapshot.streams,
            fence_file=self.folder / f"nats-{snapshot.name}.conf",
            state_folder=self.folder,
            recipients=self.config.keys.recipients,
            group=snapshot.name,
            peers={region: upstream for region, upstream in peers.items() if region != self.region},
            strength=self._strength,
        )


def _postgres_upstreams(snapshot: GroupSnapshot) -> dict[str, Upstream]:
    return {
        region.name: Upstream(region.name, region.postgres.host, region.postgres.port)
        for region in snapshot.regions
        if region.postgres is not None
    }


def _upstreams(addresses: Mapping[str, str | None]) -> dict[str, Upstream]:
    return {
        region: Upstream(region, *_host_and_port(address))
        for region, address in addresses.items()
        if address is not None
    }


def _host_and_port(address: str) -> tuple[str, int]:
    host, port = split_address(address)
    assert port is not None, "a snapshot's addresses have their port"
    return host, port
