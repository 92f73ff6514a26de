"""The lab itself: start it, attach to it, ask where things are, break them, end it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from lab import faults, guarded, startup
from lab.belongings import processes_of
from lab.control import Owned, Supervised, start_supervisor
from lab.errors import LabError, LabUnreachableError
from lab.packages import check_platform
from lab.processes import family, postmaster_pid, tree
from lab.state import (
    ALL,
    COMPANION,
    SEARCH,
    STATE_FILE,
    WITNESS,
    Delay,
    DnsPlace,
    LabState,
    NatsPlace,
    PostgresPlace,
    S3Place,
    SearchPlace,
    StandbyMode,
    TemporalPlace,
    WebhookPlace,
)

_Place = TypeVar("_Place")


class Lab:
    """A running lab, described by `<folder>/lab.json`.

    `start` owns the lab: it ends with this process, however this process ends, unless `detach` was called. `attach`
    reaches a lab that runs already. Every method that reaches a process raises LabError when the lab is gone.
    """

    def __init__(self, folder: Path, owned: Owned | None = None) -> None:
        self.folder = folder
        self._owned = owned
        self._supervised = Supervised(folder)

    # -- life -------------------------------------------------------------------------------------------------

    @classmethod
    async def start(
        cls,
        folder: Path | None = None,
        *,
        regions: Sequence[str] = ("region-a", "region-b"),
        postgres: int = 16,
        standby: StandbyMode = "streaming",
        services: Collection[str] = ALL,
        guarded: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> Lab:
        """Start the servers and return once all of them answer.

        `folder`: where (default: a new temporary folder). `standby="none"`: the regions after the first have a place
        for PostgreSQL and no server yet. `guarded`: Redis and NATS refuse writes until a guard makes them primaries,
        and so does PostgreSQL from `hand_over` on. "search" (OpenSearch) runs only where `services` names it.
        `progress` is called with one line per server that is ready.
        Raises LabError naming the server that failed, with the end of its log; nothing is left running then.
        """
        check_platform()
        plan = startup.Wanted(tuple(regions), postgres, standby, frozenset(services), guarded)
        plan.check()
        owned = await start_supervisor(folder, regions)
        lab = cls(owned.folder, owned)
        try:
            await startup.bring_up(lab._supervised, owned, plan, progress or (lambda line: None))
        except BaseException:
            await asyncio.shield(lab.stop())
            raise
        return lab

    @classmethod
    def attach(cls, folder: Path) -> Lab:
        """Reach the lab that runs in `folder`. Raises LabError when there is none."""
        lab = cls(folder.resolve())
        lab.describe()
        return lab

    async def detach(self) -> None:
        """Let the lab go on after this process ends; `stop` of an attached Lab ends it."""
        await self._supervised.detach()
        self._owned = None

    async def stop(self) -> None:
        """End every process of the lab and remove its folder (or, if it was there before, what is in it)."""
        await self._supervised.end()
        if self._owned is not None:
            await self._owned.wait()

    async def __aenter__(self) -> Lab:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- description ------------------------------------------------------------------------------------------

    def describe(self) -> LabState:
        """Return the lab as it is now: addresses, processes, states."""
        state = self._read()
        children = family()
        for server in state.servers:
            root = server.pid
            if server.service == "postgres" and server.data_directory is not None:
                running = postmaster_pid(server.data_directory)
                if running is not None:
                    root = running
                    server.state = "frozen" if server.state == "frozen" else "running"
            if server.service == COMPANION and (found := processes_of(server, None, None)):
                root, server.state = found[0], "frozen" if server.state == "frozen" else "running"
            server.pid = root if server.state in ("running", "frozen") else None
            server.pids = [] if server.pid is None else tree(server.pid, children)
        return state

    def _read(self) -> LabState:
        try:
            return LabState.model_validate_json((self.folder / STATE_FILE).read_bytes())
        except FileNotFoundError:
            raise LabUnreachableError(f"There is no lab in {self.folder}. Start one with: drctl lab up") from None
        except ValueError:
            raise LabUnreachableError(
                f"The lab in {self.folder} is still starting, or was made by another version."
            ) from None

    # -- addresses --------------------------------------------------------------------------------------------

    def postgres(self, region: str) -> PostgresPlace:
        """Where the region's PostgreSQL is or, with `standby="none"`, is to be restored to."""
        return _of_region(self._read().postgres, region, "postgres")

    def nats(self, region: str) -> str:
        """The URL of the region's NATS server."""
        return _of_region(self._read().nats, region, "nats")

    def redis(self, region: str) -> str:
        """The URL of the region's Redis, with its password."""
        return _of_region(self._read().redis, region, "redis")

    def s3(self, region: str) -> S3Place:
        """The region's S3 store."""
        return _of_region(self._read().s3, region, "s3")

    def search(self, region: str) -> SearchPlace:
        """The region's OpenSearch, in a lab that was started with the service "search"."""
        return _of_region(self._read().search, region, SEARCH)

    def witness(self) -> S3Place:
        """The S3 store outside both regions."""
        return _of_region(self._read().s3, WITNESS, "witness")

    def jetstream(self, region: str) -> NatsPlace:
        """The region's NATS with its users, in a guarded lab."""
        return _of_region(self._read().jetstream, region, "jetstream")

    def guard(self, region: str) -> str:
        """The URL at which the region's guard listens, in a guarded lab."""
        return _of_region(self._read().guards, region, "guard")

    def app(self, region: str) -> str:
        """The URL of the region's shop application."""
        return _of_region(self._read().app, region, "app")

    def temporal(self) -> TemporalPlace:
        return _present(self._read().temporal, "temporal")

    def dns(self) -> DnsPlace:
        return _present(self._read().dns, "dns")

    def webhook(self) -> WebhookPlace:
        return _present(self._read().webhook, "webhook")

    def seen_from(self, vantage: str, region: str, service: str) -> tuple[str, int]:
        """Return (host, port) at which `vantage` (a region or "outside") reaches a service of `region`.

        `region` may be "witness" (service "witness") or "control" ("temporal", "dns"). Only these addresses are cut by
        `partition`. Inside its own region a service is seen at its own address. Of a guarded lab's regions "guard" and
        "nats-leaf" (where leaf nodes connect) can be seen, too.
        """
        state = self._read()
        if vantage == region:
            return _own_address(state, region, service)
        for link in state.links:
            if (link.vantage, link.place, link.service) == (vantage, region, service):
                return link.host, link.port
        known = sorted({f"{link.vantage} -> {link.place} {link.service}" for link in state.links})
        raise LabError(f"{vantage!r} has no way to {service!r} of {region!r}. Known: {', '.join(known)}.")

    # -- faults -----------------------------------------------------------------------------------------------

    async def kill(self, region: str, service: str | None = None, *, with_disks: bool = False) -> None:
        """SIGKILL a service, or the whole region, all at once as a power cut would; `with_disks` removes its data.

        Servers outside the regions are named alone: `kill("temporal")`. A PostgreSQL that somebody else started on the
        region's data directory is killed too. Returns when the processes are gone.
        """
        names = [server.name for server in faults.chosen(self._read(), region, service)]
        await self._supervised.kill(names, with_disks)

    async def freeze(self, region: str, service: str | None = None) -> None:
        """SIGSTOP a service or a region: connections stay open and nothing answers."""
        await self._supervised.freeze([server.name for server in faults.chosen(self._read(), region, service)])

    async def thaw(self, region: str, service: str | None = None) -> None:
        """SIGCONT what was frozen."""
        await self._supervised.thaw([server.name for server in faults.chosen(self._read(), region, service)])

    async def restart(self, region: str, service: str | None = None) -> None:
        """End a service (if it runs), start it again on its data and wait until it is ready."""
        await faults.restart(self._supervised, self._read(), region, service)

    async def partition(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Let two places hear nothing of each other, until `heal`.

        Places are the regions, "outside", "clients", "witness" and "control".
        `one_way`: only what `one` sends to `other` is lost. Acts on the addresses of `seen_from`, and so on streaming
        replication.
        """
        state = self._read()
        faults.check_places(state, one, other)
        network = faults.Network.of(state)
        if one_way:
            network = replace(network, one_way=sorted({*network.one_way, (one, other)}))
        else:
            network = replace(network, cut=sorted({*network.cut, (min(one, other), max(one, other))}))
        await faults.put_network(self._supervised, network)

    async def isolate(self, place: str, *, keep: Collection[str] = ()) -> None:
        """Cut a place off from all others but those of `keep`: a region that is lost without a word."""
        state = self._read()
        others = {
            end for link in state.links for end in (link.vantage, link.place) if place in (link.vantage, link.place)
        }
        cut = {(min(place, other), max(place, other)) for other in others - {place, *keep}}
        if not cut:
            faults.check_places(state, place, place)
        await faults.put_network(
            self._supervised, replace(faults.Network.of(state), cut=sorted({*state.partitions, *cut}))
        )

    async def slow(self, place: str, service: str | None = None, *, seconds: float) -> None:
        """Let what a place (or one service of it) sends and gets arrive `seconds` late, each way; 0 ends it.

        Acts on the addresses of `seen_from`, from every other place.
        """
        if not 0 <= seconds <= faults.SLOWEST_SECONDS:
            raise LabError(f"A link is 0 to {faults.SLOWEST_SECONDS:g} s late, not {seconds:g}.")
        state = self._read()
        faults.check_linked(state, place, service)
        others = [delay for delay in state.delays if (delay.place, delay.service) != (place, service)]
        if seconds:
            others.append(Delay(place=place, service=service, seconds=seconds))
        await faults.put_network(self._supervised, replace(faults.Network.of(state), delays=others))

    async def heal(self, one: str | None = None, other: str | None = None) -> None:
        """End every partition and delay, or the partition between two places."""
        network = faults.Network()
        if one is not None and other is not None:
            network = faults.Network.of(self._read()).without(one, other)
        await faults.put_network(self._supervised, network)

    async def hand_over(self) -> None:
        """Give PostgreSQL to the guards: every next start is a standby's, and none is the lab's."""
        await guarded.hand_over(self._supervised, self._read())

    async def corrupt(self, region: str, what: faults.Corruption, **which: Any) -> str:
        """Damage stored data; returns a sentence that says what was done.

        "postgres-page": `table` ("orders"), `block` (0), `offset` in the page (4096): one bit flipped on disk.
        "s3-object": `key` (default: the largest object), `offset` (default: the middle), `missing` (False: flip a bit;
        True: leave the byte out).
        """
        return await faults.corrupt(self._read(), region, what, which)

    # -- processes beside the servers -------------------------------------------------------------------------

    async def attend(
        self,
        place: str,
        service: str,
        arguments: Sequence[str],
        *,
        ready: str,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Start a process of the product that belongs to a place as its servers do, and wait for its ready line.

        `service` is "guard", "monitor" or "worker"; `arguments` follow the Python interpreter; `ready` are words of its
        log; `folder` holds its state, and is lost with the region's disks. `kill`, `freeze`, `thaw` and `restart` of
        the region act on it. A second call starts it anew, as it was registered.
        """
        state = self._read()
        await guarded.attend(self._supervised, state, place, service, arguments, ready, environment or {}, folder)

    @property
    def supervised(self) -> Supervised:
        """The lab's supervisor, for processes that are to end with the lab."""
        return self._supervised


def _own_address(state: LabState, region: str, service: str) -> tuple[str, int]:
    for link in state.links:
        if (link.place, link.service) == (region, service):
            return link.target_host, link.target_port
    (server,) = faults.chosen(state, region, service)
    return server.host, server.port


def _of_region(places: dict[str, _Place], region: str, service: str) -> _Place:
    if region in places:
        return places[region]
    if not places:
        raise LabError(f"The lab was started without {service}.")
    raise LabError(f"There is no {service} in {region!r}. Known: {', '.join(sorted(places))}.")


def _present(place: _Place | None, service: str) -> _Place:
    if place is None:
        raise LabError(f"The lab was started without {service}.")
    return place
