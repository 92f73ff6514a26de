"""The guard's address: HTTP with a bearer token, JSON bodies of ``recovery.domain``.

    GET  /status?group=G          GuardStatus
    POST /fence /unfence /promote /follow     GuardOrder -> FenceProof, OwnershipRecord, Promotion, StoreState
    POST /stop-receiving          GuardOrder -> Stopped
    POST /promise                 {"group", "epoch", "holder", "ttl"} -> {"promised": true | false, "reason"}
    POST /nudge                   {"group"} -> {}

An order that takes long is answered with 202 and ``{"pending": true}`` after ``PATIENCE`` seconds: the same request
sent again attaches to it. Errors are ``{"kind", "message"}`` with the error's class name in ``recovery.errors``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
import uvicorn
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from recovery.domain.guarding import GuardOrder
from recovery.errors import BadInput, Contended, NotFound, RecoveryError, Refused, Unreachable
from recovery.guard.connections import HEADER_BYTES, Bounded, BoundedServer, Doors
from recovery.guard.guard import Guard
from recovery.guard.orders import Running

Model = TypeVar("Model", bound=BaseModel)

log = structlog.get_logger("recovery.guard")

PATIENCE = 2.0
"""Seconds for which a request waits for its order."""
BODY_LIMIT = 64 * 1024
BODY_SECONDS = 5.0
STRANGERS_EVERY = 30.0  # seconds
PORT = 7450

STATUS_OF = {NotFound: 404, Refused: 409, BadInput: 400, Unreachable: 503, Contended: 503}


class PromiseAsked(BaseModel):
    """What a holder asks of another guard."""

    group: str
    epoch: int
    holder: str
    ttl: float = Field(gt=0, le=3600)


class Nudge(BaseModel):
    group: str


@dataclass(frozen=True)
class Address:
    """Where a guard listens. ``certificate`` and ``key``: PEM files, for https."""

    host: str
    port: int
    certificate: str | None = None
    key: str | None = None

    @classmethod
    def of(cls, url: str, certificate: str | None, key: str | None) -> Address:
        """Raises BadInput for https without its files."""
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        if secure and not (certificate and key):
            raise BadInput(f"{url} needs a certificate: set guards.certificate_file and guards.key_file")
        port = parts.port or PORT
        return cls(parts.hostname or "", port, certificate if secure else None, key if secure else None)


class GuardServer:
    """Answers for one guard."""

    def __init__(self, guard: Guard, token: str) -> None:
        self._guard = guard
        self._token = token.encode()
        self._running = Running()
        self._strangers, self._strangers_said = 0, -math.inf
        self.app = Starlette(
            routes=[
                Route("/status", self._asked(self._status), methods=["GET"]),
                Route("/fence", self._asked(self._order("fence", guard.fence)), methods=["POST"]),
                Route("/unfence", self._asked(self._unfence), methods=["POST"]),
                Route("/promote", self._asked(self._order("promote", guard.promote)), methods=["POST"]),
                Route("/follow", self._asked(self._order("follow", guard.follow)), methods=["POST"]),
                Route("/stop-receiving", self._asked(self._order("stop", guard.stop_receiving)), methods=["POST"]),
                Route("/promise", self._asked(self._promise), methods=["POST"]),
                Route("/nudge", self._asked(self._nudge), methods=["POST"]),
            ]
        )

    async def serve(self, address: Address, ready: Callable[[], None]) -> None:
        """Listens until cancelled; ``ready`` is called once connections are taken.

        Raises:
            BadInput: the address cannot be listened at, or the TLS files cannot be used.
        """
        listening = _listen(address)
        config = uvicorn.Config(
            self.app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=1,
            http=Bounded,
            ws="none",
            server_header=False,
            h11_max_incomplete_event_size=HEADER_BYTES,
            ssl_certfile=address.certificate,
            ssl_keyfile=address.key,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise BadInput(f"guards.certificate_file and guards.key_file cannot be used: {error}") from None
        server = _Server(config, Doors())
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            while not server.started:
                if serving.done():
                    serving.result()
                    raise BadInput(f"the guard could not listen at {address.host}:{address.port}")
                await asyncio.sleep(0.01)
            ready()
            await asyncio.shield(serving)
        finally:
            server.should_exit = True
            await self._running.close()
            await asyncio.wait({serving}, timeout=3)
            listening.close()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _asked(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Only who has the token is answered, and every error in one form."""

        async def guarded(request: Request) -> Response:
            given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not hmac.compare_digest(given, self._token):
                self._note_stranger(request)
                return _error(401, "Refused", "the guard's token is missing or another one: see guards.token")
            request.state.door.know()
            try:
                return await answer(request)
            except RecoveryError as error:
                return _error(STATUS_OF.get(type(error), 422), error.kind, str(error))

        return guarded

    def _note_stranger(self, request: Request) -> None:
        """Said once in a while, however often somebody tries."""
        now = asyncio.get_running_loop().time()
        self._strangers += 1
        if now - self._strangers_said >= STRANGERS_EVERY:
            host = request.client.host if request.client else ""
            log.warning("requests without the guard's token", newest_from=host, count=self._strangers)
            self._strangers, self._strangers_said = 0, now

    async def _status(self, request: Request) -> Response:
        status = await self._guard.status(request.query_params.get("group"))
        return _json(status)

    def _order(
        self, name: str, carry_out: Callable[[GuardOrder], Coroutine[Any, Any, BaseModel]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            order = await _body(request, GuardOrder)
            what = (order.epoch, order.target, order.store, order.planned, order.accept_loss)
            key = f"{order.group}/{name}/{order.run}/{what}"
            found = await self._running.answer(key, lambda: carry_out(order), min(PATIENCE, order.deadline))
            return JSONResponse({"pending": True}, 202) if found is None else _json(found)

        return answer

    async def _unfence(self, request: Request) -> Response:
        order = await _body(request, GuardOrder)
        await self._running.stop(f"{order.group}/fence/")
        return _json(await self._guard.unfence(order))

    async def _promise(self, request: Request) -> Response:
        asked = await _body(request, PromiseAsked)
        reason = self._guard.promise(asked.group, asked.epoch, asked.holder, asked.ttl)
        return JSONResponse({"promised": reason is None, "reason": reason or ""})

    async def _nudge(self, request: Request) -> Response:
        await self._guard.nudge((await _body(request, Nudge)).group)
        return JSONResponse({})


class _Server(BoundedServer):
    """Signals belong to the process that the guard runs in."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address.host, address.port))
    except OSError as error:
        listening.close()
        raise BadInput(
            f"the guard cannot listen at {address.host}:{address.port} ({error.strerror}): regions.<name>.guard must "
            "be an address of this host, and free"
        ) from None
    listening.setblocking(False)
    return listening


async def _body(request: Request, model: type[Model]) -> Model:
    raw = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > BODY_LIMIT:
                    raise BadInput(f"a request of at most {BODY_LIMIT} bytes was expected")
    except TimeoutError:
        raise BadInput(f"a request within {BODY_SECONDS:g} s was expected") from None
    except ClientDisconnect:
        raise BadInput("a whole request was expected") from None
    try:
        return model.model_validate_json(bytes(raw))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"expected a {model.__name__}: {where}: {first['msg']}") from None


def _json(model: BaseModel) -> Response:
    return Response(model.model_dump_json(), media_type="application/json")


def _error(status: int, kind: str, message: str) -> Response:
    return JSONResponse({"kind": kind, "message": message}, status)
