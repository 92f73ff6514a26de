"""Restore of one stream through JetStream's restore API.

Protocol (nats-server, ``processStreamRestore`` of ``server/jetstream_api.go``): a request to
``$JS.API.STREAM.RESTORE.<stream>`` with configuration and state is answered with a subject. Each piece of it is
a request to it, answered with nothing or with an error. An empty request ends the archive, and its answer, which may
take long, has the restored stream's state. The server gives up when nothing comes for 5 s; a chunk without a reply
subject ends a restore at once.

While it lasts, the stream carries a mark in its metadata (``MARK``, from NATS 2.10 on): a server that stops, or whose
client does, can leave a part of a stream behind, which looks like any other. The mark tells the attempts of a restore
apart: one that was taken for dead, and is not, removes only its own work. A completed stream says so (``RESTORED``) for
good: it has clients' messages, and no attempt starts over there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client

from recovery.adapters.nats.archive import ArchiveCheck
from recovery.adapters.nats.connection import LOST, ApiError, api, stream_info
from recovery.domain.restore_marks import restore_of
from recovery.errors import NoSpace, NotOurs, RestoreFailed, Unreachable
from recovery.ports.postgres import Progress

MARK = "recovery-restoring"
"""Key in the metadata of a stream that is being restored: ``StreamRestoreOptions.mark``."""

RESTORED = "recovery-restored"
"""Key in the metadata of a stream whose restore was completed: the restore's id."""

EXISTS = frozenset({10058, 10130})
_NO_ROOM = frozenset({10023, 10028, 10047, 10077})
"""Error codes of JetStream: too few resources, too little memory or storage, and a store that cannot be written."""
_NO_ROOM_WORDS = ("storage failure", "no space left", "insufficient resources")
SEND_BYTES = 512 << 10
SEND_SECONDS = 60.0
KEPT_BYTES = 64 << 10
DRIP_BYTES = 512
DRIP_SECONDS = 2.0
CONNECTION_LOOK_SECONDS = 1.0
T = TypeVar("T")
_SETTLE_SECONDS = 12.0  # a server that was left alone gives up after 5


class Upload:
    """One archive on its way into one stream."""

    def __init__(self, client: Client, stream: str, subject: str) -> None:
        self._client = client
        self._stream = stream
        self._subject = subject
        self._size = min(SEND_BYTES, client.max_payload or SEND_BYTES)
        self.sent = 0

    async def send_all(
        self, archive: AsyncIterator[bytes], check: ArchiveCheck, first: list[bytes], progress: Progress | None
    ) -> None:
        """Sends ``first``, which were read already and checked, and the rest. A little is always kept back: while the
        reader waits for its location it goes in drops, so that the server does not give up for two minutes or more.

        Raises:
            Corrupt: the archive is not whole, or whatever its reader raises.
            RestoreFailed: the server refused a chunk.
            NoSpace: it has no room for it.
            Unreachable: it did not answer, or gave up.
        """
        held = bytearray().join(first)
        following = asyncio.ensure_future(anext(archive, None))
        try:
            while True:
                while len(held) >= self._size + KEPT_BYTES:
                    await self._send(held, self._size, progress)
                await asyncio.wait({following}, timeout=DRIP_SECONDS)
                if not following.done():
                    if held:
                        await self._send(held, min(DRIP_BYTES, len(held)), progress)
                    continue
                data = following.result()
                if data is None:
                    break
                check.feed(data)
                held += data
                following = asyncio.ensure_future(anext(archive, None))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await asyncio.to_thread(check.finish)  # it unpacks a block of up to 4 MiB
        while held:
            await self._send(held, min(self._size, len(held)), progress)

    async def _send(self, held: bytearray, size: int, progress: Progress | None) -> None:
        answer = await self._request(bytes(held[:size]), SEND_SECONDS)
        if answer:
            raise refusal(f"NATS refused the archive of stream {self._stream}", *_error_of(answer))
        del held[:size]
        self.sent += size
        if progress is not None:
            progress(self.sent, 0)

    async def finish(self, seconds: float) -> dict[str, Any]:
        """State of the restored stream. Raises RestoreFailed, NoSpace, Unreachable."""
        answer = await self._request(b"", seconds)
        body: dict[str, Any] = json.loads(answer or b"{}")
        if body.get("error") or "state" not in body:
            raise refusal(f"NATS could not restore stream {self._stream}", *_error_of(answer))
        state: dict[str, Any] = body["state"]
        return state

    async def _request(self, data: bytes, seconds: float) -> bytes:
        request = asyncio.ensure_future(self._client.request(self._subject, data, timeout=seconds))
        try:
            # nats-py does not tell a request that its connection was lost.
            while not (await asyncio.wait({request}, timeout=CONNECTION_LOOK_SECONDS))[0]:
                if not self._client.is_connected:
                    raise nats.errors.ConnectionClosedError
            return request.result().data
        except LOST as error:
            raise Unreachable(
                f"NATS gave up on the restore of stream {self._stream} after {self.sent} bytes, or was lost"
                f" ({error!r}). Try it again."
            ) from error
        finally:
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)

    async def give_up(self) -> None:
        """Ends the restore at the server, which would wait for another 5 s."""
        with contextlib.suppress(*LOST):
            await self._client.publish(self._subject, b"-")
            await self._client.flush(timeout=1)


def _error_of(answer: bytes) -> tuple[int, str]:
    """Code and words; servers up to 2.14 have no code for a disk that is full."""
    try:
        error = json.loads(answer)["error"]
        return int(error.get("err_code", 0)), str(error.get("description", error))
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0, answer[:200].decode(errors="replace") or "it answered nothing"


def refusal(what: str, code: int, words: str) -> RestoreFailed | NoSpace:
    """A server without room says nothing of the archive."""
    if code in _NO_ROOM or any(each in words for each in _NO_ROOM_WORDS):
        return NoSpace(f"{what}, it has no room for it: {words}.")
    return RestoreFailed(f"{what}: {words}.")


async def begin(client: Client, stream: str, config: dict[str, Any], state: dict[str, Any], restore_id: str) -> str:
    """Subject for the archive. An earlier attempt that the server has not given up yet is waited for.

    Raises ApiError, and what a connection raises.
    """
    until = time.monotonic() + _SETTLE_SECONDS
    while True:
        try:
            answer = await api(client, f"STREAM.RESTORE.{stream}", {"config": config, "state": state}, 30.0)
            return str(answer["deliver_subject"])
        except ApiError as error:
            if error.code not in EXISTS or time.monotonic() > until:
                raise
            info = await stream_info(client, stream)
            if info is not None and restore_of(mark_of(info)) != restore_id:
                raise
            if info is not None:
                await api(client, f"STREAM.DELETE.{stream}")
            await asyncio.sleep(0.2)


def mark_of(info: dict[str, Any]) -> str | None:
    return _metadata(info["config"]).get(MARK)


def restored_by(info: dict[str, Any]) -> str | None:
    """The id of the restore that made the stream and was completed."""
    return None if mark_of(info) is not None else _metadata(info["config"]).get(RESTORED)


def marked(config: dict[str, Any], mark: str) -> dict[str, Any]:
    kept = {key: value for key, value in _metadata(config).items() if key != RESTORED}  # of an earlier restore
    return config | {"metadata": kept | {MARK: mark}}


def _metadata(config: dict[str, Any]) -> dict[str, str]:
    return config.get("metadata") or {}


async def patiently(ask: Callable[[], Awaitable[T]], seconds: float) -> T:
    """In a cluster nobody answers for a stream that has no leader yet: asks again until ``seconds`` have passed."""
    until = time.monotonic() + seconds
    while True:
        try:
            return await ask()
        except TimeoutError:
            if time.monotonic() > until:
                raise


async def complete(client: Client, stream: str, mark: str, seconds: float) -> bool:
    """The stream is whole: it becomes one like any other, which says by whom it was restored. False where it carries no
    mark.

    Raises RestoreFailed where it is gone, NotOurs where it carries another mark, ApiError, what a connection raises.
    """
    info = await patiently(lambda: stream_info(client, stream), seconds)
    if info is None:
        raise RestoreFailed(f"Stream {stream} is not there any more: somebody deleted it after its restore.")
    found = mark_of(info)
    if found is None:
        return False
    if found != mark:
        whose = "another attempt of this restore" if restore_of(found) == restore_of(mark) else "another restore"
        raise NotOurs(f"Stream {stream} carries the mark of {whose}: it was not touched.")
    config = info["config"]
    metadata = {key: value for key, value in config["metadata"].items() if key != MARK}
    metadata[RESTORED] = str(restore_of(mark))
    await api(client, f"STREAM.UPDATE.{stream}", config | {"metadata": metadata}, 10.0)
    return True


async def remove_marked(client: Client, stream: str, ours: str) -> bool:
    """Deletes what a restore left; True when there was something.

    Args:
        ours: a restore's id, for what any of its attempts left, or one attempt's mark.

    Raises NotOurs where the stream does not carry it, ApiError, and what a connection raises.
    """
    info = await patiently(lambda: stream_info(client, stream), _SETTLE_SECONDS)
    if info is None:
        return False
    mark = mark_of(info)
    if ours not in (mark, restore_of(mark)):
        raise NotOurs(f"Stream {stream} does not carry the mark of restore {ours}: it was not touched.")
    await api(client, f"STREAM.DELETE.{stream}", timeout=10.0)
    return True


async def read_ahead(archive: AsyncIterator[bytes], check: ArchiveCheck) -> list[bytes]:
    """So much of the beginning that its format is known. Raises Corrupt."""
    first: list[bytes] = []
    while check.head() is None:
        data = await anext(archive, None)
        if data is None:
            check.finish()  # says why not
            break
        if data:
            check.feed(data)
            first.append(data)
    return first


@contextlib.asynccontextmanager
async def closing(archive: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    try:
        yield archive
    finally:
        if isinstance(archive, AsyncGenerator):
            await archive.aclose()
