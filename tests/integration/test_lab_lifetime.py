"""However a lab ends, no process and no folder of it is left."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lab import Lab, LabError
from lab.control import python_environment

SMALL = {"redis", "dns"}
OWNER = """
import asyncio, json, sys
from pathlib import Path
from lab import Lab
async def main():
    lab = await Lab.start(Path(sys.argv[1]) if sys.argv[1] else None, services={"redis", "postgres"}, standby="none")
    state = lab.describe()
    pids = [pid for server in state.servers for pid in server.pids]
    print(json.dumps([str(lab.folder), *pids, state.supervisor_pid]), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def left_of(pids: list[int], folder: Path) -> list[str]:
    """Whatever still runs or lies about."""
    alive = [f"process {pid}" for pid in pids if psutil.pid_exists(pid)]
    return alive + ([str(folder)] if folder.exists() else [])


def shared_memory_segments() -> set[str]:
    """The ids of all System V segments of this machine (proc(5): the second column)."""
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


def until_nothing_is_left(pids: list[int], folder: Path) -> None:
    deadline = time.monotonic() + 15
    while left := left_of(pids, folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_end_of_the_owner_is_the_end_of_the_lab(tmp_path: Path, with_signal: signal.Signals) -> None:
    environment = {**os.environ, **python_environment(), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, ""], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        folder, *pids = json.loads(owner.stdout.readline())
        owner.send_signal(with_signal)
        owner.wait(20)
    assert len(pids) >= 8  # two Redis, one PostgreSQL with its processes, the supervisor
    until_nothing_is_left(pids, Path(folder))


async def test_killing_the_supervisor_kills_every_server(tmp_path: Path) -> None:
    lab = await Lab.start(tmp_path / "lab", services={"redis", "postgres"}, standby="none")
    state = lab.describe()
    pids = [pid for server in state.servers for pid in server.pids]
    await lab.freeze("region-a", "redis")
    psutil.Process(state.supervisor_pid).kill()
    await asyncio.to_thread(psutil.wait_procs, [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], 10)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    with pytest.raises(LabError, match="No lab answers"):
        await lab.kill("region-a", "redis")
    await lab.stop()
    again = await Lab.start(tmp_path / "lab", services=SMALL)  # what a power cut left is cleared away
    await again.stop()
    assert not (tmp_path / "lab").exists()


async def test_a_failing_start_leaves_nothing_and_names_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho 'Fatal: the moon is in the wrong phase'\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("lab.packages.redis_server", lambda: broken)
    with pytest.raises(LabError) as raised:
        await Lab.start(tmp_path / "lab", services=SMALL)
    assert "region-a/redis ended with" in str(raised.value) or "region-b/redis" in str(raised.value)
    assert "the moon is in the wrong phase" in str(raised.value)
    assert not (tmp_path / "lab").exists()


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    starting = asyncio.ensure_future(Lab.start(tmp_path / "lab", services={"redis", "postgres", "s3"}))
    while not (tmp_path / "lab" / "lab.json").exists():
        await asyncio.sleep(0.01)
    supervisor = json.loads((tmp_path / "lab" / "lab.json").read_text())["supervisor_pid"]
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert left_of([supervisor], tmp_path / "lab") == []


async def test_an_attached_lab_sees_and_ends_a_detached_one(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces, and a name that is much too long for a Unix socket's path" / ("x" * 60)
    started = await Lab.start(folder, services=SMALL)
    await started.detach()
    lab = Lab.attach(folder)
    assert {server.state for server in lab.describe().servers} == {"running"}
    with pytest.raises(LabError, match="already running"):
        await Lab.start(folder, services=SMALL)
    await lab.stop()
    assert not folder.exists()
    with pytest.raises(LabError, match="There is no lab in"):
        Lab.attach(folder)


async def test_a_folder_that_was_there_stays_and_is_emptied(tmp_path: Path) -> None:
    lab = await Lab.start(tmp_path, services={"dns"})
    await lab.stop()
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - one short call
    (tmp_path / "treasure").write_text("mine")
    for other in (None, "{}", '{"folder": "/elsewhere", "supervisor_pid": 1}', "[]"):
        if other is not None:
            (tmp_path / "lab.json").write_text(other)
        with pytest.raises(LabError, match="not empty and holds no lab"):
            await Lab.start(tmp_path, services={"dns"})
    assert (tmp_path / "treasure").read_text() == "mine"


async def test_a_place_without_standby_is_ready_to_be_restored_into(tmp_path: Path) -> None:
    async with await Lab.start(tmp_path / "lab", services={"postgres"}, standby="none", postgres=18) as lab:
        source, target = lab.postgres("region-a"), lab.postgres("region-b")
        assert lab.describe().server("region-b/postgres").state == "absent"
        assert not target.data_directory.exists()
        with pytest.raises(LabError, match="restore it first"):
            await lab.restart("region-b", "postgres")
        assert (source.password, source.port) == (target.password, target.port)
        await lab.kill("region-a", "postgres")
        await asyncio.to_thread(shutil.copytree, source.data_directory, target.data_directory)
        if target.run_as is not None:
            for path in (target.data_directory, *target.data_directory.rglob("*")):
                shutil.chown(path, target.run_as)
        await lab.kill("region-a", with_disks=True)
        await lab.kill("region-b")
        assert lab.describe().server("region-b/postgres").state == "absent"  # there was nothing to kill
        assert not source.data_directory.exists()
        await lab.restart("region-b", "postgres")  # a copy of region-a's configuration listens in region-b
        assert lab.describe().server("region-b/postgres").state == "running"


async def test_a_server_that_somebody_else_started_ends_with_the_lab(tmp_path: Path) -> None:
    lab = await Lab.start(tmp_path / "lab", services={"postgres"}, standby="none")
    place = lab.postgres("region-a")
    await lab.kill("region-a", "postgres")
    command = [str(place.bin_directory / "pg_ctl"), "-D", str(place.data_directory), "-l", "/dev/null", "-w", "start"]
    await asyncio.to_thread(
        subprocess.run, command, check=True, user=place.run_as, capture_output=True, cwd="/", timeout=30
    )
    server = lab.describe().server("region-a/postgres")
    assert server.state == "running"
    assert len(server.pids) > 3
    await lab.freeze("region-a", "postgres")
    assert {psutil.Process(pid).status() for pid in server.pids} == {psutil.STATUS_STOPPED}
    assert lab.describe().server("region-a/postgres").state == "frozen"
    segment = (place.data_directory / "postmaster.pid").read_text().splitlines()[6].split()[1]
    assert segment in shared_memory_segments()
    await lab.stop()
    assert left_of(server.pids, tmp_path / "lab") == []
    assert segment not in shared_memory_segments()


async def test_two_labs_side_by_side_do_not_meet() -> None:
    others = _store_sockets()  # of labs that were killed with all their processes, or of another user
    first, second = await asyncio.gather(*(Lab.start(regions=["region-a"], services={"s3"}) for _ in range(2)))
    try:
        ports = [set(lab.describe().reserved_ports) for lab in (first, second)]
        assert not ports[0] & ports[1]
        assert first.describe().network != second.describe().network
    finally:
        await asyncio.gather(first.stop(), second.stop())
    left = _store_sockets() - others
    assert not [name for name in left for port in ports[0] | ports[1] if name.endswith(f"-{port}.sock")]


def _store_sockets() -> set[str]:
    return {path.name for path in Path("/tmp").glob("seaweedfs-*.sock")}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"regions": ["Region A"]}, "cannot name a region"),
        ({"regions": ["a", "a"]}, "different regions"),
        ({"services": {"mysql"}}, "Unknown services mysql"),
        ({"postgres": 17}, "16 and 18, not 17"),
    ],
)
async def test_a_lab_that_cannot_be_is_refused(arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(LabError, match=expected):
        await Lab.start(**arguments)  # type: ignore[arg-type]  # that is what is tested
