"""NATS that lets nobody in without TLS and a certificate of its authority, under a name that is not its address."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab.packages import script
from recovery.adapters.nats.connection import NatsLogin, NatsServer, api, asking, connected
from recovery.adapters.nats.recovery import JetStreamSnapshots, stored_stream
from recovery.adapters.probes import NatsLogin as ProbeLogin
from recovery.adapters.probes import NatsProbe
from recovery.adapters.probes.reach import Limits
from recovery.adapters.secrets import Secrets
from recovery.config.installation import Tls
from recovery.domain.health import Finding, Part
from recovery.errors import Unreachable
from recovery.ports.jetstream import StreamRestoreOptions, archive_name, description_name
from tests.certificates import issued
from tests.integration.nats_servers import publish
from tests.integration.test_nats_accounts import answering
from tests.ports import free_port
from workers.tls import tls_context

NAME = "nats.shop.example.com"
PASSWORD = "a-password-of-the-test"
LIMITS = Limits(5.0, 2.0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return issued(tmp_path_factory.mktemp("ours"), NAME)


async def context(authority: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """As the configuration has it."""
    own = {"certificate_file": str(certificate), "key": f"file:{key}"} if certificate else {}
    made = await tls_context(Tls.model_validate({"ca_file": str(authority), **own}), Secrets(), "groups.shop.nats.tls")
    assert made is not None
    return made


@pytest.fixture(scope="module")
async def server(
    certificates: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[NatsServer]:
    """One stream with a message."""
    folder, port = tmp_path_factory.mktemp("nats"), free_port()
    authority, certificate, key = certificates
    configuration, log = folder / "nats.conf", folder / "log"
    configuration.write_text(
        f'listen: 127.0.0.1:{port}\njetstream {{ store_dir: "{folder}/js" }}\n'
        f'authorization {{ user: recovery, password: "{PASSWORD}" }}\n'
        f'tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{authority}", verify: true }}\n'
    )
    login = NatsLogin("recovery", PASSWORD, await context(*certificates), NAME)
    server = NatsServer("127.0.0.1", port, login)
    with log.open("wb") as output:
        process = subprocess.Popen([str(script("nats-server")), "-c", str(configuration)], stderr=output)  # noqa: ASYNC220
    try:
        await answering(server, process, log)
        async with connected(server) as client:
            await api(client, "STREAM.CREATE.events", {"name": "events", "subjects": ["events.>"]}, 10.0)
            await publish(client, "events.x", "hello")
        yield server
    finally:
        process.kill()
        process.wait(10)


async def test_a_stream_is_backed_up_and_restored(server: NatsServer) -> None:
    async with JetStreamSnapshots(server).source(["events"]) as source:
        read = {each.name: b"".join([chunk async for chunk in each.chunks()]) async for each in source.artefacts()}
        (part,) = (await source.finish()).streams
    stored = stored_stream(read[description_name("events")], part)
    again = StreamRestoreOptions("restore-1", replace=True)
    done = await JetStreamSnapshots(server).restore(stored, in_one(read[archive_name("events")]), again)
    assert done.messages == 1


async def in_one(archive: bytes) -> AsyncIterator[bytes]:
    yield archive


async def looked(server: NatsServer, tls: ssl.SSLContext | None, name: str | None = NAME) -> Finding:
    probe = NatsProbe(
        ProbeLogin(server.host, server.port, "recovery", PASSWORD, tls=tls, server_name=name), ["events"], LIMITS
    )
    try:
        (finding,) = await probe.look(Part.OWNER)
        return finding
    finally:
        await probe.close()


async def test_a_probe_sees_what_clients_see(server: NatsServer) -> None:
    found = await looked(server, server.login.tls)
    assert found.passed and found.vital, found.detail


@pytest.mark.parametrize("lacking", ["authority", "certificate", "name", "tls"])
async def test_certificates_that_do_not_fit_are_no_lost_region(
    lacking: str, server: NatsServer, certificates: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    ours = certificates
    tls = {
        "authority": await context(issued(tmp_path, NAME)[0], *ours[1:]),
        "certificate": await context(ours[0]),
        "name": server.login.tls,
        "tls": None,
    }[lacking]
    found = await looked(server, tls, None if lacking == "name" else NAME)
    print(lacking, found)
    assert not found.passed and not found.vital, found.detail
    assert "check groups.<name>.nats.tls" in found.detail
    login = replace(server.login, tls=tls, server_name=None if lacking == "name" else NAME)
    with pytest.raises(Unreachable) as failure:
        async with asking(replace(server, login=login), 5.0, "say how it is"):
            pass
    print(failure.value)
