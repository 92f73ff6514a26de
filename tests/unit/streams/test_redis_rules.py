"""When a Redis may follow another one, and how it is known that a primary lost its data."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from recovery.adapters.listening import Listener, accepts, write_durably
from recovery.adapters.redis.configured import starts_at_rest
from recovery.adapters.redis.connection import RedisServer
from recovery.adapters.redis.link import collapsed
from recovery.adapters.redis.replication import Replication
from recovery.errors import Refused

PRIMARY = Replication(
    is_primary=True,
    read_only=True,
    upstream=None,
    link_up=False,
    syncing=False,
    last_heard=-1,
    replid="new",
    offset=200,
    replid2="old",
    second_offset=101,
    counts=True,
    keys=1000,
    run_id="a",
)


@pytest.mark.parametrize(
    ("replid", "offset", "counts", "expected"),
    [
        ("new", 200, True, True),
        ("new", 201, True, False),
        ("old", 100, True, True),
        ("old", 101, True, False),  # one byte beyond the fork is somebody's write
        ("other", 5, True, False),
        ("old", 0, False, False),  # a primary that never had a replica counts nothing, whatever it holds
    ],
)
def test_an_ancestor_has_nothing_that_the_primary_lacks(replid: str, offset: int, counts: bool, expected: bool) -> None:
    old = replace(PRIMARY, replid=replid, offset=offset, counts=counts, replid2="none", second_offset=-1)
    assert PRIMARY.descends_from(old) is expected


@pytest.mark.parametrize(
    ("ours", "theirs", "lost"),
    [(1, 0, True), (0, 0, False), (99, 1, False), (100, 49, True), (100, 50, False), (1000, 2000, False)],
)
def test_a_primary_without_half_of_many_keys_has_collapsed(ours: int, theirs: int, lost: bool) -> None:
    assert bool(collapsed(ours, replace(PRIMARY, keys=theirs))) is lost


@pytest.mark.parametrize(
    ("text", "secure"),
    [
        ("port 1\nreplicaof 127.0.0.1 1\n", True),
        ('slaveof "127.0.0.1" 1\n', True),
        ("port 1\n", False),
        ("replicaof 127.0.0.1 1\nREPLICAOF no one\n", False),
        ("# replicaof 127.0.0.1 1\n", False),
    ],
)
async def test_the_configuration_file_decides_how_it_starts(tmp_path: Path, text: str, secure: bool) -> None:
    path = tmp_path / "redis.conf"
    path.write_text(text)
    server = RedisServer("127.0.0.1", 1)
    if secure:
        await starts_at_rest(server, str(path), [])
        return
    with pytest.raises(Refused, match="would start as a primary"):
        await starts_at_rest(server, str(path), [])


async def test_only_a_process_with_the_right_name_is_killed() -> None:
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); s.accept()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)  # noqa: ASYNC220
    assert process.stdout is not None
    try:
        port = int(await asyncio.to_thread(process.stdout.readline))
        name = Path(f"/proc/{process.pid}/comm").read_text().strip()
        assert await Listener("127.0.0.1", port, frozenset({"redis-server"})).kill(1) == []
        assert process.poll() is None
        listener = Listener("127.0.0.1", port, frozenset({name}))
        assert await listener.pids() == [process.pid]
        process.send_signal(signal.SIGSTOP)
        assert await listener.kill(1) == [process.pid]
        assert process.wait(1) == -signal.SIGKILL
        assert not await accepts("127.0.0.1", port, 0.2)
        assert await listener.kill(1) == []
    finally:
        process.kill()
        process.wait()


async def test_a_frozen_listener_still_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert await accepts("127.0.0.1", silent.getsockname()[1], 0.2)


def test_a_file_that_is_replaced_stays_a_link_and_keeps_its_mode(tmp_path: Path) -> None:
    target, link = tmp_path / "real" / "fence.conf", tmp_path / "fence.conf"
    write_durably(target, "one", mode=0o644)
    target.chmod(0o640)
    link.symlink_to(target)
    write_durably(link, "two")
    assert link.is_symlink()
    assert target.read_text() == "two"
    assert target.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in target.parent.iterdir()] == ["fence.conf"]
