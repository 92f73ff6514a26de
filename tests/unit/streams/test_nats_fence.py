"""The fence of a NATS server is opened in the very process that ran when permission was given, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client

from recovery.adapters.listening import Processes
from recovery.adapters.nats.connection import NatsServer, cluster_of
from recovery.adapters.nats.fence import FENCED, OPEN, Fence
from recovery.errors import Contended, Unreachable


@dataclass
class Server:
    """Stands in for nats-server: it notes what its file says whenever it is told to read it."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def read(self) -> list[str]:
        log = self.folder / "read"
        return [FENCED if "deny" in line else OPEN for line in log.read_text().splitlines()] if log.exists() else []

    def is_open(self) -> bool:
        return bool(self.read) and self.read[-1] == OPEN and self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


_READS = """trap 'grep -c deny "$0/fence" >/dev/null && echo deny >> "$0/read" || echo open >> "$0/read"' HUP
echo ready; while :; do sleep 0.02; done"""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Server]:
    process = subprocess.Popen(["/bin/sh", "-c", _READS, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    server = Server(folder, process)
    try:
        yield server
    finally:
        server.kill()
        process.stdout.close()


@pytest.fixture
async def fenced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Fence, Server]]:
    fence = Fence(NatsServer("127.0.0.1", 1), tmp_path / "fence")
    await fence.secure()
    with served(tmp_path) as server:

        async def pids() -> list[int]:
            return [server.process.pid]

        async def is_open() -> bool:
            return server.is_open()

        monkeypatch.setattr(fence.listener, "pids", pids)
        monkeypatch.setattr(fence, "is_open", is_open)
        yield fence, server


def disk(server: Server) -> str:
    return (server.folder / "fence").read_text()


async def test_it_is_opened_for_a_moment_and_fenced_on_the_disk_again(fenced: tuple[Fence, Server]) -> None:
    fence, server = fenced
    asked: list[str] = []

    def permitted() -> str | None:
        asked.append(disk(server))
        return None

    await fence.open(permitted)
    assert server.read == [OPEN] and disk(server) == FENCED
    assert asked[0] == OPEN, "it is asked after the last thing that may take its time, right before the act"


async def test_a_server_that_is_busy_with_its_configuration_is_asked_again(
    fenced: tuple[Fence, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    fence, server = fenced
    troubles = [ConnectionResetError(), nats.errors.FlushTimeoutError(), nats.errors.FlushTimeoutError()]

    async def busy() -> bool:
        if troubles:
            raise troubles.pop()
        return server.is_open()

    monkeypatch.setattr(fence, "is_open", busy)
    await fence.open(lambda: None)
    assert not troubles and server.read == [OPEN] and disk(server) == FENCED


async def test_without_permission_nobody_is_told(fenced: tuple[Fence, Server]) -> None:
    fence, server = fenced
    with pytest.raises(Contended, match="must not become primary: the lease ended"):
        await fence.open(lambda: "the lease ended")
    await asyncio.sleep(0.1)
    assert OPEN not in server.read and disk(server) == FENCED


async def test_a_permission_that_ends_on_the_way_is_taken_back(
    fenced: tuple[Fence, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    fence, server = fenced
    answers: list[str | None] = [None, None]

    async def never() -> bool:
        return False

    monkeypatch.setattr(fence, "is_open", never)
    with pytest.raises(Contended, match="the lease ended"):
        await fence.open(lambda: answers.pop() if answers else "the lease ended")
    await asyncio.sleep(0.1)
    assert disk(server) == FENCED and server.read[-1] == FENCED


async def test_a_server_that_was_killed_after_the_check_is_not_met(fenced: tuple[Fence, Server]) -> None:
    """The guard stands still past its lease's end: the companion kills the server, and something starts it again."""
    fence, server = fenced
    second: list[Server] = []
    with contextlib.ExitStack() as stack:

        def paused() -> str | None:
            if not second:
                server.kill()
                second.append(stack.enter_context(served(server.folder)))
            return None

        with pytest.raises(Unreachable, match="ended while it was to be promoted"):
            await fence.open(paused)
        await asyncio.sleep(0.1)
        assert OPEN not in second[0].read and disk(server) == FENCED


def test_a_signal_reaches_the_very_process_or_nobody() -> None:
    process = subprocess.Popen(["/bin/sleep", "60"])
    with Processes([process.pid, 2**22 + 1]) as processes:
        assert processes.signal(signal.SIGCONT) == 1
        process.kill()
        process.wait()
        assert processes.signal(signal.SIGHUP) == 0


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"server_name": "east"}, None),
        ({"server_name": "east", "cluster": "three"}, "three"),
        ({"server_name": "east", "cluster": "east"}, None),  # a leaf node says so of itself
        ({"server_name": "east", "cluster": "east", "connect_urls": ["10.0.0.5:4222"]}, "east"),
    ],
)
def test_a_leaf_node_is_no_cluster(said: dict[str, object], name: str | None) -> None:
    client = Client()
    client._server_info = said
    assert cluster_of(client) == name
