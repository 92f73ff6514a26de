"""Backup of a Redis: the dump of one full synchronisation, from a replica where one follows closely."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from recovery.adapters.redis.connection import RedisServer, asking
from recovery.adapters.redis.programs import DumpChecker, RedisProgram, dump_checker, redis_program
from recovery.adapters.redis.rdb import DumpCheck, DumpHead
from recovery.adapters.redis.replication import Replication, replication
from recovery.adapters.redis.server_info import ServerInfo, functions, server_info
from recovery.adapters.redis.synchronising import PREPARE_SECONDS, SILENCE_SECONDS, Synchronisation, synchronising
from recovery.domain.recovery_point import BackupKind
from recovery.domain.redis import KeyCount, RedisSource
from recovery.errors import Corrupt, NotFound, RecoveryError, SourceFailed, Unreachable
from recovery.ports.redis import DUMP_NAME

LOOK_SECONDS = 5.0
BEHIND_SECONDS = 10  # without a word from its primary a replica is not taken
BEHIND_BYTES = 64 << 20
CATCH_UP_SECONDS = 2.0  # so long a replica is waited for: with all that its primary has, the point's moment is known
_ASK_AGAIN = 0.05


@dataclass(frozen=True)
class _Counted:
    """One look at a server: what stands in it, and how far it is."""

    info: ServerInfo
    part: Replication
    functions: dict[str, list[str]] | None

    @property
    def keys(self) -> dict[int, int]:
        return self.info.keys


@dataclass(frozen=True)
class _Candidate:
    server: RedisServer
    kind: Literal["replica", "primary"]
    seen: _Counted


class DumpArtefact:
    name = DUMP_NAME

    def __init__(self, source: RedisDumpSource) -> None:
        self._source = source

    async def chunks(self) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(self._source.dump()) as chunks:
            async for chunk in chunks:
                yield chunk


class RedisDumpSource:
    """``DumpSource`` of ``server``, or of one of its replicas.

    Args:
        replicas: where they are reached; None: where the primary says that they are, with the same login.
        silence: seconds without a byte after which a server is given up.
        prepare: seconds that it may take until the dump begins, while it says that it is at it.
        program: the redis-server whose checker reads along; None: what is found here, if anything is.
    """

    kind = BackupKind.RDB

    def __init__(
        self,
        server: RedisServer,
        replicas: Sequence[RedisServer] | None = None,
        *,
        silence: float = SILENCE_SECONDS,
        prepare: float = PREPARE_SECONDS,
        program: Path | None = None,
    ) -> None:
        self._server = server
        self._replicas = replicas
        self._silence = silence
        self._prepare = prepare
        self._program_path = program
        self._program: RedisProgram | None = None
        self._notes: list[str] = []
        self._candidates: list[_Candidate] = []
        self._primary: Replication | None = None
        self._result: RedisSource | None = None
        self._began_at = datetime.now(UTC)

    @property
    def expected_bytes(self) -> int:
        return self._candidates[0].seen.info.used_memory if self._candidates else 0

    async def __aenter__(self) -> Self:
        self._began_at = datetime.now(UTC)  # before the primary says how far it is: what it acknowledges later may miss
        first = await _count(self._server)
        if first.part.is_primary:
            self._primary = first.part
            self._candidates = [*await self._replicas_of(first.part), _Candidate(self._server, "primary", first)]
        else:
            self._candidates = [_Candidate(self._server, "replica", first)]
        try:
            self._program = await redis_program(self._program_path)
        except NotFound as error:
            self._notes.append(f"not checked by redis-check-rdb: {error}")
        if first.info.clustered:
            self._notes.append(f"Redis {self._server} is one shard of a cluster: the point holds that shard's slots")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._candidates = []

    async def artefacts(self) -> AsyncIterator[DumpArtefact]:
        yield DumpArtefact(self)

    async def finish(self) -> RedisSource:
        """Raises RuntimeError before the dump was read."""
        if self._result is None:
            raise RuntimeError("finish() before the dump was read")
        return self._result

    async def dump(self) -> AsyncGenerator[bytes, None]:
        """The bytes of the dump. Left early, the server's work for it ends.

        Raises:
            Refused: the login may not replicate.
            SourceFailed: the server refused or ended it, or what it sent is no whole dump.
            Unreachable: the server is gone or silent, or this was read too slowly.
        """
        check = DumpCheck()
        async with contextlib.AsyncExitStack() as stack:
            chosen, stream = await self._begun(stack)
            after = await self._counted(chosen.server)
            checker = await stack.enter_async_context(dump_checker(self._program)) if self._program else None
            chunks = await stack.enter_async_context(contextlib.aclosing(stream.chunks()))
            async for chunk in chunks:
                check.feed(chunk)
                if checker is not None:
                    await checker.feed(chunk)
                yield chunk
            head, said = await self._judge(check, checker, chosen.server, stream)
        self._result = self._described(chosen, stream, check, head, said, after)

    async def _begun(self, stack: contextlib.AsyncExitStack) -> tuple[_Candidate, Synchronisation]:
        """From the first that begins; the primary is the last."""
        for candidate in self._candidates:
            try:
                async with contextlib.AsyncExitStack() as own:
                    stream = await own.enter_async_context(
                        synchronising(candidate.server, self._silence, self._prepare)
                    )
                    seen = await self._counted(candidate.server) or candidate.seen
                    await stream.begin()
                    stack.push_async_exit(own.pop_all())
                    return replace(candidate, seen=seen), stream
            except RecoveryError as error:
                if candidate is self._candidates[-1]:
                    raise
                self._notes.append(f"replica {candidate.server} was passed over: {error}")
        raise RuntimeError("the dump is read inside the source's context")

    async def _replicas_of(self, primary: Replication) -> list[_Candidate]:
        """The farthest first."""
        known = self._replicas
        if known is None:
            known = [_at(self._server, each.address) for each in primary.replicas if each.online]
        looks = await asyncio.gather(*(self._usable(server, primary) for server in known))
        usable = [_Candidate(server, "replica", look) for server, look in zip(known, looks, strict=True) if look]
        return sorted(usable, key=lambda each: -each.seen.part.offset)

    async def _usable(self, server: RedisServer, primary: Replication) -> _Counted | None:
        waits_until = asyncio.get_running_loop().time() + CATCH_UP_SECONDS
        try:
            seen = await _count(server)
            while _follows(seen.part, primary) and asyncio.get_running_loop().time() < waits_until:
                await asyncio.sleep(_ASK_AGAIN)
                seen = await _count(server)
        except RecoveryError as error:
            self._notes.append(f"replica {server} was passed over: {error}")
            return None
        part = seen.part
        if part.is_primary or part.replid != primary.replid:
            why = "it does not replicate from there"
        elif not part.link_up or part.last_heard > BEHIND_SECONDS:
            why = "its link to the primary is down"
        elif primary.offset - part.offset > BEHIND_BYTES:
            why = f"it is {primary.offset - part.offset} bytes behind"
        else:
            return seen
        self._notes.append(f"replica {server} was passed over: {why}")
        return None

    async def _counted(self, server: RedisServer) -> _Counted | None:
        """A count right now; None where the server does not say: the dump does not depend on it."""
        try:
            return await _count(server)
        except RecoveryError as error:
            self._notes.append(f"keys were not counted beside the dump: {error}")
            return None

    async def _judge(
        self, check: DumpCheck, checker: DumpChecker | None, server: RedisServer, stream: Synchronisation
    ) -> tuple[DumpHead, str | None]:
        try:
            head = check.finish()
            position = head.position
            if position is not None and position != (stream.replid, stream.offset):
                raise Corrupt(f"it says that it ends at {position}, and the server said {stream.replid, stream.offset}")
            if checker is None or self._program is None:
                return head, None
            if not self._program.loads(head):
                self._notes.append(f"not checked: {self._program.name} does not read RDB version {head.rdb_version}")
                return head, None
            return head, await checker.finish()
        except (TimeoutError, Unreachable) as error:
            self._notes.append(f"not checked: {str(error) or 'redis-check-rdb came to no end'}")
            return head, None
        except Corrupt as error:
            raise SourceFailed(f"The dump that Redis {server} sent is not whole: {error}.") from error

    def _described(
        self,
        chosen: _Candidate,
        stream: Synchronisation,
        check: DumpCheck,
        head: DumpHead,
        said: str | None,
        after: _Counted | None,
    ) -> RedisSource:
        notes = list(self._notes)
        if not check.has_checksum:
            notes.append("the dump has no checksum: its server says rdbchecksum no, or sends without a disk")
        before = chosen.seen
        last = after or before
        names = sorted({*before.keys, *last.keys})
        writable = chosen.kind == "replica" and not before.part.read_only
        return RedisSource(
            product=before.info.product,
            server_version=before.info.version,
            taken_from=chosen.kind,
            address=str(chosen.server),
            replid=stream.replid,
            offset=stream.offset,
            primary_offset=self._primary.offset if self._primary is not None else None,
            form=stream.form,
            rdb_product=head.product,
            rdb_version=head.rdb_version,
            rdb_bytes=check.bytes,
            crc64=check.crc64,
            checked=said,
            keys={str(name): KeyCount(before=before.keys.get(name, 0), after=last.keys.get(name, 0)) for name in names},
            quiet=after is not None
            and before.part.counts
            and not writable
            and (before.part.replid, before.part.offset) == (after.part.replid, after.part.offset),
            functions=last.functions if last.functions == before.functions else None,
            began_at=self._began_at,
            finished_at=datetime.now(UTC),
            notes=notes,
        )


def _follows(part: Replication, primary: Replication) -> bool:
    """Whether it may soon have what its primary had."""
    missing = primary.offset - part.offset
    return not part.is_primary and part.replid == primary.replid and part.link_up and 0 < missing <= BEHIND_BYTES


async def _count(server: RedisServer) -> _Counted:
    async with asking(server, LOOK_SECONDS, "say what it holds") as connection:
        return _Counted(await server_info(connection), await replication(connection), await functions(connection))


def _at(primary: RedisServer, address: str) -> RedisServer:
    host, _, port = address.rpartition(":")
    return RedisServer(host, int(port), primary.login)
