"""Children: streamed, killed on cancel, dying with their parent, and never told a secret in the open."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from recovery.adapters.process import Child, clean_environment, password_file, run
from recovery.ports.postgres import PostgresLogin

LOGIN = PostgresLogin("db", 5432, "clerk", "shop", password=r"p:w\x")


async def test_output_code_and_complaints_are_returned() -> None:
    done = await run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.code, done.stdout, done.stderr) == (3, "out\n", "err")


async def test_a_child_that_takes_too_long_is_killed() -> None:
    with pytest.raises(TimeoutError):
        await run(["sleep", "60"], timeout=0.2)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 100_000


async def test_feeding_a_child_that_stops_reading_ends() -> None:
    async with Child(["sh", "-c", "head -c 10; echo full >&2; exit 2"], stdin=True) as child:
        assert await child.feed(endless()) is False
        assert await child.wait() == 2
        assert child.stderr == "full"


async def test_what_is_fed_arrives_whole() -> None:
    async def data() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100_000

    async with Child(["wc", "-c"], stdin=True) as child:
        assert await child.feed(data()) is True
        assert b"".join([chunk async for chunk in child.chunks()]).strip() == b"3000000"


async def test_a_child_is_gone_when_its_context_is_left_however_often_that_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What follows removes the folder that it writes into."""
    killed = asyncio.Event()
    monkeypatch.setattr(os, "killpg", lambda pid, number: killed.set())
    pids: list[int] = []

    async def work() -> None:
        async with Child(["sleep", "60"]) as child:
            pids.append(child.pid)
            await child.wait()

    task = asyncio.create_task(work())
    while not pids:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait_for(killed.wait(), 5)
    try:
        task.cancel()
        ended, _ = await asyncio.wait({task}, timeout=0.1)
        assert not ended, "it takes a moment to die"
    finally:
        os.kill(pids[0], signal.SIGKILL)
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled()
    assert not psutil.pid_exists(pids[0])


async def test_cancellation_kills_the_child_and_its_children() -> None:
    started = asyncio.Event()
    pids: list[int] = []

    async def work() -> None:
        async with Child(["sh", "-c", "sleep 60 & echo $!; wait"]) as child:
            async for chunk in child.chunks():
                pids.extend([child.pid, int(chunk)])
                started.set()

    task = asyncio.create_task(work())
    await asyncio.wait_for(started.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=30)
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


PARENT = """
import asyncio, sys
from recovery.adapters.process import Child
async def main():
    async with Child(["sleep", "60"]) as child:
        print(child.pid, flush=True)
        await child.wait()
asyncio.run(main())
"""


def test_a_child_dies_with_its_parent_however_that_ends() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


async def test_the_password_reaches_the_child_and_nobody_else() -> None:
    with password_file(LOGIN) as (extra, descriptors):
        path = extra["PGPASSFILE"]
        reading = f"cat {path}; stat -L -c %a {path}"
        async with Child(
            ["sh", "-c", reading], environment=clean_environment() | extra, descriptors=descriptors
        ) as child:
            text = b"".join([chunk async for chunk in child.chunks()]).decode()
        assert text.splitlines() == [r"*:*:*:*:p\:w\\x", "600"]
        assert "p:w" not in str(extra)
    assert "p:w" not in repr(LOGIN)
    with password_file(PostgresLogin("db", 5432)) as (extra, descriptors):
        assert (extra, descriptors) == ({}, ())


def test_a_childs_environment_knows_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "ours")
    monkeypatch.setenv("PGHOST", "elsewhere")
    found = clean_environment(LOGIN)
    assert "PGPASSWORD" not in found
    assert "PGHOST" not in found
    assert found["PGSSLMODE"] == "prefer"
    assert found["LC_ALL"] == "C"
    assert Path("/proc/self").exists()
