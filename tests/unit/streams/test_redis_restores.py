"""What a restore into a running Redis must not do to it, whatever others do there meanwhile."""

from __future__ import annotations

import pytest

from recovery.adapters.redis.by_replication import restore_by_replication
from recovery.adapters.redis.recovery import RedisDumps
from recovery.adapters.redis.scratch import ScratchServer
from recovery.adapters.redis.target import ReplicaMark, Target
from recovery.errors import NotOurs, Refused, RestoreFailed
from recovery.ports.redis import RedisRestoreOptions
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
            await restore_by_replication(Target(server), ScratchServer(own, own.port), own.host, mark, 5)
        assert "REPLICAOF NO ONE" not in fake.sent
        found = ReplicaMark.parse(fake.config["masteruser"])
        assert found is not None and found.upstream == ("127.0.0.1", own.port)
        words = next(words for words in scratch.said if words[0] == "ACL")
        assert words[2] == fake.config["masteruser"], "as whom it logs in there"
    assert fake.said.index(["MULTI"]) < fake.said.index(["REPLICAOF", "127.0.0.1", str(own.port)])


async def test_a_server_that_is_fenced_after_it_was_compared_stays_fenced() -> None:
    fake = replicating(("127.0.0.1", 1))
    async with fake.serving() as server, Target(server).asked("become a primary") as connection:
        with pytest.raises(NotOurs, match=r"replicates from \('127.0.0.1', 1\) by now"):
            await Target(server).detach(connection, MARK)
    assert fake.sent == []
