"""The reaper and the supervisor as processes, and the packaged PostgreSQL 18."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from lab import packages
from lab.control import python_environment
from lab.elf import make_data_segments_writable
from lab.processes import is_gone

REGIONS = ["region-a", "region-b"]


def test_the_wheels_pg_verifybackup_18_is_mended_and_only_in_the_copy(tmp_path: Path) -> None:
    package = packages.postgres_package(18)
    original = package / "bin" / "pg_verifybackup"
    before = original.read_bytes()
    copied = packages.postgres_binaries(18, None, tmp_path)
    assert original.read_bytes() == before
    done = subprocess.run([copied / "pg_verifybackup", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "pg_verifybackup")
    after = (copied / "pg_verifybackup").read_bytes()
    assert len(after) == len(before)
    changed = [index for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert len(changed) == 1  # one flag of one segment
    assert after[changed[0]] == before[changed[0]] | 2
    assert make_data_segments_writable(copied / "pg_verifybackup") == 0  # a second time changes nothing


def until(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- the reaper -------------------------------------------------------------------------------------------------

LEAVES_AN_ORPHAN = "setsid sleep 300 & echo $! $TMPDIR; "


def reaped(tmp_path: Path, script: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **python_environment(), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "lab.reap", "--", "sh", "-c", script]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("true", 0), ("kill -9 $$", 137)])
def test_the_reaper_returns_the_commands_code_and_leaves_nothing(tmp_path: Path, script: str, code: int) -> None:
    with reaped(tmp_path, LEAVES_AN_ORPHAN + script) as reaper:
        assert reaper.stdout is not None
        orphan, folder = reaper.stdout.readline().strip().split(" ", 1)
        assert reaper.wait(20) == code
    assert Path(folder).parent == tmp_path
    assert not psutil.pid_exists(int(orphan))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_reaper_passes_signals_on(tmp_path: Path, with_signal: signal.Signals) -> None:
    script = "trap 'exit 3' INT TERM HUP; " + LEAVES_AN_ORPHAN + "while :; do sleep 0.05; done"
    with reaped(tmp_path, script) as reaper:
        assert reaper.stdout is not None
        orphan = int(reaper.stdout.readline().split()[0])
        reaper.send_signal(with_signal)
        assert reaper.wait(20) == 3
    assert not psutil.pid_exists(orphan)


def test_a_command_that_is_started_in_a_background_hears_signals_all_the_same(tmp_path: Path) -> None:
    """A shell without job control has its background jobs ignore SIGINT, and nohup SIGHUP; children inherit that."""
    script = "trap 'exit 3' INT; echo ready; while :; do sleep 0.05; done"
    command = [sys.executable, "-m", "lab.reap", "--", "sh", "-c", script]
    environment = {**os.environ, **python_environment(), "TMPDIR": str(tmp_path)}
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", ignoring, *command], env=environment, stdout=subprocess.PIPE, text=True
    ) as reaper:
        try:
            assert reaper.stdout is not None
            assert reaper.stdout.readline() == "ready\n"
            reaper.send_signal(signal.SIGINT)
            assert reaper.wait(20) == 3
        finally:
            reaper.kill()


@pytest.mark.parametrize("victim", ["outer", "inner"])
def test_a_killed_reaper_leaves_nothing_either(tmp_path: Path, victim: str) -> None:
    with reaped(tmp_path, LEAVES_AN_ORPHAN + "exec sleep 300") as reaper:
        assert reaper.stdout is not None
        orphan = int(reaper.stdout.readline().split()[0])
        inner = psutil.Process(reaper.pid).children()[0]
        command = inner.children()[0]
        psutil.Process(reaper.pid if victim == "outer" else inner.pid).kill()
        reaper.wait(20)
        until(lambda: not any(psutil.pid_exists(pid) for pid in (orphan, inner.pid, command.pid)))
        until(lambda: list(tmp_path.iterdir()) == [])


def test_the_reaper_removes_what_labs_left(tmp_path: Path) -> None:
    """Two labs whose supervisors were killed, the second with a folder elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "data").mkdir(parents=True)
    state = json.dumps({"folder_made": True, "reserved_ports": [], "outer_folders": [str(elsewhere)]})
    script = 'cd "$TMPDIR"; mkdir -p one/log two/log; echo {} > one/lab.json; echo [] > lab.json; '
    runs = tmp_path / "runs"
    runs.mkdir()
    with reaped(runs, script + f"echo '{state}' > two/lab.json") as reaper:
        assert reaper.wait(20) == 0
    assert list(runs.iterdir()) == []
    assert not elsewhere.exists()


def test_the_reaper_says_how_it_is_called(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lab.reap", "ls"],
        env={**os.environ, **python_environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "Usage: python -m lab.reap -- command arguments...\n")
    with reaped(tmp_path, "exit 0") as reaper:
        assert reaper.wait(20) == 0


async def test_the_event_loop_is_free_while_a_supervisor_starts() -> None:
    from lab.control import start_supervisor

    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.ensure_future(tick())
    owned = await start_supervisor(None, REGIONS)
    ticking.cancel()
    assert ticks > 5
    await owned.wait()
    assert await asyncio.to_thread(owned.folder.exists) is False


async def test_a_cancelled_start_waits_until_the_supervisor_is_gone(tmp_path: Path) -> None:
    from lab.control import start_supervisor

    folder = tmp_path / "lab"
    starting = asyncio.ensure_future(start_supervisor(folder, REGIONS))
    while not starting.done() and not supervisors_of(folder):
        await asyncio.sleep(0.001)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert supervisors_of(folder) == []
    assert await asyncio.to_thread(folder.exists) is False


def supervisors_of(folder: Path) -> list[int]:
    """The supervisors that this process started for a lab in `folder` and that still run."""
    children = [child for child in psutil.Process().children() if not is_gone(child)]
    return [child.pid for child in children if str(folder) in child.cmdline()]
