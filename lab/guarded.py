"""What a guarded lab has beyond others: stores that are no primaries by themselves, and the product's own processes.

At rest PostgreSQL has `standby.signal` (after `hand_over`), Redis is a replica of nowhere, and what the application may
publish to NATS stands in a file that the configuration includes and that denies everything.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import nats
from nats.js.api import ConsumerConfig, ExternalStream, StreamConfig, StreamSource

from lab import packages
from lab.belongings import mark_of
from lab.control import Supervised, python_environment
from lab.errors import LabError
from lab.faults import chosen
from lab.postgres import STANDBY_SIGNAL
from lab.readiness import wait_ready
from lab.servers import Planned, Site, write_private
from lab.state import (
    ATTENDANTS,
    COMPANION,
    FENCED,
    GUARD,
    MARK,
    NATS_HUB,
    STATE_FILE,
    LabState,
    NatsPlace,
    PostgresPlace,
    Server,
)
from lab.supervisor import Launch

STREAMS = {"ORDERS": ["shop.orders.>"], "EVENTS": ["shop.events.>"]}
CONSUMER = "fulfilment"
# JetStream's own subjects are all that crosses a leaf node. With the application's a stream of the same name on the
# other side would take each message a second time, under a sequence of its own.
_LEAF = {"user": "leaf", "permissions": {"publish": ["$JS.>", "$JSC.>"], "subscribe": ["$JS.>", "$JSC.>"]}}
_EVERYTHING = {"publish": ">", "subscribe": ">"}
_QUICK = "ping_interval: 2s\nping_max: 2\n"  # a peer that is gone without a word is noticed in seconds


# -- NATS -------------------------------------------------------------------------------------------------------------


def nats_hub(site: Site, leaf_password: str) -> Planned:
    """NATS without streams, where the leaf nodes of all regions meet: the loss of one leaves the others together."""
    configuration = site.folder / f"{NATS_HUB}.conf"
    leaf = {"listen": f"{site.host}:{site.ports[NATS_HUB]}"}
    write_private(
        configuration,
        f"server_name: {NATS_HUB}\nlisten: {site.host}:{site.ports['nats']}\n{_QUICK}"
        f"authorization {{ users: {json.dumps([_leaf_user(leaf_password)])} }}\nleafnodes {json.dumps(leaf)}\n",
    )
    argv = [str(packages.script("nats-server")), "-c", str(configuration)]
    server = site.server(NATS_HUB, site.ports[NATS_HUB], None)
    return Planned(server, Launch(argv=argv, env=site.environment(), cwd=site.folder))


def nats_server(site: Site, place: NatsPlace, leaf_password: str, hubs: Sequence[tuple[str, int]]) -> Planned:
    """NATS with a JetStream domain of its own and leaf nodes to the others.

    `hubs`: addresses at which this region sees the leaf port of those that it connects to; a region that others connect
    to has none.
    """
    data, port = site.data("nats"), site.ports["nats"]
    write_private(place.fence_file, FENCED)
    users = [
        {"user": place.app_user, "password": place.app_password},
        {"user": f"{place.user}-probe", "password": place.password},
        {"user": place.user, "password": place.password, "permissions": _EVERYTHING},
        _leaf_user(leaf_password),
    ]
    leaf = {
        "listen": f"{site.host}:{site.ports['nats-leaf']}",
        "reconnect": 1,
        "remotes": [{"url": f"nats://{_LEAF['user']}:{leaf_password}@{host}:{leaf_port}"} for host, leaf_port in hubs],
    }
    configuration = site.folder / site.name / "nats.conf"
    write_private(
        configuration,
        f"server_name: {site.name}\nlisten: {site.host}:{port}\nhttp: {site.host}:{site.ports['nats-monitor']}\n"
        f"pid_file: {json.dumps(str(place.pid_file))}\n{_QUICK}"
        f"jetstream {{ store_dir: {json.dumps(str(data))}, max_file_store: 10GB, domain: {place.domain} }}\n"
        # The path of an include is one below the folder of the file that includes it.
        f'authorization {{\n  include "{place.fence_file.name}"\n  users: {json.dumps(users)}\n}}\n'
        f"leafnodes {json.dumps(leaf)}\n",
    )
    argv = [str(packages.script("nats-server")), "-c", str(configuration)]
    return Planned(site.server("nats", port, data), Launch(argv=argv, env=site.environment(), cwd=data))


def _leaf_user(password: str) -> dict[str, object]:
    return {**_LEAF, "password": password}


def nats_place(site: Site, password: str, app_password: str) -> NatsPlace:
    """Every region has the same users: what moves from one to another finds its way in."""
    folder = site.folder / site.name
    return NatsPlace(
        url=f"nats://{site.host}:{site.ports['nats']}",
        domain=site.name,
        user="recovery",
        password=password,
        app_user="app",
        app_password=app_password,
        fence_file=folder / "nats-fence.conf",
        pid_file=folder / "nats.pid",
    )


def lend_fence(place: NatsPlace, guards_file: Path) -> None:
    """Let the server include the file that its guard writes, which begins as the fence that stands."""
    place.fence_file.unlink(missing_ok=True)
    place.fence_file.symlink_to(guards_file)
    place.fence_anew()


async def make_streams(state: LabState) -> None:
    """The first region's streams with a consumer, and their mirrors in the others. All limits, no work queues."""
    first, *others = state.regions
    client = await nats.connect(state.jetstream[first].admin_url)
    try:
        context = client.jetstream()
        for name, subjects in STREAMS.items():
            await context.add_stream(StreamConfig(name=name, subjects=subjects))
            await context.add_consumer(name, ConsumerConfig(durable_name=CONSUMER))
    finally:
        await client.close()
    origin = ExternalStream(api=f"$JS.{state.jetstream[first].domain}.API")
    for region in others:
        client = await nats.connect(state.jetstream[region].admin_url)
        try:
            for name in STREAMS:
                mirror = StreamSource(name=name, external=origin)
                await client.jetstream().add_stream(StreamConfig(name=name, mirror=mirror))
        finally:
            await client.close()


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


async def hand_over(supervised: Supervised, state: LabState) -> None:
    """Every next start of a PostgreSQL is a standby's, and not the lab's. The first region's primary runs on: its guard
    finds it there and claims the group.

    Raises LabError for a lab that is not guarded.
    """
    if not state.guarded:
        raise LabError("Only a lab that was started with guarded=True can be handed over to guards.")
    for place in state.postgres.values():
        await asyncio.to_thread(_make_standby, place)
    await supervised.hand_over()


def _make_standby(place: PostgresPlace) -> None:
    signal_file = place.data_directory / STANDBY_SIGNAL
    signal_file.touch(mode=0o600)
    if place.run_as is not None:
        shutil.chown(signal_file, place.run_as)


# -- the product's processes ------------------------------------------------------------------------------------------


async def attend(
    supervised: Supervised,
    state: LabState,
    place: str,
    service: str,
    arguments: Sequence[str],
    ready: str,
    environment: Mapping[str, str],
    folder: Path | None,
) -> None:
    """See ``Lab.attend``."""
    if service not in ATTENDANTS:
        raise LabError(f"A place is attended to by {', '.join(sorted(ATTENDANTS))}, not by {service!r}.")
    name = f"{place}/{service}"
    known = {server.name for server in state.servers}
    if name not in known:
        planned = _attendant(state, place, service, arguments, ready, environment)
        planned.server.data_directory = folder
        await supervised.register(planned.server, planned.launch)
        if service == GUARD:
            await supervised.register(_companion(planned.server), planned.launch)
    (server,) = chosen(await asyncio.to_thread(_read, state), place, service)
    await supervised.kill([name], with_disks=False)
    await supervised.start(name)
    await wait_ready(state.folder, state, server)


def _attendant(
    state: LabState, place: str, service: str, arguments: Sequence[str], ready: str, environment: Mapping[str, str]
) -> Planned:
    host, port = "", 0
    if service == GUARD:
        at = urlsplit(state.guards[place])
        host, port = at.hostname or "", at.port or 0
    site = Site(state.folder, place, host, {})
    server = site.server(service, port, None).model_copy(update={"ready": ready})
    variables = {**site.environment(), **python_environment(), **environment, MARK: mark_of(server)}
    launch = Launch(argv=[sys.executable, *arguments], env=variables, cwd=state.folder / "tmp")
    return Planned(server, launch)


def _companion(guard: Server) -> Server:
    """The guard starts it; the lab finds it, to kill or freeze it alone."""
    name = f"{guard.region}/{COMPANION}"
    return guard.model_copy(update={"name": name, "service": COMPANION, "port": 0, "ready": None, "state": "absent"})


def _read(state: LabState) -> LabState:
    return LabState.model_validate_json((state.folder / STATE_FILE).read_bytes())


__all__ = [
    "CONSUMER",
    "STREAMS",
    "attend",
    "hand_over",
    "lend_fence",
    "make_streams",
    "nats_place",
    "nats_server",
]
