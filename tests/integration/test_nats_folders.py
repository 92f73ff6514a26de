"""``drctl restore --from-folder``: what the ``nats`` command wrote, put into a real server by ours.

The folders in ``nats_folders`` were written by ``nats account backup --consumers`` (0.5.1), of servers 2.15.1 and
2.11.10: ``orders`` has 12 messages without the 7th, and a consumer that has acknowledged five; ``audit`` has one.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from recovery.adapters.nats.connection import api, connected, stream_info
from recovery.adapters.nats.consumers import positions
from tests.integration.nats_servers import PASSWORD, OwnNats, own_nats
from tests.unit.drctl.rig import MINIMAL, drctl

FOLDERS = Path(__file__).parent / "nats_folders"
KINDS = sorted(path.name for path in FOLDERS.iterdir())
NATS = """    nats: {user: recovery, password: env:NATS_PASSWORD, streams: all}
"""


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnNats]:
    made = OwnNats(tmp_path_factory.mktemp("nats"), "east")
    made.fence_file.write_text("\n")  # nobody is fenced
    with own_nats(made):
        await made.start()
        yield made


@pytest.fixture
async def nats(server: OwnNats) -> AsyncIterator[OwnNats]:
    yield server
    async with connected(server.server) as client:
        for stream in ("orders", "audit"):
            if await stream_info(client, stream) is not None:
                await api(client, f"STREAM.DELETE.{stream}", timeout=10.0)


@pytest.fixture
def config(server: OwnNats, tmp_path: Path) -> Path:
    text = MINIMAL.read_text().replace("    critical_tables:", f"{NATS}    critical_tables:")
    for region, address in ((1, str(server.server)), (2, "127.0.0.1:1")):  # nobody is there in region-b
        text = text.replace(f"dns_value: 127.0.0.{region}", f"dns_value: 127.0.0.{region}\n        nats: {address}")
    (tmp_path / "recovery.yaml").write_text(text)
    return tmp_path / "recovery.yaml"


async def restore(config: Path, folder: Path, *options: str, region: str = "region-a") -> Any:
    arguments = ["restore", "--from-folder", str(folder), "--to-region", region, *options]
    return await asyncio.to_thread(drctl, *arguments, config=config, NATS_PASSWORD=PASSWORD)


async def messages(nats: OwnNats, stream: str) -> list[tuple[int, str, bytes, str | None]]:
    """Sequence, subject, body, and the header ``Kind``."""
    async with connected(nats.server) as client:
        info = await stream_info(client, stream)
        assert info is not None
        subscription = await client.jetstream().subscribe(f"{stream}.>", ordered_consumer=True)
        found = [await subscription.next_msg(10) for _ in range(info["state"]["messages"])]
        return [(m.metadata.sequence.stream, m.subject, m.data, (m.headers or {}).get("Kind")) for m in found]


def streams_of(said: Any) -> dict[str, dict[str, Any]]:
    return {each["stream"]: each for each in json.loads(said.stdout)["streams"]}


def expected_orders() -> Sequence[tuple[int, str, bytes, str | None]]:
    return [
        (number, f"orders.{number % 4}", f"order {number}".encode(), f"k{number % 3}")
        for number in range(1, 13)
        if number != 7
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_account_that_the_nats_command_backed_up_loads(nats: OwnNats, config: Path, kind: str) -> None:
    said = await restore(config, FOLDERS / kind, "-o", "json")
    assert said.exit_code == 0, said.output
    done = streams_of(said)
    assert (done["orders"]["messages"], done["orders"]["last_seq"], done["orders"]["consumers"]) == (
        11,
        12,
        ["shipping"],
    )
    assert done["audit"]["messages"] == 1
    assert await messages(nats, "orders") == expected_orders()
    assert [body for _, _, body, _ in await messages(nats, "audit")] == [b"ana"]
    async with connected(nats.server) as client:
        (shipping,) = [each for each in await positions(client, "orders") if each.name == "shipping"]
        assert (shipping.handled, shipping.delivered) == (5, 5)
        acknowledged = await client.jetstream().publish("orders.1", b"the next one", timeout=10)
    assert acknowledged.seq == 13


async def test_a_stream_that_is_there_stays_unless_it_is_to_be_replaced(nats: OwnNats, config: Path) -> None:
    one = FOLDERS / KINDS[-1] / "orders"
    said = await restore(config, one)
    assert said.exit_code == 0 and "orders" in said.stdout and "shipping" in said.stdout, said.output
    async with connected(nats.server) as client:
        await client.jetstream().publish("orders.1", b"newer", timeout=10)
    # Of an account's folders none is restored where one cannot be.
    for folder in (one, one.parent):
        refused = await restore(config, folder)
        assert refused.exit_code == 2, refused.output
        assert "has orders (12 messages) already: say --replace" in refused.stderr
    assert len(await messages(nats, "orders")) == 12
    async with connected(nats.server) as client:
        assert await stream_info(client, "audit") is None
    unconfirmed = await restore(config, one, "--replace")
    assert unconfirmed.exit_code == 2 and "deletes in region-a the 1 stream orders" in unconfirmed.stderr
    replaced = await restore(config, one.parent, "--stream", "orders", "--replace", "--yes")
    assert replaced.exit_code == 0, replaced.output
    assert await messages(nats, "orders") == expected_orders()


async def test_what_is_incomplete_deletes_nothing(nats: OwnNats, config: Path, tmp_path: Path) -> None:
    whole, folder = FOLDERS / "of-2.15", tmp_path / "folder"
    assert (await restore(config, whole / "orders")).exit_code == 0
    shutil.copytree(whole, folder)
    archive, description = folder / "orders" / "stream.arc.s2", folder / "orders" / "backup.json"
    bodies = archive.read_bytes(), description.read_text()

    async def refused(words: str, code: int, *options: str) -> None:
        said = await restore(config, folder / "orders", "--replace", "--yes", *options, "-o", "json")
        answer = json.loads(said.stdout)
        assert said.exit_code == answer["exit"] == code and words in answer["error"], said.output

    archive.write_bytes(bodies[0][:-7])
    await refused("stream.arc.s2 is damaged or incomplete", 1)
    archive.write_bytes((whole / "audit" / "stream.arc.s2").read_bytes())
    await refused("holds files of two backups: its archive says messages 1, and backup.json 11", 1)
    archive.unlink()
    await refused("has no stream.tar.s2 and no stream.arc.s2", 2)
    archive.write_bytes(bodies[0])
    description.write_text(bodies[1].replace('"num_replicas": 1', '"num_replicas": 3'))
    await refused("had 3 replicas", 2)
    description.write_text("")  # as the nats command leaves it when its backup failed
    await refused("backup.json: It is no backup.json of a stream", 1)
    description.unlink()
    await refused("has no backup.json", 2)
    description.write_text(bodies[1])
    await refused("no backup of stream audit: it has orders", 2, "--stream", "audit")
    await refused("cannot be restored as copy", 2, "--target-stream", "copy")
    assert await messages(nats, "orders") == expected_orders()


async def test_an_account_that_is_restored_in_part_says_which_part(nats: OwnNats, config: Path, tmp_path: Path) -> None:
    """A damaged block is found by the server alone: the stream is deleted again, and what is whole stays."""
    folder = tmp_path / "folder"
    shutil.copytree(FOLDERS / "of-2.15", folder)
    archive = folder / "orders" / "stream.arc.s2"
    body = bytearray(archive.read_bytes())
    body[len(body) // 2] ^= 0xFF
    archive.write_bytes(body)
    said = await restore(config, folder)
    assert said.exit_code == 1 and "Restored before it, and left as they are: audit." in said.stderr, said.output
    assert len(await messages(nats, "audit")) == 1
    async with connected(nats.server) as client:
        assert await stream_info(client, "orders") is None


async def test_a_server_that_is_gone_is_said_so(config: Path) -> None:
    said = await restore(config, FOLDERS / "of-2.15", "-o", "json", region="region-b")
    assert said.exit_code == 3 and "127.0.0.1:1" in json.loads(said.stdout)["error"], said.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--from-folder needs --to-region: region-a or region-b"),
        (["--to-region", "region-c"], "group shop has no NATS in region-c: it has one in region-a and region-b"),
        (["--point", "20261122T101500Z-streams-1a2b3c4d"], "leave out --point"),
        (["--store", "redis"], "--from-folder is for JetStream: leave out --store redis"),
        (["--no-wait"], "leave out --no-wait"),
        (["--index", "orders"], "--index goes with --store search"),
        (["--latest"], "(or another moment) goes with --store postgres"),
    ],
)
async def test_what_does_not_go_with_a_folder(config: Path, options: list[str], words: str) -> None:
    said = await asyncio.to_thread(drctl, "restore", "--from-folder", str(FOLDERS / "of-2.15"), *options, config=config)
    assert said.exit_code == 2 and words in " ".join(said.stderr.split()), said.output
