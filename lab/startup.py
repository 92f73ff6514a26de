"""Brings a lab up: plans every server, then starts all of them side by side."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from lab import addresses, guarded, packages, postgres, search, servers
from lab.control import Owned, Supervised
from lab.errors import LabError
from lab.readiness import wait_ready
from lab.servers import Planned, Site
from lab.state import (
    ALL,
    CLIENTS,
    CONTROL,
    GUARD,
    NATS_HUB,
    OPTIONAL,
    OUTSIDE,
    SEARCH,
    WITNESS,
    DnsPlace,
    LabState,
    Link,
    PostgresPlace,
    SearchPlace,
    StandbyMode,
    TemporalPlace,
    WebhookPlace,
)

_REGIONAL = ("postgres", "nats", "redis", "s3", "app", SEARCH)
_LINKED_CONTROL = ("temporal", "dns")
_LEAF = "nats-leaf"
_FALLBACK_PARENTS = (Path("/var/tmp"), Path("/tmp"))


@dataclass(frozen=True)
class Wanted:
    """What the caller asked for."""

    regions: tuple[str, ...]
    postgres: int
    standby: StandbyMode
    services: frozenset[str]
    guarded: bool = False

    def check(self) -> None:
        """Raise LabError for a lab that cannot be."""
        known = ALL | OPTIONAL
        reserved = {WITNESS, CONTROL, OUTSIDE, *known}
        for region in self.regions:
            if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", region) or region in reserved:
                raise LabError(f"{region!r} cannot name a region: use lower-case letters, digits and '-' (region-a).")
        if not 1 <= len(self.regions) <= addresses.MOST_REGIONS or len(set(self.regions)) != len(self.regions):
            raise LabError(f"Name 1 to {addresses.MOST_REGIONS} different regions, not {', '.join(self.regions)}.")
        if unknown := self.services - known:
            raise LabError(f"Unknown services {', '.join(sorted(unknown))}. Known: {', '.join(sorted(known))}.")
        if self.standby not in ("streaming", "none"):
            raise LabError(f"standby is 'streaming' or 'none', not {self.standby!r}.")
        if self.guarded and (self.standby != "streaming" or len(self.regions) < 2):
            raise LabError("A guarded lab has two regions or more and streaming standbys.")
        if "postgres" in self.services:
            packages.postgres_package(self.postgres)
        if SEARCH in self.services and (lacking := search.lacking()) is not None:
            raise LabError(f"A lab with a search engine needs {lacking}.")

    def linked(self) -> list[tuple[str, str]]:
        """Return (place, service) of everything that is seen through the proxy."""
        pairs = [(region, service) for region in self.regions for service in _REGIONAL]
        pairs += [(WITNESS, WITNESS), *((CONTROL, service) for service in _LINKED_CONTROL)]
        found = [(place, service) for place, service in pairs if service in self.services]
        if self.guarded:
            found += [(region, GUARD) for region in self.regions]
            if "nats" in self.services:
                found.append(self.leaf_hub())
        return found

    def leaf_hub(self) -> tuple[str, str]:
        """Return (place, service) of what the leaf nodes connect to: a ring of them would be a loop, which NATS
        refuses. Of two regions it is the first; more have it outside, where the loss of no region parts the others."""
        return (self.regions[0], _LEAF) if len(self.regions) == 2 else (CONTROL, NATS_HUB)


@dataclass
class _Build:
    """The lab while it is being planned."""

    supervised: Supervised
    wanted: Wanted
    state: LabState
    ports: dict[str, int]
    home: Path
    shared_password: str = field(default_factory=lambda: secrets.token_hex(16))
    """Of what follows another region's server of its kind, in a guarded lab."""
    app_password: str = field(default_factory=lambda: secrets.token_hex(16))
    planned: dict[str, Planned] = field(default_factory=dict)

    def site(self, place: str) -> Site:
        host = addresses.host_of(self.state.network, self.state.regions, place)
        return Site(self.state.folder, place, host, self.ports)

    def host(self, place: str, service: str) -> str:
        return addresses.LOCALHOST if service == "temporal" else self.site(place).host

    def add(self, planned: Planned) -> None:
        self.planned[planned.server.name] = planned


async def bring_up(supervised: Supervised, owned: Owned, wanted: Wanted, progress: Callable[[str], None]) -> None:
    """Start everything that is wanted and return when all of it is ready. Raises LabError for the first failure."""
    state = LabState(
        folder=owned.folder,
        folder_made=True,
        created_at=datetime.now(UTC),
        supervisor_pid=owned.process.pid,
        network=owned.network,
        regions=list(wanted.regions),
        standby=wanted.standby,
        postgres_version=wanted.postgres,
        services=sorted(wanted.services),
        guarded=wanted.guarded,
        reserved_ports=list(owned.ports.values()),
    )
    build = _Build(supervised, wanted, state, owned.ports, owned.folder)
    for place in wanted.regions:
        (owned.folder / place).mkdir()
    if wanted.services & {"postgres", SEARCH}:
        await _find_home(build)
    if "postgres" in wanted.services:
        await _plan_postgres(build)
    if SEARCH in wanted.services:
        await asyncio.to_thread(_plan_search, build)
    _plan_links(build)
    _plan_regions(build)
    _plan_control(build)
    await supervised.put_state(state)
    for planned in build.planned.values():
        # A guard ends a server that it cannot fence in time; what stands on the disk makes the next one refuse writes.
        planned.server.comes_back = wanted.guarded and planned.server.service in ("redis", "nats")
        await supervised.register(planned.server, planned.launch)
    await _start_all(build, progress)


async def _find_home(build: _Build) -> None:
    """Where servers that refuse to run as root have their data."""
    user = packages.system_user()
    folder = build.state.folder
    if not await asyncio.to_thread(packages.can_enter, folder, user):
        for parent in _FALLBACK_PARENTS:
            if packages.can_enter(parent, user):
                build.home = await build.supervised.outer_folder(parent)
                break
        else:
            raise LabError(f"User {user} can enter neither {folder} nor /var/tmp: PostgreSQL cannot run as root there.")


async def _plan_postgres(build: _Build) -> None:
    user = packages.system_user()
    binaries = await asyncio.to_thread(packages.postgres_binaries, build.wanted.postgres, user, build.home)
    for region in build.wanted.regions:
        site = build.site(region)
        place = PostgresPlace(
            region=region,
            host=site.host,
            port=site.ports["postgres"],
            data_directory=build.home / region / "postgres" / "data",
            bin_directory=binaries,
            password=secrets.token_hex(16),
            run_as=user,
            backup_password=secrets.token_hex(16),
            replication_user=postgres.slot_name(region),
            replication_password=secrets.token_hex(16),
            app_password=secrets.token_hex(16),
            version=build.wanted.postgres,
        )
        if build.state.postgres:  # what is replicated or restored brings the first region's passwords with it
            first = next(iter(build.state.postgres.values()))
            passwords = first.model_dump(include={"password", "backup_password", "app_password"})
            place = place.model_copy(update=passwords)
        build.state.postgres[region] = place
        build.add(postgres.planned(site, place))


def _plan_search(build: _Build) -> None:
    for region in build.wanted.regions:
        site = build.site(region)
        place = SearchPlace(url=f"http://{site.host}:{site.ports[SEARCH]}", repository=build.home / "snapshots")
        build.state.search[region] = place
        build.add(search.planned(site, place, build.home / region / SEARCH))


def _plan_links(build: _Build) -> None:
    state = build.state
    for vantage in (*state.regions, OUTSIDE, CLIENTS):
        for place, service in build.wanted.linked():
            if vantage != place:
                port = build.ports["s3" if service == WITNESS else service]
                state.links.append(
                    Link(
                        vantage=vantage,
                        place=place,
                        service=service,
                        host=addresses.link_host(state.network, state.regions, vantage, place),
                        port=port,
                        target_host=build.host(place, service),
                        target_port=port,
                    )
                )
    if state.links:
        file = state.folder / "links.json"
        file.write_text(json.dumps([link.model_dump() for link in state.links]))
        first = state.links[0]
        build.add(servers.proxy(build.site(CONTROL), file, (first.host, first.port)))


def _plan_regions(build: _Build) -> None:
    state, services = build.state, build.wanted.services
    for region in state.regions:
        site = build.site(region)
        if build.wanted.guarded:
            state.guards[region] = f"http://{site.host}:{site.ports[GUARD]}"
        if "nats" in services:
            state.nats[region] = f"nats://{site.host}:{site.ports['nats']}"
            build.add(_guarded_nats(build, site) if build.wanted.guarded else servers.nats(site))
        if "redis" in services:
            password = build.shared_password
            state.redis[region] = f"redis://:{password}@{site.host}:{site.ports['redis']}/0"
            build.add(servers.redis(site, password, build.wanted.guarded))
        if "s3" in services:
            state.s3[region] = servers.s3_place(site)
            build.add(servers.s3(site, state.s3[region]))
        if "app" in services:
            database = state.postgres[region].dsn("app") if region in state.postgres else None
            state.app[region] = f"http://{site.host}:{site.ports['app']}"
            build.add(servers.application(site, database, state.redis.get(region)))


def _guarded_nats(build: _Build, site: Site) -> Planned:
    place = guarded.nats_place(site, build.shared_password, build.app_password)
    build.state.jetstream[site.name] = place
    ways = [
        link
        for link in build.state.links
        if link.vantage == site.name and (link.place, link.service) == build.wanted.leaf_hub()
    ]
    return guarded.nats_server(site, place, build.shared_password, [(link.host, link.port) for link in ways])


def _plan_control(build: _Build) -> None:
    state, services = build.state, build.wanted.services
    if WITNESS in services:
        site = build.site(WITNESS)
        state.s3[WITNESS] = servers.s3_place(site)
        build.add(servers.s3(site, state.s3[WITNESS]))
    site = build.site(CONTROL)
    if state.jetstream and build.wanted.leaf_hub() == (CONTROL, NATS_HUB):
        build.add(guarded.nats_hub(site, build.shared_password))
    if "temporal" in services:
        state.temporal = TemporalPlace(
            address=f"{addresses.LOCALHOST}:{site.ports['temporal']}",
            ui_address=f"http://{addresses.LOCALHOST}:{site.ports['temporal-ui']}",
            database_file=site.data("temporal") / "temporal.db",
        )
        build.add(servers.temporal(site, state.temporal))
    if "dns" in services:
        state.dns = DnsPlace(
            host=site.host,
            port=site.ports["dns"],
            zone=servers.ZONE,
            tsig_key_name="dr-key",
            tsig_secret=servers.new_tsig_secret(),
        )
        build.add(servers.dns(site, state.dns, _first_answer(build)))
    if "webhook" in services:
        state.webhook = WebhookPlace(
            url=f"http://{site.host}:{site.ports['webhook']}/notify",
            file=site.data("webhook") / "notifications.jsonl",
        )
        build.add(servers.webhook(site, state.webhook.file))


def _first_answer(build: _Build) -> str:
    """What the shop's names say at first; customers of a guarded lab reach the regions through links of their own."""
    first = build.state.regions[0]
    if not build.wanted.guarded:
        return build.site(first).host
    return addresses.link_host(build.state.network, build.state.regions, CLIENTS, first)


async def _start_all(build: _Build, progress: Callable[[str], None]) -> None:
    proxy_ready = asyncio.Event()

    async def one(name: str) -> None:
        await _start(build, name)
        progress(f"{name} is ready at {build.planned[name].server.address}")
        if name == f"{CONTROL}/proxy":
            proxy_ready.set()

    try:
        async with asyncio.TaskGroup() as tasks:
            for name, planned in build.planned.items():
                if planned.server.service != "postgres":
                    tasks.create_task(one(name))
            if build.state.postgres:
                tasks.create_task(_start_databases(build, one, proxy_ready))
        if build.state.jetstream:
            await guarded.make_streams(build.state)
    except BaseExceptionGroup as group:
        failures = [error for error in group.exceptions if isinstance(error, LabError)]
        raise failures[0] if failures else group from None


async def _start(build: _Build, name: str) -> None:
    await build.supervised.start(name)
    await wait_ready(build.state.folder, build.state, build.planned[name].server)


async def _start_databases(build: _Build, one: Callable[[str], Awaitable[None]], proxy_ready: asyncio.Event) -> None:
    state = build.state
    first, *others = state.regions
    primary = state.postgres[first]
    await postgres.make_primary(build.supervised, build.site(first), primary, build.wanted.guarded)
    await one(f"{first}/postgres")
    streaming = others if build.wanted.standby == "streaming" else []
    members = list(state.postgres.values()) if build.wanted.guarded else [state.postgres[name] for name in streaming]
    await postgres.make_roles_and_database(primary, members, streaming)
    for region in others:
        if region not in streaming:
            await asyncio.to_thread(postgres.prepare_data_folder, state.postgres[region])
    if not streaming:
        return
    await proxy_ready.wait()
    async with asyncio.TaskGroup() as tasks:
        for region in streaming:
            tasks.create_task(_start_standby(build, first, region, one))


async def _start_standby(build: _Build, first: str, region: str, one: Callable[[str], Awaitable[None]]) -> None:
    link = next(x for x in build.state.links if (x.vantage, x.place, x.service) == (region, first, "postgres"))
    place = build.state.postgres[region]
    await postgres.make_standby(build.supervised, build.site(region), place, link)
    await one(f"{region}/postgres")
