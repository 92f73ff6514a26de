"""What a restore into a running Redis must not do to it, whatever others do there meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recovery.adapters.redis import recovery as redis_recovery
from recovery.adapters.redis.by_replication import replica_mark, restore_by_replication
from recovery.adapters.redis.key_mark import KeyMarks, is_mark, slot_of
from recovery.adapters.redis.programs import RedisProgram
from recovery.adapters.redis.recovery import RedisDumps
from recovery.adapters.redis.scratch import ScratchServer
from recovery.adapters.redis.server_info import MARK_KEY, RESTORED_KEY
from recovery.adapters.redis.target import COMPLETED_SECONDS, ReplicaMark, Target
from recovery.errors import Contended, NotOurs, RecoveryError, Refused, RestoreFailed, Unreachable
from recovery.ports.redis import RedisRestoreOptions, RestoredRedis, StoredDump
from tests.fakes.redis import a_dump
from tests.fakes.redis_target import FakeTarget

ELSEWHERE = ("10.0.0.9", 6379)
MARK = ReplicaMark("r1", "before", "password-before", ("127.0.0.1", 7000))


def replicating(upstream: tuple[str, int]) -> FakeTarget:
    """With the mark of a restore that told it to replicate from ``MARK.upstream``."""
    config = {"masteruser": MARK.text(), "masterauth": "of-the-scratch-server"}
    return FakeTarget(role="slave", upstream=upstream, config=config)


@pytest.mark.parametrize("upstream", [ELSEWHERE, ("127.0.0.1", 1), ("10.0.0.9", 7000)])
async def test_a_server_that_others_made_a_replica_is_never_promoted(upstream: tuple[str, int]) -> None:
    fake = replicating(upstream)
    async with fake.serving() as server:
        recovery = RedisDumps(server)
        with pytest.raises(NotOurs, match="it was left so"):
            await recovery.remove_restored("r1")
        state = await Target(server).state()
        with pytest.raises(Refused, match="is a replica of .*: name its primary, or promote it first"):
            Target(server).check_free(state, RedisRestoreOptions("r1", replace=True))
        assert fake.sent == []
        fake.role = "master"  # a person promoted it
        assert await recovery.remove_restored("r1")
    assert fake.sent == ["CONFIG SET masterauth password-before", "CONFIG SET masteruser before"]


async def test_a_server_that_waits_for_a_scratch_server_is_a_primary_again() -> None:
    fake = replicating(MARK.upstream)
    async with fake.serving() as server:
        Target(server).check_free(await Target(server).state(), RedisRestoreOptions("r1"))
        assert await RedisDumps(server).remove_restored("r1")
    assert fake.sent[0] == "REPLICAOF NO ONE" and fake.config == {"masteruser": "before", "masterauth": MARK.password}


async def test_a_mark_of_another_restore_is_refused_wherever_its_server_replicates_from() -> None:
    fake = replicating(ELSEWHERE)
    async with fake.serving() as server:
        with pytest.raises(Refused, match="is at restore r1, which did not end"):
            Target(server).check_free(await Target(server).state(), RedisRestoreOptions("r2", replace=True))


@pytest.mark.parametrize("role", ["slave", "master"])
async def test_a_server_that_others_take_while_it_is_filled_fails_the_restore(role: str) -> None:
    """At once, though its link stands there and it is as far as the scratch server."""

    def taken(target: FakeTarget) -> None:
        target.role, target.upstream = role, ("10.0.0.9", target.upstream[1])

    scratch, fake = FakeTarget(), FakeTarget(told=taken)
    async with scratch.serving() as own, fake.serving() as server:
        mark = ReplicaMark("r1", "before", "password-before")
        with pytest.raises(RestoreFailed, match="somebody else made it a"):
            await restore_by_replication(Target(server), ScratchServer(own, own.port), own.host, mark, KeyMarks(), 5)
        assert "REPLICAOF NO ONE" not in fake.sent
        found = ReplicaMark.parse(fake.config["masteruser"])
        assert found is not None and found.upstream == ("127.0.0.1", own.port)
        words = next(words for words in scratch.said if words[0] == "ACL")
        assert words[2] == fake.config["masteruser"], "as whom it logs in there"
    assert fake.said.index(["MULTI"]) < fake.said.index(["REPLICAOF", "127.0.0.1", str(own.port)])


async def test_an_attempt_whose_target_another_one_took_over_leaves_it_to_that_one() -> None:
    theirs = ReplicaMark("r1/other", "before", "password-before", ("127.0.0.1", 7000))

    def taken(target: FakeTarget) -> None:
        target.upstream, target.config["masteruser"] = theirs.upstream, theirs.text()

    scratch, fake = FakeTarget(), FakeTarget(told=taken)
    async with scratch.serving() as own, fake.serving() as server:
        mark = ReplicaMark("r1/one", "before", "password-before")
        with pytest.raises(RestoreFailed, match="replicates no more from the scratch server"):
            await restore_by_replication(Target(server), ScratchServer(own, own.port), own.host, mark, KeyMarks(), 5)
        assert scratch.data == {MARK_KEY: "r1/one"}
        with pytest.raises(NotOurs, match="is at another attempt of restore r1"):
            await RedisDumps(server).remove_restored("r1/one")
        assert "REPLICAOF NO ONE" not in fake.sent
        state = await Target(server).state()
        ours = await replica_mark(Target(server), state, RedisRestoreOptions("r1", attempt="three"), False)
        assert ours == replace(theirs, mark="r1/three"), "a later attempt knows what was before the first"
        assert await RedisDumps(server).remove_restored("r1") and fake.role == "master"


async def test_a_server_that_is_fenced_after_it_was_compared_stays_fenced() -> None:
    fake = replicating(("127.0.0.1", 1))
    async with fake.serving() as server, Target(server).asked("become a primary") as connection:
        with pytest.raises(NotOurs, match=r"replicates from \('127.0.0.1', 1\) by now"):
            await Target(server).detach(connection, MARK)
    assert fake.sent == []


LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"
BUSY = b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n"
NOPERM = b"-NOPERM this user has no permissions to run the 'get' command\r\n"
DOWN = b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n"


@pytest.mark.parametrize(
    ("command", "answer", "expected"),
    [
        ("GET", LOADING, Unreachable),
        ("GET", BUSY, Unreachable),
        ("GET", NOPERM, Refused),
        ("CONFIG", BUSY, Unreachable),
    ],
)
async def test_no_answer_is_not_the_answer_that_there_is_no_mark(
    command: str, answer: bytes, expected: type[RecoveryError]
) -> None:
    fake = FakeTarget(data={MARK_KEY: "r1", "key": "half"}, answers={command: answer})
    async with fake.serving() as server:
        with pytest.raises(expected):
            await RedisDumps(server).remove_restored("r1")
        with pytest.raises(expected):
            await Target(server).state()
        if command == "GET":
            with pytest.raises(expected):
                await RedisDumps(server).complete("r1")
    assert fake.sent == []


async def test_a_server_that_cannot_name_its_functions_now_is_not_taken_for_empty() -> None:
    fake = FakeTarget(answers={"FUNCTION": LOADING})
    async with fake.serving() as server:
        with pytest.raises(Unreachable, match="LOADING"):
            await Target(server).state()


async def test_a_key_of_the_marks_name_that_is_no_mark_is_left_alone() -> None:
    wrong = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
    fake = FakeTarget(data={MARK_KEY: "a list"}, answers={"GET": wrong})
    async with fake.serving() as server:
        assert not await RedisDumps(server).remove_restored("r1")
        assert not await RedisDumps(server).complete("r1")
        assert (await RedisDumps(server).look()).restore_id is None
    assert fake.sent == []


async def test_a_login_that_may_only_take_dumps_sees_the_server() -> None:
    fake = FakeTarget(data={"key": "value"}, answers={"GET": NOPERM})
    async with fake.serving() as server:
        seen = await RedisDumps(server).look()
    assert (seen.keys, seen.restore_id) == ({0: 1}, None)


async def test_a_server_that_answers_nothing_until_its_link_stands_is_known_by_its_mark() -> None:
    fake = replicating(MARK.upstream)
    fake.answers = {"GET": DOWN, "FUNCTION": DOWN}
    async with fake.serving() as server:
        assert (await Target(server).state()).restore_id == "r1"


@contextlib.asynccontextmanager
async def restoring(fake: FakeTarget, monkeypatch: pytest.MonkeyPatch, folder: Path) -> AsyncIterator[Any]:
    """A restore of no keys into it, key by key."""
    program = RedisProgram(Path("/usr/bin/redis-server"), "redis", "6.2.14")

    async def found(configured: Path | None = None) -> RedisProgram:
        return program

    @contextlib.asynccontextmanager
    async def loaded(*asked: object, **settings: object) -> AsyncIterator[ScratchServer]:
        async with FakeTarget().serving() as scratch:
            yield ScratchServer(scratch)

    async def dump() -> AsyncIterator[bytes]:
        yield a_dump()

    async def restore(restore_id: str = "r1", **options: Any) -> RestoredRedis:
        chosen = RedisRestoreOptions(restore_id, "keys", attempt="one", **options)
        return await RedisDumps(fake.server).restore(StoredDump(dump()), chosen, folder)

    monkeypatch.setattr(redis_recovery, "redis_program", found)
    monkeypatch.setattr(redis_recovery, "running", loaded)
    async with fake.serving():
        yield restore


async def test_a_restore_leaves_no_mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeTarget()
    async with restoring(fake, monkeypatch, tmp_path) as restore:
        assert (await restore()).keys == {}
        assert fake.sent[:3] == [f"DEL {RESTORED_KEY}", f"SET {MARK_KEY} r1/one", f"DEL {MARK_KEY}"]
        assert fake.sent[3:] == [f"SET {RESTORED_KEY} r1 EX {COMPLETED_SECONDS}"]
        assert (await restore("r2")).keys == {}, "that another restore was completed is no data"
        fake.data["old"] = "value"
        with pytest.raises(Refused, match="holds data already: 1 keys in database 0"):
            await restore("r3")
        assert (await restore("r3", replace=True)).keys == {} and "FLUSHALL" in fake.sent


async def test_a_key_that_an_application_writes_before_the_first_one_is_restored_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server was empty when the restore began, and when its dump was loaded."""
    fake = FakeTarget(written_after=2)
    async with restoring(fake, monkeypatch, tmp_path) as restore:
        with pytest.raises(Refused, match="holds data already: 1 keys in database 0"):
            await restore()
    assert fake.sent == [] and fake.data == {"written": "by an application"}


async def test_a_mark_that_is_gone_at_the_end_fails_the_restore(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeTarget(answers={"GET": b"$-1\r\n"})
    async with restoring(fake, monkeypatch, tmp_path) as restore:
        with pytest.raises(RestoreFailed, match="The mark of restore r1 is gone"):
            await restore()


async def test_a_failed_attempt_leaves_another_ones_work_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It was taken for dead, and its successor restores into the same server already."""

    class Shared(FakeTarget):
        def _done(self, words: list[str]) -> bytes:
            done = super()._done(words)
            if words[:2] == ["SET", MARK_KEY]:
                self.data |= {MARK_KEY: "r1/other", "key": "of the other attempt"}
            return done

    fake = Shared()
    async with restoring(fake, monkeypatch, tmp_path) as restore:
        with pytest.raises(RestoreFailed, match="has 1 keys in database 0, and 0 to 0 were restored"):
            await restore()
        assert "FLUSHALL" not in fake.sent and fake.data[MARK_KEY] == "r1/other"
        with pytest.raises(NotOurs, match="is at another attempt of restore r1: it was not touched"):
            await RedisDumps(fake.server).complete("r1/one")
        assert await RedisDumps(fake.server).remove_restored("r1") and fake.data == {}


async def test_a_late_attempt_does_not_start_over_on_what_is_the_clients_by_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeTarget(data={"old": "value"})
    async with restoring(fake, monkeypatch, tmp_path) as restore:
        await restore(keep_mark=True, replace=True)
        assert await RedisDumps(fake.server).complete("r1")
        fake.data["order"] = "paid"
        with pytest.raises(NotOurs, match="restored by another attempt of this restore, and is its clients' since"):
            await restore(replace=True)
        assert not await RedisDumps(fake.server).remove_restored("r1")
        assert fake.data["order"] == "paid"
        assert (await RedisDumps(fake.server).look()).keys == {0: 1}
        await restore("r2", replace=True)
        assert "order" not in fake.data


class HeldUp(FakeTarget):
    """Another attempt completes the restore, and a client writes, right before the first such command."""

    def __init__(self, moment: str, data: dict[str, str] | None = None) -> None:
        super().__init__(data=data or {})
        self.moment = moment

    def _answer(self, words: list[str]) -> bytes:
        if words[0] == self.moment and "order" not in self.data:
            self.data = {RESTORED_KEY: "r1", "order": "paid"}
        return super()._answer(words)


@pytest.mark.parametrize("moment", ["SELECT", "WATCH", "MULTI"])
async def test_an_attempt_that_was_held_up_since_it_looked_starts_nothing_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moment: str
) -> None:
    fake = HeldUp(moment, {"old": "value"})
    async with restoring(fake, monkeypatch, tmp_path) as restore:
        with pytest.raises(Contended, match="given to its clients since this one looked: it was not touched"):
            await restore(replace=True)
        assert fake.data == {RESTORED_KEY: "r1", "order": "paid"}
        with pytest.raises(NotOurs, match="is its clients' since"):
            await restore(replace=True)


@pytest.mark.parametrize("moment", ["WATCH", "MULTI"])
async def test_an_attempt_that_was_held_up_replicates_nothing_over_it(moment: str) -> None:
    scratch, fake = FakeTarget(), HeldUp(moment)
    async with scratch.serving() as own, fake.serving() as server:
        mark = ReplicaMark("r1/one", "", "")
        with pytest.raises(Contended, match="since this one looked"):
            await restore_by_replication(Target(server), ScratchServer(own, own.port), own.host, mark, KeyMarks(), 5)
    assert (fake.role, fake.config["masteruser"], fake.data["order"]) == ("master", "", "paid")


async def test_an_undo_that_was_held_up_deletes_nothing_of_the_clients() -> None:
    fake = HeldUp("MULTI", {MARK_KEY: "r1/one", "key": "restored"})
    async with fake.serving() as server:
        with pytest.raises(Contended, match="since this one looked"):
            await RedisDumps(server).remove_restored("r1/one")
    assert fake.data["order"] == "paid"


@pytest.mark.parametrize("slots", [range(5461), range(9000, 9002)])
async def test_each_shard_of_a_cluster_carries_its_own_mark(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slots: range
) -> None:
    """MARK_KEY itself is in slot 14915, which is another shard's."""
    fake = FakeTarget(slots=slots)
    async with restoring(fake, monkeypatch, tmp_path) as restore:
        await restore(keep_mark=True)
        (name,) = fake.data
        assert slot_of(name) in slots and is_mark(name.encode())
        recovery = RedisDumps(fake.server)
        assert (await recovery.look()).restore_id == "r1"
        with pytest.raises(NotOurs):
            await recovery.remove_restored("r2")
        fake.role = "slave"  # a replica shows it, too
        assert (await recovery.look()).restore_id == "r1"
        fake.role = "master"
        assert await recovery.complete("r1") and await recovery.complete("r1")
        (done,) = fake.data
        assert slot_of(done) == slot_of(name) and is_mark(done.encode()) and fake.data[done] == "r1"
        await restore("r2", keep_mark=True)
        assert await recovery.remove_restored("r2") and fake.data == {}


async def test_a_shard_without_slots_gets_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeTarget(slots=range(0))
    async with restoring(fake, monkeypatch, tmp_path) as restore:
        with pytest.raises(RestoreFailed, match="is of a cluster and has no slots"):
            await restore()
    assert fake.sent == []


def test_keys_are_distributed_as_a_cluster_does() -> None:
    """The answers of CLUSTER KEYSLOT in its documentation, and of the server to our mark."""
    assert slot_of("somekey") == 11058
    assert slot_of("foo{hash_tag}") == slot_of("bar{hash_tag}") == 2515
    assert slot_of(MARK_KEY) == 14915
    assert slot_of("foo{{bar}}zap") == slot_of("{bar") and slot_of("foo{}{bar}") != slot_of("bar")
    assert [is_mark(name) for name in (b"recovery-restoring", b"recovery-restoring{12}")] == [True, True]
    assert is_mark(b"recovery-restored") and is_mark(b"recovery-restored{12}")
    assert not is_mark(b"recovery-restoring{x}") and not is_mark(b"recovery-restoring:12")


async def test_a_server_that_loses_the_data_again_and_again_fails_the_restore() -> None:
    """Its link is down, then 100 bytes came, then 200, then it is down: each look shows something else."""
    states = itertools.cycle(["", "master_sync_read_bytes:100", "master_sync_read_bytes:200"])

    class Losing(FakeTarget):
        def _info(self, section: str) -> str:
            return next(states) + "\r\n" if section == "persistence" else super()._info(section)

    scratch, fake = FakeTarget(full_syncs=1), Losing(link="down")
    async with scratch.serving() as own, fake.serving() as server, asyncio.timeout(10):
        mark = ReplicaMark("r1", "", "")
        with pytest.raises(RestoreFailed, match="began 4 times to take the data"):
            await restore_by_replication(Target(server), ScratchServer(own, own.port), own.host, mark, KeyMarks(), 1)
        assert await RedisDumps(server).remove_restored("r1")
    assert fake.role == "master"
