"""Guards over HTTP: ``recovery.ports.guard.Guards`` and ``PeerGuards``. See ``recovery.guard.server`` for the protocol.

    async with GuardClient({"us-east-1": "https://guard.us-east-1.example.com:7450", ...}, token) as guards:
        proof = await guards.fence(order)

A guard that does not take the connection is known within ``CONNECT`` seconds. A long order is asked for again until it
is answered or its own deadline has passed; each request attaches to the same order.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from recovery import errors
from recovery.adapters.trust import trusted
from recovery.domain.guarding import GuardOrder, GuardStatus, Promotion, Stopped, StoreState
from recovery.domain.ownership import FenceProof, OwnershipRecord
from recovery.errors import BadInput, NotFound, RecoveryError, Refused, Unreachable

Answer = TypeVar("Answer", bound=BaseModel)

CONNECT = 1.0  # seconds
STATUS = 4.0
ATTACHED = 5.0  # one request of a long order; the guard itself answers after two
SHORT = 0.8
RETRY = 0.1


class GuardClient:
    """Connections are opened at the first use and kept.

    Args:
        addresses: region -> the guard's address as seen from here.
        token: the bearer token of all guards.
        ca_file: PEM file of the authorities that https addresses are trusted by; None: the system's.
    """

    def __init__(self, addresses: Mapping[str, str], token: str, *, ca_file: str | None = None) -> None:
        self._addresses = dict(addresses)
        self._token = token
        self._ca_file = ca_file
        self._opened: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.aclose()
            self._opened = None

    # -- Guards -------------------------------------------------------------------------------------------------------

    async def status(self, region: str, group: str | None = None) -> GuardStatus:
        found = await self._request("GET", region, "/status", STATUS, params={"group": group} if group else None)
        return _read(found, GuardStatus)

    async def fence(self, order: GuardOrder) -> FenceProof:
        return _read(await self._long(order.target, "/fence", order), FenceProof)

    async def unfence(self, order: GuardOrder) -> OwnershipRecord:
        """Asked of the target's guard; when that does not answer, of the source's: both may take a request back."""
        try:
            return _read(await self._request("POST", order.target, "/unfence", 15.0, body=order), OwnershipRecord)
        except (Unreachable, NotFound):
            return _read(await self._request("POST", order.source, "/unfence", 15.0, body=order), OwnershipRecord)

    async def promote(self, order: GuardOrder) -> Promotion:
        return _read(await self._long(order.target, "/promote", order), Promotion)

    async def follow(self, region: str, order: GuardOrder) -> StoreState:
        return _read(await self._long(region, "/follow", order), StoreState)

    # -- PeerGuards ---------------------------------------------------------------------------------------------------

    async def promise(self, region: str, group: str, epoch: int, holder: str, ttl: float) -> bool:
        asked = _Asked(group=group, epoch=epoch, holder=holder, ttl=ttl)
        answer = await self._request("POST", region, "/promise", max(SHORT, ttl / 5), body=asked)
        return answer.json().get("promised") is True

    async def stop_receiving(self, region: str, order: GuardOrder) -> Stopped:
        return _read(await self._long(region, "/stop-receiving", order), Stopped)

    async def nudge(self, region: str, group: str) -> None:
        await self._request("POST", region, "/nudge", SHORT, body=_Nudge(group=group))

    # -- requests -----------------------------------------------------------------------------------------------------

    async def _long(self, region: str, path: str, order: GuardOrder) -> httpx.Response:
        loop = asyncio.get_running_loop()
        until = loop.time() + order.deadline
        while True:
            left = until - loop.time()
            if left <= 0:
                raise Unreachable(f"the guard of {region} did not carry {path[1:]} out within {order.deadline:g} s")
            asked = order.model_copy(update={"deadline": max(left, 0.1)})
            try:
                # A little beyond the order's deadline: the guard then says what it was waiting for.
                answer = await self._request("POST", region, path, min(ATTACHED, left + 1.0), body=asked)
            except _Lost as lost:
                if loop.time() + RETRY >= until:
                    raise Unreachable(str(lost)) from None
                await asyncio.sleep(RETRY)
                continue
            if answer.status_code != 202:
                return answer

    async def _request(
        self,
        method: str,
        region: str,
        path: str,
        seconds: float,
        *,
        body: BaseModel | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        if region not in self._addresses:
            known = ", ".join(self._addresses) or "none"
            raise NotFound(f"region {region} has no guard: set regions.{region}.guard (guards are known of: {known})")
        where = f"the guard of {region} at {self._addresses[region]}"
        client = await self._client()
        request = client.build_request(
            method,
            self._addresses[region].rstrip("/") + path,
            params=dict(params) if params else None,
            # Without what has its default: a guard of an earlier version takes every order that asks nothing new.
            content=body.model_dump_json(exclude_defaults=True) if body is not None else None,
        )
        try:
            async with asyncio.timeout(seconds):
                answer = await _sent(client, request)
        except TimeoutError:
            raise _Lost(f"{where} did not answer within {seconds:g} s") from None
        except httpx.ConnectError as error:
            raise Unreachable(f"{where} takes no connection: {error}") from None
        except httpx.ConnectTimeout:
            raise Unreachable(f"{where} takes no connection within {CONNECT:g} s") from None
        except httpx.HTTPError as error:
            raise _Lost(f"{where} did not answer: {error or type(error).__name__}") from None
        if answer.status_code >= 400:
            raise _error(where, answer)
        return answer

    async def _client(self) -> httpx.AsyncClient:
        if self._opened is None:
            trust = await asyncio.to_thread(self._trust, self._ca_file)
            self._opened = httpx.AsyncClient(
                headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
                timeout=httpx.Timeout(None, connect=CONNECT),
                limits=httpx.Limits(max_connections=32, max_keepalive_connections=8, keepalive_expiry=20),
                verify=trust,
                trust_env=False,
            )
        return self._opened

    @staticmethod
    def _trust(ca_file: str | None) -> ssl.SSLContext:
        if ca_file is None:
            return trusted()
        try:
            return ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise BadInput(f"guards.ca_file {ca_file} cannot be used: {error}") from None


class _Lost(Unreachable):
    """The connection was made, and then no answer came: the request may have been heard."""

    @property
    def kind(self) -> str:
        return Unreachable.__name__


class _Asked(BaseModel):
    group: str
    epoch: int
    holder: str
    ttl: float


class _Nudge(BaseModel):
    group: str


async def _sent(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """A connection that was kept may be closed by now: then once more on a new one. All requests may come twice."""
    try:
        return await client.send(request)
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
        return await client.send(request)


def _read(answer: httpx.Response, model: type[Answer]) -> Answer:
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as error:
        raise BadInput(
            f"{answer.request.url} did not answer as a guard of this version does ({error.error_count()} mistakes): "
            "do all guards run the same version?"
        ) from None


def _error(where: str, answer: httpx.Response) -> RecoveryError:
    """The guard's own error, as the class that it named."""
    try:
        told = answer.json()
        kind, message = str(told["kind"]), str(told["message"])
    except (ValueError, KeyError, TypeError):
        return Unreachable(f"{where} answered {answer.status_code}: is that a guard?")
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, RecoveryError) and not kind.startswith("_"):
        return found(message)
    return Refused(f"{where}: {message}")
