"""A Temporal frontend that speaks TLS, and demands our certificate: a real server behind a proxy that ends the TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client

from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.errors import Unreachable
from tests.certificates import issued
from workers.client import connect

MINIMAL = (Path(__file__).parents[1] / "unit" / "config" / "minimal.yaml").read_text()
ADDRESS = "  address: 127.0.0.1:7233"


@pytest_asyncio.fixture
async def frontend(temporal: Client, tmp_path: Path) -> AsyncIterator[str]:
    """Its address. It trusts the client's certificate below ``ours`` and has its own below ``theirs``."""
    for name in ("ours", "theirs", "others"):
        (tmp_path / name).mkdir()
    authority, *_ = issued(tmp_path / "ours")
    issued(tmp_path / "others")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority))
    context.load_cert_chain(*issued(tmp_path / "theirs")[1:])
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    host, _, port = temporal.service_client.config.target_host.partition(":")
    relays: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        relays.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there, to_there = await asyncio.open_connection(host, int(port))
            await asyncio.gather(_relay(reader, to_there), _relay(there, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for relay in relays:
            relay.cancel()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while body := await reader.read(1 << 16):
            writer.write(body)
            await writer.drain()
    finally:
        writer.close()


def configured(folder: Path, address: str, *tls: str) -> Config:
    lines = [f"  address: {address}", *(["  tls:", *(f"    {line}" for line in tls)] if tls else [])]
    file = folder / "recovery.yaml"
    file.write_text(MINIMAL.replace(ADDRESS, "\n".join(lines)))
    return Config.load(file)


def with_certificate(folder: Path, authority: str = "theirs", ours: str = "ours") -> list[str]:
    return [
        f"ca_file: {folder / authority / 'ca.pem'}",
        f"certificate_file: {folder / ours / 'tls.pem'}",
        f"key: file:{folder / ours / 'tls.key'}",
    ]


async def test_with_its_authority_and_our_certificate_it_lets_us_in(frontend: str, tmp_path: Path) -> None:
    client = await connect(configured(tmp_path, frontend, *with_certificate(tmp_path)), Secrets())
    assert [run.id async for run in client.list_workflows("WorkflowId = 'nobody'")] == []


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        ("unknown authority", "its certificate is not trusted"),
        ("no certificate", "it demands a certificate of ours, set temporal.tls.certificate_file"),
        ("another certificate", "it does not take our certificate"),
        ("plain", "it speaks TLS only, set temporal.tls"),
    ],
)
async def test_why_it_does_not_is_said(frontend: str, tmp_path: Path, tls: str, words: str) -> None:
    lines = {
        "unknown authority": with_certificate(tmp_path, authority="others"),
        "no certificate": with_certificate(tmp_path)[:1],
        "another certificate": with_certificate(tmp_path, ours="others"),
        "plain": [],
    }[tls]
    with pytest.raises(Unreachable) as failure:
        await connect(configured(tmp_path, frontend, *lines), Secrets())
    assert words in str(failure.value), failure.value.__cause__


async def test_one_without_tls_is_told_from_one_that_is_not_trusted(temporal: Client, tmp_path: Path) -> None:
    authority, *_ = issued(tmp_path)
    address = temporal.service_client.config.target_host
    with pytest.raises(Unreachable, match=r"it does not speak TLS, leave temporal\.tls out"):
        await connect(configured(tmp_path, address, f"ca_file: {authority}"), Secrets())
