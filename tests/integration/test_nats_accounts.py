"""All streams of an account, as one who logs in with a .creds file, in a JetStream domain: on a real server."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from lab.packages import script
from recovery.adapters.nats.connection import LOST, NatsLogin, NatsServer, api, connected
from recovery.adapters.nats.credentials import UserCredentials
from recovery.adapters.nats.recovery import JetStreamSnapshots
from recovery.adapters.probes import NatsLogin as ProbeLogin
from recovery.adapters.probes import NatsProbe
from recovery.adapters.probes.reach import Limits
from recovery.backup.pipeline import write_point
from recovery.backup.sealing import Sealer
from recovery.domain.health import Part
from recovery.domain.jetstream import JetStreamSource
from tests.fakes.nats_keys import Operator
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import AGE, identity, signer
from tests.integration.nats_servers import publish
from tests.ports import free_port

POINT = "20261122T101500Z-streams-1a2b3c4d"


async def answering(server: NatsServer, process: subprocess.Popen[bytes], log: Path) -> None:
    async with asyncio.timeout(10):
        while True:
            assert process.poll() is None, log.read_text()
            try:
                async with connected(server) as client:
                    await api(client, "INFO")
                    return
            except LOST:
                await asyncio.sleep(0.05)


async def back_up(server: NatsServer) -> JetStreamSource:
    async with JetStreamSnapshots(server).source(None) as source, Sealer([AGE.public], threads=1) as sealer:
        written = await write_point(
            source, identity=identity(point_id=POINT), stores=[MemoryStore("a")], sealer=sealer, signer=signer()
        )
    return written.manifest.jetstream


async def test_an_account_is_backed_up_whole_with_credentials_and_a_domain(tmp_path: Path) -> None:
    operator, port, log = Operator(), free_port(), tmp_path / "log"
    configuration = tmp_path / "nats.conf"
    configuration.write_text(
        f'listen: 127.0.0.1:{port}\n{operator.configuration}jetstream {{ domain: hub, store_dir: "{tmp_path}/js" }}\n'
    )
    credentials = UserCredentials.parse(operator.creds, "creds")
    server = NatsServer("127.0.0.1", port, NatsLogin(credentials=credentials, domain="hub"))
    with log.open("wb") as output:
        process = subprocess.Popen([str(script("nats-server")), "-c", str(configuration)], stderr=output)  # noqa: ASYNC220
    try:
        await answering(server, process, log)
        async with connected(server) as client:
            for name in ("events", "orders"):
                await api(client, f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"]}, 10.0)
                await publish(client, f"{name}.x", "hello")
        source = await back_up(server)
        assert [(part.stream, part.messages) for part in source.streams] == [("events", 1), ("orders", 1)]
        assert source.domain == "hub"
        probe = NatsProbe(ProbeLogin("127.0.0.1", port, credentials=credentials, domain="hub"), None, Limits(5.0, 2.0))
        (finding,) = await probe.look(Part.OWNER)
        await probe.close()
        assert (finding.passed, finding.detail) == (True, "2 streams")
        elsewhere = NatsServer("127.0.0.1", port, NatsLogin(credentials=credentials, domain="other"))
        try:
            async with connected(elsewhere) as client:
                await api(client, "INFO")
            raise AssertionError("another domain's requests were answered")
        except LOST:
            pass
    finally:
        process.kill()
        process.wait(10)
