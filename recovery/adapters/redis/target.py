"""The running server that gets a dump: what stands there, whose unfinished restore it is, and how that is undone.

Two marks say so. While the server replicates from a scratch server, the user as whom it logs in there (``masteruser``)
names the restore and that scratch server, and keeps what ``masteruser`` and ``masterauth`` were before, so that a later
attempt can put them back. A server that replicates from somewhere else by then was made to by a guard, Sentinel or a
person, and is never promoted. Once the data are there, a key (``key_mark``) stands in database 0 until the restore is
completed. Both tell the attempts of a restore apart: one that was taken for dead, and is not, undoes only its own work.
Another key says for hours that the restore was completed: no late attempt starts over on what is the clients' by then.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from recovery.adapters.redis.bytes_connection import BytesConnection, bytes_connected
from recovery.adapters.redis.connection import LOST, PASSING, Connection, RedisServer, ServerSaid, asking
from recovery.adapters.redis.key_mark import KeyMarks, key_marks, mark_key, restored_key, watched_marks
from recovery.adapters.redis.replication import Replication, replication
from recovery.adapters.redis.server_info import ServerInfo, functions, newest_rdb_version, server_info
from recovery.domain.redis import server_name
from recovery.domain.restore_marks import restore_of
from recovery.errors import Contended, NoSpace, NotOurs, Refused, RestoreFailed, Unreachable
from recovery.ports.redis import RedisRestoreOptions, RedisSeen

ANSWER_SECONDS = 10.0
DELETE_SECONDS = 600.0  # FLUSHALL of a large server
COMPLETED_SECONDS = 4 * 3600
"""Longer than all attempts of a restore may take (``workflows.plans.restore``)."""
_PREFIX = "recovery-restoring"


@dataclass(frozen=True)
class ReplicaMark:
    """``masteruser`` of a server that replicates from a restore's scratch server, which ``upstream`` says once it
    listens. ``mark`` is the attempt's. ``user`` and ``password`` were there before. ``password`` is in no ``repr``."""

    mark: str
    user: str
    password: str
    upstream: tuple[str, int] = ("", 0)

    def __repr__(self) -> str:
        return f"ReplicaMark({self.mark!r})"

    @property
    def restore_id(self) -> str:
        return str(restore_of(self.mark))

    def text(self) -> str:
        kept = [self.user, self.password, *self.upstream]
        return f"{_PREFIX}:{self.mark}:{base64.urlsafe_b64encode(json.dumps(kept).encode()).decode()}"

    @classmethod
    def parse(cls, text: str) -> ReplicaMark | None:
        prefix, _, rest = text.partition(":")
        mark, _, kept = rest.rpartition(":")
        if prefix != _PREFIX or not mark:
            return None
        try:
            user, password, host, port = json.loads(base64.urlsafe_b64decode(kept))
            return cls(mark, str(user), str(password), (str(host), int(port)))
        except ValueError:
            return None


@dataclass(frozen=True)
class TargetState:
    info: ServerInfo
    part: Replication
    newest_rdb: int
    functions: dict[str, list[str]] | None
    replica_mark: ReplicaMark | None  # of a server that a restore made a replica
    key_mark: str | None
    completed_by: str | None  # the id of the last restore that was

    @property
    def restore_id(self) -> str | None:
        return self.replica_mark.restore_id if self.replica_mark else restore_of(self.key_mark)

    @property
    def key_marks(self) -> KeyMarks:
        return KeyMarks(None, self.key_mark, self.completed_by)

    @property
    def keys(self) -> dict[int, int]:
        """By database, without our marks."""
        ours = (self.key_mark is not None) + (self.completed_by is not None)
        if not ours:
            return self.info.keys
        return {number: keys - (0 if number else ours) for number, keys in self.info.keys.items()}

    @property
    def name(self) -> str:
        return server_name(self.info.product, self.info.version)

    @property
    def is_empty(self) -> bool:
        return self.key_mark is None and not self.functions and not any(self.keys.values())


class Target:
    def __init__(self, server: RedisServer) -> None:
        self.server = server

    async def state(self, *, only_to_see: bool = False) -> TargetState:
        """``only_to_see``: a login that may not read keys sees none of our marks there; else that is Refused.

        Raises Unreachable, Refused.
        """
        found: dict[str, list[str]] | None = None
        marks = KeyMarks()
        async with self.asked("say what it holds") as connection:
            info = await server_info(connection)
            part = await replication(connection)
            mark = await _replica_mark(connection)
            if mark is None or part.is_primary:  # else it may answer nothing about its data until its link stands
                found = await functions(connection)
                try:
                    marks = await key_marks(connection)
                except ServerSaid as error:
                    if not only_to_see or error.code != "NOPERM":
                        raise
        async with self.connected("say which dumps it reads") as raw, asyncio.timeout(ANSWER_SECONDS):
            newest = await newest_rdb_version(raw, info)
        return TargetState(info, part, newest, found, mark, marks.mark, marks.completed_by)

    async def seen(self) -> RedisSeen:
        """See the port's ``look``."""
        state = await self.state(only_to_see=True)
        return RedisSeen(
            host=self.server.host,
            port=self.server.port,
            product=state.info.product,
            version=state.info.version,
            rdb_version=state.newest_rdb,
            is_primary=state.part.is_primary,
            clustered=state.info.clustered,
            keys=state.keys,
            functions=None if state.functions is None else sorted(state.functions),
            max_memory=state.info.max_memory,
            used_memory=state.info.used_memory,
            restore_id=state.restore_id,
        )

    def check_free(self, state: TargetState, options: RedisRestoreOptions) -> None:
        """Raises Refused where it must not be overwritten, NotOurs where this restore was completed already."""
        if state.completed_by == options.restore_id:
            raise NotOurs(
                f"Redis {self.server} was restored by another attempt of this restore, and is its clients' since: it"
                " was not touched."
            )
        mark = state.replica_mark
        if mark is not None and mark.restore_id != options.restore_id:
            raise Refused(
                f"Redis {self.server} is at restore {state.restore_id}, which did not end: go on with that one, or undo"
                " it first."
            )
        if not state.part.is_primary and (mark is None or state.part.upstream != mark.upstream):
            raise Refused(
                f"Redis {self.server} is a replica of {state.part.upstream}: name its primary, or promote it first."
            )
        if state.restore_id == options.restore_id or state.is_empty or options.replace:
            return
        held = ", ".join(f"{keys} keys in database {number}" for number, keys in sorted(state.keys.items()) if keys)
        libraries = f"function libraries {', '.join(state.functions)}" if state.functions else ""
        data = " and ".join(filter(None, (held, libraries))) or "a restore's mark"
        half = " They were left by another restore that did not end." if state.restore_id else ""
        raise Refused(
            f"Redis {self.server} holds data already: {data}.{half} Say --replace to delete them and"
            " restore this point in their place."
        )

    def check_memory(self, state: TargetState, needed: int) -> None:
        """``needed``: what the data take in the scratch server. Raises NoSpace."""
        limit = state.info.max_memory
        if limit and needed > limit:
            raise NoSpace(
                f"The data take {needed} bytes of memory, and Redis {self.server} may use {limit}: raise its maxmemory."
            )

    async def complete(self, ours: str) -> bool:
        """See the port."""
        async with self.asked("complete the restore") as connection:
            name = await mark_key(connection)
            if name is None:
                return False
            marks = await watched_marks(connection, name)
            if marks.mark is None:
                return marks.completed_by == restore_of(ours)
            self._check_ours(marks.mark, ours)
            done = ("SET", restored_key(name), str(restore_of(ours)), "EX", COMPLETED_SECONDS)
            if not await connection.at_once(("DEL", name), done):
                raise self.taken_meanwhile()
            return True

    async def remove(self, ours: str) -> bool:
        """See the port's ``remove_restored``. Data that stood there before the restore reached it are left alone.

        Raises Contended: the mark is another one's by now.
        """
        async with self.asked("undo the restore", DELETE_SECONDS) as connection:
            replica = await _replica_mark(connection)
            if replica is not None:
                self._check_ours(replica.mark, ours)
                await self.detach(connection, replica)
            name = await mark_key(connection)
            found = None if name is None else (await watched_marks(connection, name)).mark
            if found is None:
                return replica is not None
            self._check_ours(found, ours)
            if not await connection.at_once(("FLUSHALL",)):
                raise self.taken_meanwhile()
            with contextlib.suppress(ServerSaid):  # where it cannot delete functions (6.2), there are none
                await connection.run("FUNCTION", "FLUSH")
            return True

    def taken_meanwhile(self) -> Contended:
        """What an attempt is told that was held up between its look and its act. The next one looks again."""
        return Contended(
            f"Redis {self.server} was taken by another attempt or given to its clients since this one looked: it was"
            " not touched."
        )

    def _check_ours(self, mark: str, ours: str) -> None:
        """Raises NotOurs."""
        if ours in (mark, found := restore_of(mark)):
            return
        whose = "another attempt of restore" if found == restore_of(ours) else "restore"
        raise NotOurs(f"Redis {self.server} is at {whose} {found}: it was not touched.")

    async def detach(self, connection: Connection, mark: ReplicaMark) -> None:
        """A primary again, which logs in elsewhere as it did before.

        Raises NotOurs: it replicates from somewhere else than ``mark`` says; what the connection raises.
        """
        part = await replication(connection)
        if not part.is_primary and part.upstream != mark.upstream:
            raise NotOurs(
                f"Redis {self.server} replicates from {part.upstream} by now, as restore {mark.restore_id} did not tell"
                " it: it was left so, with the restore's masteruser and masterauth. Promote it and undo the restore, or"
                " set these."
            )
        if not part.is_primary:
            await connection.run("REPLICAOF", "NO", "ONE")
        await connection.run("CONFIG", "SET", "masterauth", mark.password)
        await connection.run("CONFIG", "SET", "masteruser", mark.user)  # last: it is the mark

    def asked(
        self, purpose: str, seconds: float = ANSWER_SECONDS
    ) -> contextlib.AbstractAsyncContextManager[Connection]:
        return asking(self.server, seconds, purpose)

    @contextlib.asynccontextmanager
    async def connected(self, purpose: str) -> AsyncIterator[BytesConnection]:
        """For longer work; each wait in it is bounded by whoever waits. Raises RestoreFailed, Unreachable."""
        try:
            async with bytes_connected(self.server, ANSWER_SECONDS) as connection:
                yield connection
        except ServerSaid as error:
            raise RestoreFailed(f"Redis {self.server} refused to {purpose}: {error}.") from error
        except LOST as error:
            raise Unreachable(
                f"Redis {self.server} was lost, asked to {purpose}: {str(error) or type(error).__name__}."
            ) from error


async def _replica_mark(connection: Connection) -> ReplicaMark | None:
    try:
        answer = await connection.run("CONFIG", "GET", "masteruser")
    except ServerSaid as error:  # managed services have no CONFIG, and are never made replicas by us
        if error.code in PASSING:
            raise
        return None
    return ReplicaMark.parse(str(answer[1])) if answer and len(answer) > 1 and answer[1] else None
