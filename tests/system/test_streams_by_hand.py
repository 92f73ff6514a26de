"""RESTORE-BY-HAND.md's commands for JetStream as they stand, with the ``nats`` command itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from recovery.adapters.nats.connection import connected, stream_info
from recovery.adapters.nats.consumers import positions
from recovery.adapters.nats.recovery import JetStreamSnapshots
from recovery.ports.jetstream import archive_name
from tests.integration.nats_servers import PASSWORD, OwnNats, own_nats
from tests.integration.test_nats_snapshots import _contents, _fill
from tests.system.by_hand import Hand, a_hand, program

pytestmark = pytest.mark.system
POINT = "20261122T101500Z-streams-1a2b3c4d"
MESSAGES = 400
STREAMS = {"orders": "file", "audit-2": "memory", "$(touch_bad)": "file"}


@pytest.fixture
async def servers() -> AsyncIterator[tuple[Hand, OwnNats, OwnNats]]:
    with a_hand() as hand:
        source, target = (OwnNats(hand.folder / name, name) for name in ("east", "west"))
        with own_nats(source, target):
            for server in (source, target):
                server.folder.mkdir()
                server.fence_file.write_text("\n")  # nobody is fenced
                await server.start()
            yield hand, source, target


async def test_streams_come_back_with_sequences_and_consumers(servers: tuple[Hand, OwnNats, OwnNats]) -> None:
    nats = program("nats")
    hand, source, target = servers
    for name, storage in STREAMS.items():
        await _fill(source.server, name, MESSAGES, storage=storage)
    async with JetStreamSnapshots(source.server).source(list(STREAMS)) as opened:
        at_once = opened.at_once
    point = await hand.take(JetStreamSnapshots(source.server).source(list(STREAMS)), POINT, at_once=at_once)
    assert point.manifest.artefact(archive_name("orders")).plain_size > 0
    page = await hand.page([point])
    place = hand.begin("by-hand")
    login = {"NATS_URL": f"nats://127.0.0.1:{target.port}", "NATS_USER": "recovery", "NATS_PASSWORD": PASSWORD}
    (place / "bin").mkdir()
    (place / "bin" / "nats").symlink_to(nats)
    await hand.done(page.blocks("streams"), place, path=place / "bin", **login)
    assert not list(place.rglob("touch_bad"))
    for name in STREAMS:
        assert await _contents(target.server, name) == await _contents(source.server, name)
    async with connected(target.server) as client, connected(source.server) as original:
        for name, storage in STREAMS.items():
            info = await stream_info(client, name)
            assert info is not None and info["config"]["storage"] == storage
            ours = {each.name: each.handled for each in await positions(original, name)}
            theirs = {each.name: each.handled for each in await positions(client, name)}
            assert theirs.keys() == {"worker", "fresh"} and theirs == ours
        acknowledged = await client.jetstream().publish("orders.1", b"the next one", timeout=10)
        assert acknowledged.seq == MESSAGES + 1
