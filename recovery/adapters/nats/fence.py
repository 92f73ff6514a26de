"""Who may publish into a region's NATS: everybody, or at rest only its guard.

The server's configuration includes a file that sets ``default_permissions`` (see the package). On disk it always says
``FENCED``, but for the moment in which a promotion lets the server read ``OPEN``: so whatever starts the server gets a
fenced one. A reload takes a few milliseconds and counts for connections that stand already.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import nats.errors
from nats.aio.msg import Msg

from recovery.adapters.listening import Listener, Processes, write_durably
from recovery.adapters.nats.connection import LOST, NatsServer, connected
from recovery.errors import Contended, Refused, Unreachable

PROCESS_NAMES = frozenset({"nats-server"})
PROBE_SUBJECT = "_recovery.probe"
POLL = 0.01
OPENING = 5.0  # seconds
PONG = 0.5  # seconds for an answer, before the probe is sent anew
UNKNOWN = 5  # times that the probe is not let in before it counts as missing

FENCED = (
    "# Written by the guard: nobody but users with permissions of their own publishes here.\n"
    'default_permissions: { publish: { deny: ">" } }\n'
)
OPEN = (
    "# Written by the guard for a moment: this region is being made the primary.\n"
    'default_permissions: { publish: ">", subscribe: ">" }\n'
)


class Fence:
    """The fence of one server on this host."""

    def __init__(self, server: NatsServer, file: Path) -> None:
        self._server = server
        self._file = file
        self._writing = threading.Lock()
        self._attempt = 0
        self.trouble = "no answer"  # why ``close`` did not succeed, when its caller had no more time
        self.listener = Listener(server.host, server.port, PROCESS_NAMES)

    @property
    def files(self) -> dict[str, str]:
        """What has to stand on the disk at rest."""
        return {str(self._file): FENCED}

    async def secure(self) -> None:
        """The file says FENCED, on disk. Raises OSError."""
        await asyncio.to_thread(self._write, FENCED)

    def _write(self, text: str, attempt: int | None = None) -> None:
        """``attempt``: one of ``open``, whose writing counts only until it ended: a thread outlives a cancellation."""
        with self._writing:
            if attempt is not None and attempt != self._attempt:
                return
            try:
                if self._file.read_text() == text:
                    return
            except FileNotFoundError:
                pass
            write_durably(self._file, text, mode=0o644)

    async def close(self) -> None:
        """The server reads FENCED, and a publish was refused. Bounded by the caller.

        Raises what is in LOST, OSError; Unreachable where its process is not found.
        """
        self.trouble = "no answer"
        await self.secure()
        while True:
            await self._reload()
            if not await self.is_open_meanwhile():
                return
            self.trouble = (
                f"it goes on accepting: its configuration has to include {self._file} (see the documentation)"
            )
            await asyncio.sleep(POLL)

    async def open(self, permitted: Callable[[], str | None]) -> None:
        """The server reads OPEN and a publish was accepted; whatever happens, FENCED is on disk again afterwards.

        It is bound to the server process that runs now: one that is killed from here on is not told anything, and what
        is started in its place is fenced. ``permitted`` (None, or why not) is asked between the writing and the
        telling, right before it, and then all the time.

        Raises:
            Unreachable: it does not become so within five seconds. It was told to read FENCED again.
            Contended: it is not permitted now.
        """
        opened = False
        with Processes(await self._pids()) as server:
            try:
                async with asyncio.timeout(OPENING):
                    await asyncio.to_thread(self._write, OPEN, self._attempt)
                    self._demand(permitted)
                    if not server.signal(signal.SIGHUP):
                        raise Unreachable(f"NATS {self._server} ended while it was to be promoted.")
                    while not await self.is_open_meanwhile():
                        self._demand(permitted)
                        await asyncio.sleep(POLL)
                    opened = True
            except LOST as error:
                raise Unreachable(
                    f"NATS {self._server} did not begin to accept publishing: {error or 'no answer'}."
                ) from error
            finally:
                self._attempt += 1
                self._write(FENCED)  # at once, in this very moment: a cancellation must not leave OPEN on the disk
                if not opened:
                    server.signal(signal.SIGHUP)

    def _demand(self, permitted: Callable[[], str | None]) -> None:
        if (reason := permitted()) is not None:
            raise Contended(f"NATS {self._server} must not become primary: {reason}")

    async def is_open_meanwhile(self) -> bool:
        """As ``is_open``, while the server may be reading its configuration: it drops who is just logging in, does not
        answer, or does not know any user for a moment."""
        unknown = 0
        while True:
            try:
                return await self.is_open()
            except (ConnectionResetError, nats.errors.FlushTimeoutError):
                await asyncio.sleep(POLL)
            except Refused:
                unknown += 1
                if unknown == UNKNOWN:
                    raise
                await asyncio.sleep(POLL)

    async def _reload(self) -> None:
        with Processes(await self._pids()) as server:
            server.signal(signal.SIGHUP)

    async def _pids(self) -> list[int]:
        pids = await self.listener.pids()
        if not pids:
            raise Unreachable(
                f"No process named {'/'.join(sorted(PROCESS_NAMES))} listens at {self._server} on this host, so nobody"
                " can tell it to read its configuration: run the guard beside it."
            )
        return pids

    async def is_open(self) -> bool:
        """Publishes as the probe, whom the fence concerns: accepted (it came back), or refused (the server said so).

        Bounded by the caller. Raises what is in LOST; Refused where there is no such user.
        """
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def refused(error: Exception) -> None:
            if "permissions violation" in str(error).lower() and not answer.done():
                answer.set_result(False)

        async def arrived(message: Msg) -> None:
            if not answer.done():
                answer.set_result(True)

        subject = f"{PROBE_SUBJECT}.{secrets.token_hex(8)}"
        try:
            async with connected(self._server.probe, refused) as client:
                await client.subscribe(subject, cb=arrived)
                await client.publish(subject, b"")
                await client.flush(PONG)  # type: ignore[arg-type]  # it takes parts of a second, too
                return await answer
        except nats.errors.ConnectionClosedError as error:
            raise ConnectionResetError(str(error)) from error
        except LOST as error:
            if "authorization" not in str(error).lower():
                raise
            raise Refused(
                f"NATS {self._server} has no user {self._server.probe.login.user!r} with the guard's password and"
                " without permissions of its own: by it the fence is tried (see docs/redis-and-jetstream.md)."
            ) from error
