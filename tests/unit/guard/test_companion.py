"""The companion as a process: what it ends, when, and what it leaves alone."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recovery.guard import companion

SLEEP = shutil.which("sleep") or "/bin/sleep"
PATIENCE = 10.0
LISTEN = """
import socket, time
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen()
print(listening.getsockname()[1], flush=True)
time.sleep(600)
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes that end with the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        running.append(subprocess.Popen([str(argument) for argument in arguments], **options))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.fixture
def server(tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]]) -> tuple[Path, subprocess.Popen[bytes]]:
    """Something called postgres that works in a data directory."""
    folder, program = tmp_path / "data", tmp_path / "postgres"
    folder.mkdir()
    (folder / "PG_VERSION").write_text("16\n")
    shutil.copy(SLEEP, program)
    process = started(program, "600", cwd=folder)
    _until(lambda: companion.workers_of(folder) == [process.pid])
    return folder, process


def _until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not become so in time"
        time.sleep(0.02)


def _write(state: Path, deadline: float, kind: str, detail: dict[str, Any], **values: Any) -> None:
    document = {
        "boot_id": companion.boot_id(),
        "ended": False,
        "stores": [{"group": "shop", "store": kind, "deadline": deadline, "kind": kind, "detail": detail}],
        **values,
    }
    (state / "new").write_text(json.dumps(document))
    (state / "new").rename(state / companion.DEADLINE_FILE)


def _companion(state: Path, started: Callable[..., subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    process = started(sys.executable, "-I", "-S", companion.__file__, state)
    _until((state / companion.ALIVE_FILE).exists)
    return process


def _looked(state: Path) -> None:
    """Until it has certainly looked since now."""
    alive = state / companion.ALIVE_FILE
    for _ in range(2):
        _until(functools.partial(_is_newer, alive, alive.stat().st_mtime_ns))


def _is_newer(file: Path, written_at: int) -> bool:
    return file.stat().st_mtime_ns != written_at


def test_what_is_past_its_deadline_is_ended_and_starts_as_a_standby_next(state, server, started) -> None:
    folder, process = server
    deadline = companion.now() + 0.7
    _write(state, deadline, "postgres", {"data_directory": str(folder)})
    _companion(state, started)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert 0 <= companion.now() - deadline < 1.0
    _until((folder / "standby.signal").exists)
    assert (folder / "standby.signal").stat().st_uid == folder.stat().st_uid
    _until(lambda: "killed" in (state / companion.LOG_FILE).read_text())  # it ends first, and tells then


def test_a_frozen_server_is_ended_too(state, server, started) -> None:
    folder, process = server
    process.send_signal(signal.SIGSTOP)
    _write(state, companion.now(), "postgres", {"data_directory": str(folder)})
    _companion(state, started)
    assert process.wait(PATIENCE) == -signal.SIGKILL


def test_a_deadline_that_moves_on_ends_nothing(state, server, started) -> None:
    folder, process = server
    first = companion.now() + 2
    _write(state, first, "postgres", {"data_directory": str(folder)})
    _companion(state, started)
    while companion.now() < first + 0.2:
        _write(state, companion.now() + 2, "postgres", {"data_directory": str(folder)})
        _looked(state)
    assert process.poll() is None


def test_a_file_of_another_boot_ends_nothing(state, server, started) -> None:
    folder, process = server
    _write(state, companion.now() - 5, "postgres", {"data_directory": str(folder)}, boot_id="another")
    _companion(state, started)
    _looked(state)
    assert process.poll() is None


def test_what_starts_again_past_the_deadline_is_ended_again(state, server, started) -> None:
    folder, process = server
    _write(state, companion.now(), "postgres", {"data_directory": str(folder)})
    _companion(state, started)
    process.wait(PATIENCE)
    again = started(folder.parent / "postgres", "600", cwd=folder)
    assert again.wait(PATIENCE) == -signal.SIGKILL


def test_a_standby_that_starts_past_the_deadline_is_left_alone(state, server, started) -> None:
    folder, process = server
    _write(state, companion.now(), "postgres", {"data_directory": str(folder)})
    _companion(state, started)
    process.wait(PATIENCE)
    _looked(state)
    # As a recovering server's startup process calls itself, which makes it plain that nothing is written here.
    standby = started("postgres: startup recovering 000000010000000000000003", "600",
                      executable=folder.parent / "postgres", cwd=folder)  # fmt: skip
    _looked(state)
    _looked(state)
    assert standby.poll() is None


@pytest.mark.parametrize("names", [None, ["python", "python3", "python3.11", "python3.12"], ["redis-server"]])
def test_a_listener_is_ended_by_its_address_and_name(state, started, names: list[str] | None, tmp_path: Path) -> None:
    process = started(sys.executable, "-c", LISTEN, stdout=subprocess.PIPE)
    port = int(process.stdout.readline())
    fence = tmp_path / "fence.conf"
    detail = {"host": "127.0.0.1", "port": port, "files": {str(fence): "deny"}, **({"names": names} if names else {})}
    _write(state, companion.now(), "listener", detail)
    _companion(state, started)
    if names == ["redis-server"]:
        _looked(state)
        assert process.poll() is None  # somebody else's program has the port
    else:
        assert process.wait(PATIENCE) == -signal.SIGKILL
    assert fence.read_text() == "deny"


def test_a_fence_file_is_whole_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts while it is written reads the old text or the new one: an empty file would deny nothing."""
    fence = tmp_path / "fence.conf"
    fence.write_text("allow")
    fence.chmod(0o640)
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(fence.read_text()))
    companion._write_files({"files": {str(fence): "deny"}})
    assert seen == ["allow"]
    assert fence.read_text() == "deny"
    assert fence.stat().st_mode & 0o777 == 0o640
    companion._write_files({"files": {str(fence): "deny"}})
    assert seen == ["allow"], "what stands there already is not written again"
    assert [path.name for path in tmp_path.iterdir()] == ["fence.conf"]


def test_it_hears_no_polite_signal_and_ends_when_it_is_told(state, started) -> None:
    process = _companion(state, started)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    _looked(state)
    assert process.poll() is None
    _write(state, 0.0, "postgres", {}, ended=True, stores=[])
    assert process.wait(PATIENCE) == 0


def test_it_ends_with_its_folder_and_beside_another_one(state, started) -> None:
    first = _companion(state, started)
    second = started(sys.executable, "-I", "-S", companion.__file__, state)
    assert second.wait(PATIENCE) == 0
    assert int((state / companion.LOCK_FILE).read_text()) == first.pid
    shutil.rmtree(state)
    assert first.wait(PATIENCE) == 0


@pytest.mark.parametrize("text", ["", "{", '{"boot_id": 5}', "[]", '{"stores": [{}]}'])
def test_a_file_that_is_none_stops_nothing(state, server, started, text: str) -> None:
    folder, process = server
    (state / companion.DEADLINE_FILE).write_text(text.replace("5", json.dumps(companion.boot_id())))
    _companion(state, started)
    _looked(state)
    _write(state, companion.now(), "postgres", {"data_directory": str(folder)})
    assert process.wait(PATIENCE) == -signal.SIGKILL


def test_listeners_are_told_apart_by_their_address() -> None:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.7", 0))
        other.bind(("127.0.0.8", one.getsockname()[1]))
        one.listen()
        port = one.getsockname()[1]
        assert os.getpid() in companion.listeners("127.0.0.7", port)
        assert os.getpid() not in companion.listeners("127.0.0.8", port)  # bound, and not listening
