"""A dump into a running server as a replica's data: a scratch server loads it, and the target replicates from there.

The target takes all of it at once, with its own memory as the only bound, keeps every expiry and function, and is a
primary with a history of its own afterwards. Until it has received everything it keeps what it had.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from recovery.adapters.redis.connection import Connection, RedisServer, asking
from recovery.adapters.redis.key_mark import KeyMarks, mark_key, watched_marks
from recovery.adapters.redis.replication import Replication, replication
from recovery.adapters.redis.scratch import ScratchServer
from recovery.adapters.redis.server_info import MARK_KEY, RESTORED_KEY, functions, server_info
from recovery.adapters.redis.target import ANSWER_SECONDS, ReplicaMark, Target, TargetState
from recovery.errors import RecoveryError, Refused, RestoreFailed, Unreachable
from recovery.ports.redis import RedisRestoreOptions

POLL = 0.1
_PROGRESS = ("master_link_status", "master_sync_left_bytes", "master_sync_read_bytes", "loading_loaded_bytes")
_SETTINGS = ("masteruser", "masterauth", "tls-replication", "replica-read-only")
MOST_BEGINNINGS = 3  # of a full synchronisation
COMPARE_SECONDS = 10.0  # keys expire meanwhile, on the replica a moment later


async def replica_mark(target: Target, state: TargetState, options: RedisRestoreOptions, tls: bool) -> ReplicaMark:
    """Before anything is changed. ``tls``: whether the scratch server serves it. Raises Refused where the target may
    not be made a replica."""
    if state.info.clustered:
        raise Refused(
            f"Redis {target.server} is in cluster mode, where REPLICAOF is not to be had: restore key by key."
        )
    if state.replica_mark is not None and state.replica_mark.restore_id == options.restore_id:
        return replace(state.replica_mark, mark=options.mark)  # an earlier attempt knows what was before it
    try:
        async with target.asked("say as whom it replicates") as connection:
            user, password, tls_only, read_only = [await _setting(connection, name) for name in _SETTINGS]
    except Refused as error:
        raise Refused(f"{error} Restore key by key where nobody may replicate.") from error
    wants_tls = tls_only == "yes"
    if wants_tls != tls:
        theirs, ours = ("by TLS only", "has no certificate") if wants_tls else ("without TLS", "serves TLS only")
        raise Refused(
            f"Redis {target.server} replicates {theirs}, and the scratch server {ours}: change either, or restore key"
            " by key."
        )
    if read_only == "no":
        raise Refused(f"Redis {target.server} would accept writes while it is filled: set replica-read-only to yes.")
    return ReplicaMark(options.mark, user, password)


async def restore_by_replication(
    target: Target, scratch: ScratchServer, host: str, mark: ReplicaMark, standing: KeyMarks, silence: float
) -> tuple[dict[int, int], list[str]]:
    """Keys by database, and function libraries. The target has the mark in its data then, and is a primary.

    Args:
        host: where the target reaches the scratch server.
        mark: what the target's login was before.
        standing: what its marks were when it was found free; nothing, where it answered nothing about its data.

    Raises:
        Refused, RestoreFailed, Unreachable: the target is left as ``Target.remove`` undoes it.
        Contended: its marks are others by now. Nothing was changed.
    """
    mark = replace(mark, upstream=(host, scratch.port))
    password = secrets.token_urlsafe(32)
    hashed = hashlib.sha256(password.encode()).hexdigest()
    async with _ask(scratch.own, "let a replica log in") as connection:
        await connection.run("ACL", "SETUSER", mark.text(), "on", f"#{hashed}", "+psync", "+replconf", "+ping")
        await connection.at_once(("DEL", RESTORED_KEY), ("SET", MARK_KEY, mark.mark))
    async with target.asked("replicate from a scratch server") as connection:
        await _attach(connection, target, mark, standing, password)
    await _followed(target, scratch, mark, silence)
    found = await _compared(target, scratch)
    async with target.asked("become a primary") as connection:
        await target.detach(connection, mark)
        part = await replication(connection)
    if not part.is_primary:
        raise RestoreFailed(f"Redis {target.server} did not become a primary: somebody else made it a replica.")
    return found


async def _attach(connection: Connection, target: Target, mark: ReplicaMark, standing: KeyMarks, password: str) -> None:
    """At once: of an earlier attempt it may replicate from another scratch server, and the mark must say from which.

    This attempt may have been held up since the target was looked at: a primary's marks decide in the same moment.
    """
    if (await replication(connection)).is_primary and (name := await mark_key(connection)) is not None:
        found = await watched_marks(connection, name)
        if (found.mark, found.completed_by) != (standing.mark, standing.completed_by):
            raise target.taken_meanwhile()
    done = await connection.at_once(
        ("CONFIG", "SET", "masteruser", mark.text()),
        ("CONFIG", "SET", "masterauth", password),
        ("REPLICAOF", *mark.upstream),
    )
    if not done:
        raise target.taken_meanwhile()


async def _followed(target: Target, scratch: ScratchServer, mark: ReplicaMark, silence: float) -> None:
    """Returns once the link stands and everything of the scratch server is there.

    Raises:
        RestoreFailed: somebody else changed its part, or it begins again and again.
        Unreachable: no progress for ``silence`` seconds.
    """
    moved, seen = time.monotonic(), ""
    while True:
        try:
            async with _ask(scratch.own, "say how far it is") as connection:
                offset = (await replication(connection)).offset
                begun = int((await connection.info("stats")).get("sync_full", 0))
            if begun > MOST_BEGINNINGS:
                raise RestoreFailed(
                    f"Redis {target.server} began {begun} times to take the data, and lost them each time: see its log."
                    " Has it memory enough?"
                )
            async with target.asked("say how far it is", silence) as connection:
                info = await connection.info("replication", "persistence")
                part = await replication(connection)
            _check_part(target, part, mark)
            if part.link_up and part.offset >= offset:
                return
            progress = " ".join(f"{name} {info[name]}" for name in _PROGRESS if name in info)
        except Unreachable as error:  # it answers nothing while it deletes what it had
            progress = str(error)
        if progress != seen:
            moved, seen = time.monotonic(), progress
        if time.monotonic() - moved > silence:
            raise Unreachable(
                f"Redis {target.server} makes no progress in replicating from the scratch server at port {scratch.port}"
                f" ({seen}): see its log. Can it reach this host there?"
            )
        await asyncio.sleep(POLL)


def _check_part(target: Target, part: Replication, mark: ReplicaMark) -> None:
    if part.upstream != mark.upstream:
        raise RestoreFailed(
            f"Redis {target.server} replicates no more from the scratch server: somebody else made it"
            f" {'a primary' if part.is_primary else f'a replica of {part.upstream}'} meanwhile."
        )


async def _compared(target: Target, scratch: ScratchServer) -> tuple[dict[int, int], list[str]]:
    """Raises RestoreFailed: the target holds something else."""
    until = time.monotonic() + COMPARE_SECONDS
    while True:
        async with _ask(scratch.own, "count its keys") as connection:
            ours, ours_functions = (await server_info(connection)).keys, await functions(connection)
        async with target.asked("count its keys") as connection:
            theirs, theirs_functions = (await server_info(connection)).keys, await functions(connection)
        if ours == theirs and ours_functions == theirs_functions:
            theirs[0] = theirs.get(0, 0) - 1  # the mark
            return {number: keys for number, keys in sorted(theirs.items()) if keys}, sorted(theirs_functions or {})
        if time.monotonic() > until:
            raise RestoreFailed(
                f"Redis {target.server} holds {theirs} keys by database and functions {theirs_functions}, and the dump"
                f" {ours} and {ours_functions}."
            )
        await asyncio.sleep(POLL)


async def _setting(connection: Connection, name: str) -> str:
    answer = await connection.run("CONFIG", "GET", name)
    return str(answer[1]) if answer and len(answer) > 1 and answer[1] is not None else ""


@contextlib.asynccontextmanager
async def _ask(scratch: RedisServer, purpose: str) -> AsyncIterator[Connection]:
    try:
        async with asking(scratch, ANSWER_SECONDS, purpose) as connection:
            yield connection
    except RecoveryError as error:
        raise RestoreFailed(f"The scratch server did not {purpose}: {error}") from error
