"""``drctl up``, ``drctl worker`` and the live view, as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from temporalio.client import Client

from tests.integration.drctl_rig import ROOT, Rig, Running, temporal_server


@pytest.fixture(scope="module")
async def temporal() -> AsyncIterator[Client]:
    async with temporal_server() as client:
        yield client


@pytest.fixture
async def rig(temporal: Client, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(temporal, tmp_path)
    rig.write(change=lambda text: text.replace(
        f"  address: {temporal.service_client.config.target_host}\n", f"  state_file: {tmp_path}/temporal.db\n"
    ))  # fmt: skip
    yield rig
    await rig.end_processes()


@pytest.fixture
async def served(temporal: Client, tmp_path: Path) -> AsyncIterator[Rig]:
    """As ``rig``, on the Temporal server of all these tests."""
    rig = Rig(temporal, tmp_path)
    yield rig
    await rig.end_processes()


UP = ("up", "--port", "0", "--ui-port", "0", "--metrics-port", "0")


async def ready(rig: Rig, *arguments: str) -> Running:
    running = await rig.start(*(arguments or UP))
    await running.says("is ready")
    return running


def servers_of(running: Running) -> list[psutil.Process]:
    return [child for child in psutil.Process(running.pid).children(recursive=True) if child.name() == "temporal"]


async def gone(process: psutil.Process) -> None:
    async with asyncio.timeout(60):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.05)


async def test_up_runs_everything_and_its_state_survives(rig: Rig) -> None:
    first = await ready(rig)
    assert json.loads((rig.folder / "temporal.address").read_text())["address"].startswith("127.0.0.1:")
    listed = await rig.drctl("schedules", "list", "-o", "json")  # found without an address in the configuration
    assert listed.code == 0, listed
    done = await rig.drctl("retention", "-o", "json")
    assert done.json["state"] == "completed", done
    second = await (await rig.start(*UP, "-o", "json")).ended()
    assert second.code == 2
    assert "drctl up runs already" in second.json["error"]
    [server] = servers_of(first)
    first.terminate()
    ended = await first.ended()
    assert ended.code == 0, ended
    assert "schedules: 3 created" in ended.out and "worker of region-a, region-b is ready" in ended.out
    await gone(server)
    again = await ready(rig)
    runs = (await rig.drctl("status", "-o", "json")).json["runs"]
    assert ("Retention", "completed") in [(run["plan"], run["status"]) for run in runs]
    again.interrupt()
    after = await again.ended()
    assert "schedules: 3 unchanged" in after.out
    assert not (rig.folder / "temporal.address").exists()


async def test_the_server_of_a_killed_up_ends_with_it(rig: Rig) -> None:
    running = await ready(rig)
    [server] = servers_of(running)
    running.kill()
    await running.ended()
    await gone(server)
    again = await ready(rig)  # neither the state nor the lock is left taken
    again.terminate()
    assert (await again.ended()).code == 0


async def test_a_lost_server_ends_up_with_a_sentence(rig: Rig) -> None:
    running = await ready(rig)
    [server] = servers_of(running)
    server.kill()
    ended = await running.ended()
    assert ended.code == 3, ended
    assert "the embedded Temporal server has ended" in ended.err


async def test_a_taken_port_is_refused_by_name(rig: Rig) -> None:
    taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    said = await (await rig.start("up", "--port", str(port), "-o", "json")).ended()
    taken.close()
    assert said.code == 2
    assert f"port {port} cannot be used" in said.json["error"] and "with --port" in said.json["error"]


async def test_a_worker_takes_its_regions_steps_and_stops_at_sigterm(served: Rig) -> None:
    rig = served
    worker = await ready(rig, "worker", "--region", "region-b", "--metrics-port", "0", "-o", "json")
    done = await rig.drctl("retention", "-o", "json")
    assert (done.code, done.json["state"]) == (0, "completed")
    worker.terminate()
    ended = await worker.ended()
    assert (ended.code, ended.json["regions"]) == (0, ["region-b"])


async def test_a_terminal_sees_a_live_table_and_ctrl_c_leaves_the_run(served: Rig) -> None:
    rig = served
    rig.world.block["take-physical-backup"] = asyncio.Event()
    async with rig.worker():
        code, seen = await on_a_terminal(rig, "backup", "run", until="take-physical-backup", press=b"\x03")
        assert code == 130, seen
        assert "\x1b[" in seen, "a terminal is written to with control codes"
        assert "Budget left" in seen and "backup/shop goes on. Follow it with drctl status backup/shop" in seen
        rig.world.block["take-physical-backup"].set()
        assert (await rig.drctl("status", "backup/shop", "--watch", "-o", "json")).code == 0


async def test_a_terminal_is_asked_for_the_groups_name(served: Rig) -> None:
    rig = served
    asked = "Type the group's name (shop) to go on"
    code, seen = await on_a_terminal(rig, "recover", until=asked, press=b"books\r")
    assert code == 2
    assert "nothing was done: expected shop" in seen
    async with rig.worker():
        code, seen = await on_a_terminal(rig, "recover", until=asked, press=b"shop\r")
    assert code == 0, seen
    assert "Completed: FullRecovery of shop" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)


async def on_a_terminal(rig: Rig, *arguments: str, until: str, press: bytes) -> tuple[int, str]:
    """Runs the command on a pseudo-terminal, presses keys once ``until`` is seen; exit code and all that was shown."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drctl", *arguments, cwd=rig.folder, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(ROOT), "USER": "ana", "TERM": "xterm", "COLUMNS": "140", "LINES": "50",
             "RECOVERY_CONFIG": str(rig.config_file)},
        preexec_fn=_own_terminal,
    )  # fmt: skip
    os.close(theirs)
    shown = bytearray()
    pressed = False
    with contextlib.suppress(OSError):  # which is how the other end's closing is read
        while data := await asyncio.to_thread(os.read, ours, 4096):
            shown += data
            if not pressed and until.encode() in shown:
                os.write(ours, press)
                pressed = True
    async with asyncio.timeout(30):
        code = await process.wait()
    os.close(ours)
    return code, shown.decode(errors="replace")


def _own_terminal() -> None:
    """Makes standard input the controlling terminal, so that Ctrl-C reaches the command."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
