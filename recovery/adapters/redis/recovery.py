"""A Redis's side of recovery points: ``RedisRecovery`` of one server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from recovery.adapters.point_checks import checked
from recovery.adapters.process import closing
from recovery.adapters.redis.by_replication import replica_mark, restore_by_replication
from recovery.adapters.redis.bytes_connection import bytes_connected
from recovery.adapters.redis.connection import RedisServer, asking
from recovery.adapters.redis.dumps import RedisDumpSource
from recovery.adapters.redis.key_by_key import KeyCopy
from recovery.adapters.redis.placing import check_place, is_placed, place_dump, remove_placed
from recovery.adapters.redis.programs import RedisProgram, redis_program
from recovery.adapters.redis.rdb import DumpHead, check_readable
from recovery.adapters.redis.scratch import Listening, ScratchServer, ScratchSpace, running, scratch_space
from recovery.adapters.redis.server_info import ServerInfo, functions, server_info
from recovery.adapters.redis.synchronising import SILENCE_SECONDS
from recovery.adapters.redis.target import ANSWER_SECONDS, DELETE_SECONDS, ReplicaMark, Target
from recovery.adapters.redis.target_checks import check_scratch, target_checks
from recovery.adapters.redis.validation import validate_stored
from recovery.backup.bounded import to_the_end
from recovery.domain.recovery_point import CheckResult, VerdictState
from recovery.domain.redis import RedisSource, Way
from recovery.domain.restore_marks import restore_of
from recovery.errors import NotFound, RecoveryError, RestoreFailed, Unreachable
from recovery.ports.postgres import Progress
from recovery.ports.redis import (
    DumpPlace,
    PlacedDump,
    RedisRestoreOptions,
    RedisSeen,
    RestoredRedis,
    StoredDump,
)

Permit = Callable[[Way], Awaitable[None]]
"""Returns where the server may be written into in this way now. Raises Refused, Unreachable."""

USERS_NOTE = "users (ACL) and configuration are not in a dump"


class RedisDumps:
    """``RedisRecovery`` of ``server``.

    Args:
        replicas: where its replicas are reached; None: where it says that they are.
        program: the redis-server of scratch servers; None: the one that is found here.
        listening: how ``server`` reaches a scratch server of this host; None: at the address from which we reach it.
        permit: asked right before anything is written into ``server``; None: nobody else decides on that.
    """

    def __init__(
        self,
        server: RedisServer,
        *,
        replicas: Sequence[RedisServer] | None = None,
        program: Path | None = None,
        listening: Listening | None = None,
        silence: float = SILENCE_SECONDS,
        permit: Permit | None = None,
    ) -> None:
        self._target = Target(server)
        self._replicas = replicas
        self._program = program
        self._listening = listening
        self._silence = silence
        self._permit = permit

    async def look(self) -> RedisSeen:
        """See the port."""
        return await self._target.seen()

    def source(self) -> RedisDumpSource:
        """See the port."""
        return RedisDumpSource(self._target.server, self._replicas, silence=self._silence, program=self._program)

    async def check_place(self, source: RedisSource, place: DumpPlace, restore_id: str) -> None:
        """See the port."""
        await check_place(source, place, restore_id, await self._program_of(place))

    async def place(self, dump: StoredDump, place: DumpPlace, restore_id: str) -> PlacedDump:
        """See the port."""
        return await place_dump(dump, place, restore_id, await self._program_of(place))

    async def is_placed(self, place: DumpPlace, restore_id: str) -> bool:
        """See the port."""
        return await is_placed(place, restore_id)

    async def remove_placed(self, place: DumpPlace, restore_id: str) -> bool:
        """See the port."""
        return await remove_placed(place, restore_id)

    async def check_target(
        self, source: RedisSource, options: RedisRestoreOptions, scratch_folder: Path
    ) -> list[CheckResult]:
        """See the port."""
        serves_tls = self._listening is not None and self._listening.tls is not None
        checks = await target_checks(self._target, source, options, scratch_folder, self._program, serves_tls)
        if self._permit is None:
            return checks
        return [*checks, await checked("guard", self._permitted(options.way))]

    async def restore(
        self, dump: StoredDump, options: RedisRestoreOptions, scratch_folder: Path, progress: Progress | None = None
    ) -> RestoredRedis:
        """See the port."""
        async with closing(dump.chunks):
            program = await redis_program(self._program)
            state = await self._target.state()
            self._target.check_free(state, options)
            mark: ReplicaMark | None = None
            listening: Listening | None = None
            if options.way == "replicate":
                listening = self._listening or await self._reachable()
                mark = await replica_mark(self._target, state, options, listening.tls is not None)

            def acceptable(head: DumpHead) -> None:
                check_readable(head, state.info.product, state.info.version, state.newest_rdb)
                check_readable(head, program.product, program.version)
                check_scratch(program, state)

            async with scratch_space(scratch_folder) as space:
                head = await space.write(dump, acceptable, progress)
                keys, libraries = await self._fill(space, program, options, mark, listening, progress)
                return RestoredRedis(keys, libraries, head.rdb_version, space.bytes, [USERS_NOTE])

    async def _fill(
        self,
        space: ScratchSpace,
        program: RedisProgram,
        options: RedisRestoreOptions,
        mark: ReplicaMark | None,
        listening: Listening | None,
        progress: Progress | None,
    ) -> tuple[dict[int, int], list[str]]:
        """By replication where there is a mark for it and ``listening``, else key by key."""
        async with running(
            space,
            program,
            load_seconds=options.load_seconds,
            keep_expired=mark is None,
            listening=listening,
        ) as scratch:
            held = await _held(scratch)
            state = await self._target.state()  # loading took its time
            self._target.check_free(state, options)
            self._target.check_memory(state, held.used_memory)
            await self._permitted(options.way)
            try:
                async with _alive(scratch):
                    if mark is not None and listening is not None:
                        found = await restore_by_replication(
                            self._target, scratch, listening.host, mark, state.key_marks, options.silence_seconds
                        )
                    else:
                        found = await self._copy(scratch, held, options, space.bytes, progress)
                if not options.keep_mark and not await self.complete(options.mark):
                    raise RestoreFailed(
                        f"The mark of restore {options.restore_id} is gone from Redis {self._target.server}: did"
                        " somebody empty it meanwhile?"
                    )
            except BaseException:
                await to_the_end(self._clean_up(options.mark))
                raise
            return found

    async def complete(self, ours: str) -> bool:
        """See the port. Where nothing is to be changed, nobody is asked."""
        state = await self._target.state()
        if state.restore_id is None:
            return state.completed_by == restore_of(ours)
        await self._permitted("keys")
        return await self._target.complete(ours)

    async def remove_restored(self, ours: str) -> bool:
        """See the port. Where nothing is to be undone, nobody is asked."""
        if (await self._target.state()).restore_id is None:
            return False
        await self._permitted("keys")
        return await self._target.remove(ours)

    async def validate(
        self, dump: StoredDump, scratch_folder: Path, progress: Progress | None = None
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        """See the port."""
        return await validate_stored(dump, scratch_folder, progress, self._program)

    async def _program_of(self, place: DumpPlace) -> RedisProgram | None:
        """What will start there, as far as it is known. Raises NotFound: what was named is none."""
        try:
            return await redis_program(place.program or self._program)
        except NotFound:
            if place.program is not None:
                raise
            return None

    async def _reachable(self) -> Listening:
        """Where the target finds this host: it sees us come from there, unless addresses are translated between."""
        async with self._target.asked("say how it is reached") as connection:
            host = connection.local_host
        return Listening(host, host) if host else Listening()

    async def _permitted(self, way: Way) -> str:
        """Raises Refused, Unreachable."""
        if self._permit is not None:
            await self._permit(way)
        return "it may be written into"

    async def _copy(
        self,
        scratch: ScratchServer,
        held: ServerInfo,
        options: RedisRestoreOptions,
        size: int,
        progress: Progress | None,
    ) -> tuple[dict[int, int], list[str]]:
        state = await self._target.state()
        if state.replica_mark is not None:  # of an attempt that went the other way
            await self._target.remove(options.restore_id)
            state = await self._target.state()
        self._target.check_free(state, options)
        libraries, payload = await _functions(scratch)
        async with (
            bytes_connected(scratch.own, ANSWER_SECONDS) as source,
            self._target.connected("take keys") as sink,
        ):
            copy = KeyCopy(self._target, source, sink, options.mark, options.silence_seconds, size, progress)
            keys = await copy.run(
                held.keys,
                state.key_marks,
                function_payload=payload,
                start_empty=options.replace and state.restore_id != options.restore_id and not state.is_empty,
                had_functions=bool(state.functions),
            )
        return keys, libraries

    async def _clean_up(self, mark: str) -> None:
        """After a failed attempt, bounded, and only where its own ``mark`` is: another one may be at work. What cannot
        be removed now is found by its mark at the next attempt."""
        with contextlib.suppress(RecoveryError, TimeoutError):
            async with asyncio.timeout(DELETE_SECONDS):
                await self._permitted("keys")
                await self._target.remove(mark)


async def _held(scratch: ScratchServer) -> ServerInfo:
    async with asking(scratch.own, ANSWER_SECONDS, "count its keys") as connection:
        return await server_info(connection)


async def _functions(scratch: ScratchServer) -> tuple[list[str], bytes | None]:
    """Names of the libraries, and all of them as FUNCTION RESTORE takes them; None where there are none."""
    async with asking(scratch.own, ANSWER_SECONDS, "list its functions") as connection:
        found = await functions(connection)
    if not found:
        return [], None
    async with bytes_connected(scratch.own, ANSWER_SECONDS) as raw, asyncio.timeout(ANSWER_SECONDS):
        return sorted(found), bytes(await raw.run("FUNCTION", "DUMP"))


@contextlib.asynccontextmanager
async def _alive(scratch: ScratchServer) -> AsyncIterator[None]:
    """Blames the right server: one that vanished here looks as if the target had refused or been lost."""
    try:
        yield
    except (Unreachable, RestoreFailed) as error:
        try:
            await _held(scratch)
        except RecoveryError:
            raise RestoreFailed(
                "The scratch server on this machine ended while its data were copied: had it memory enough?"
            ) from error
        raise
