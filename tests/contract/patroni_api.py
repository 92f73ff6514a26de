"""Patroni's REST API, as far as a recovery uses it, with the answers that Patroni 4.1 gives.

As there, ``GET /cluster`` shows roles by the lock and the configuration, at once, while the member's own server, which
``GET /patroni`` speaks of, follows later.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.contract.serving import serving

USER, PASSWORD = "recovery", "patroni-password"
UNHEARD = 1.0  # seconds, longer than anybody waits for an answer here


@dataclass
class Api:
    """One cluster.

    ``looks``: how many answers a change of the lock, and then one of the servers, takes. ``silent``: members that do
    not answer for themselves. ``forgotten``: members that the cluster lists no more.
    """

    scope: str = "shop"
    leader: str | None = None
    writing: str | None = None
    members: dict[str, dict[str, Any]] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=lambda: {"ttl": 30})
    paused: bool = False
    looks: int = 2
    faults: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    orders: list[tuple[str, Any]] = field(default_factory=list)
    _coming: str | None = None
    _left: int = 0
    _server: str | None = None
    _server_left: int = 0

    @property
    def address(self) -> str:
        return next(iter(self.addresses.values()))

    def follow(self, host: str, port: int) -> None:
        """Begins as a standby cluster."""
        self.config["standby_cluster"] = {"host": host, "port": port}
        self.writing = None

    def _moves_to(self, name: str | None) -> None:
        self._server, self._server_left = name, self.looks

    async def cluster(self, request: Request) -> Response:
        if self._coming is not None:
            self._left -= 1
            if self._left <= 0:
                self.leader, self._coming = self._coming, None
                self._moves_to(self.leader)
        standby = "standby_cluster" in self.config
        found = []
        for name, member in self.members.items():
            if name in self.forgotten:
                continue
            leads = name == self.leader
            role = ("standby_leader" if standby else "leader") if leads else "replica"
            state = ("streaming" if standby else "running") if leads else member["state"]
            answer = {"host": "127.0.0.1", "port": 5432, "timeline": 3} | member | {"role": role, "state": state}
            if not leads:
                answer |= {"lag": member.get("lag", 0), "lsn": "0/3000148"}
            found.append(answer)
        answer = {"members": found, "scope": self.scope}
        return JSONResponse(answer | ({"pause": True} if self.paused else {}))

    async def patroni(self, request: Request) -> Response:
        if self._server_left > 0:
            self._server_left -= 1
            if self._server_left == 0:
                self.writing = self._server
        name = next(name for name, address in self.addresses.items() if address.endswith(f":{request.url.port}"))
        if name in self.silent:
            await asyncio.sleep(UNHEARD)
        role = "primary" if name == self.writing else "replica"
        return JSONResponse({"state": "running", "role": role, "timeline": 4, "patroni": {"name": name}})

    async def get_config(self, request: Request) -> Response:
        return JSONResponse(self.config)

    async def patch_config(self, request: Request) -> Response:
        if refusal := await self._refusal(request):
            return refusal
        change = await request.json()
        self.orders.append(("patch", change))
        for key, value in change.items():
            if value is None:
                self.config.pop(key, None)
            else:
                self.config[key] = value
        self._moves_to(None if "standby_cluster" in self.config else self.leader)
        return JSONResponse(self.config)

    async def switchover(self, request: Request) -> Response:
        return await self._move(request, "switchover")

    async def failover(self, request: Request) -> Response:
        return await self._move(request, "failover")

    def begin_moving_to(self, name: str) -> None:
        self._coming, self._left = name, self.looks

    async def _move(self, request: Request, action: str) -> Response:
        if refusal := await self._refusal(request):
            return refusal
        asked = await request.json()
        self.orders.append((action, asked))
        leader, candidate = asked.get("leader"), asked.get("candidate")
        if action == "failover" and not candidate:
            return PlainTextResponse("Failover could be performed only to a specific candidate", 400)
        if action == "switchover" and not leader:
            return PlainTextResponse("Switchover could be performed only from a specific leader", 400)
        if leader == candidate:
            return PlainTextResponse("Switchover target and source are the same", 400)
        if leader and leader != self.leader:
            return PlainTextResponse("leader name does not match", 412)
        if candidate not in self.members:
            return PlainTextResponse("candidate does not exists", 412)
        if "impossible" in self.faults:
            return PlainTextResponse(f"{action} is not possible: no good candidates have been found", 412)
        self.begin_moving_to(candidate)
        if "lose the answer" in self.faults:
            await asyncio.sleep(UNHEARD)
        if "status unknown" in self.faults:
            return PlainTextResponse(f"{action.title()} status unknown", 503)
        return PlainTextResponse(f'Successfully {action[:-4]}ed over to "{candidate}"')

    async def _refusal(self, request: Request) -> Response | None:
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        given = request.headers.get("authorization")
        if given is None:
            return PlainTextResponse("no auth header received", 401)
        return None if given == expected else PlainTextResponse("not authenticated", 401)


@asynccontextmanager
async def patroni(*names: str, certificate: Path | None = None, key: Path | None = None) -> AsyncIterator[Api]:
    """A cluster of these members, each at an address of its own; the first is its primary."""
    api = Api(leader=names[0], writing=names[0])
    application = Starlette(
        routes=[
            Route("/cluster", api.cluster, methods=["GET"]),
            Route("/patroni", api.patroni, methods=["GET"]),
            Route("/config", api.get_config, methods=["GET"]),
            Route("/config", api.patch_config, methods=["PATCH"]),
            Route("/switchover", api.switchover, methods=["POST"]),
            Route("/failover", api.failover, methods=["POST"]),
        ]
    )
    async with AsyncExitStack() as stack:
        for name in names:
            address = await stack.enter_async_context(serving(application, certificate=certificate, key=key))
            api.addresses[name] = address
            api.members[name] = {"name": name, "state": "streaming", "api_url": f"{address}/patroni"}
        yield api
