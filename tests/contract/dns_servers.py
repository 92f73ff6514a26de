"""Real authoritative servers on loopback for the DnsZone contract: the lab's, and BIND where it is installed."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.message

from tests.ports import free_port

KEY_NAME = "plans."
SECRET = "c2VjcmV0LW9mLXRoZS10ZXN0LXpvbmUtMTIzNDU2Nzg="  # base64 of a text that says so
ZONE = "shop.test"
RECORDS = [
    ("db", 60, "A", "192.0.2.1"),
    ("many", 30, "A", "192.0.2.1"),
    ("many", 30, "A", "192.0.2.2"),
    ("alias", 60, "CNAME", "db.shop.test."),
    ("text", 60, "TXT", '"hello world"'),
]


@dataclass(frozen=True)
class Server:
    """Holds ``ZONE`` with ``RECORDS``; and, if ``zones`` has two, an empty second zone."""

    host: str
    port: int
    zones: tuple[str, ...]


def available() -> list[str]:
    return ["lab", "bind"] if shutil.which("named") else ["lab"]


@asynccontextmanager
async def running(kind: str, folder: Path) -> AsyncIterator[Server]:
    port = free_port()
    start = _start_bind if kind == "bind" else _start_lab
    process, zones = await start(folder, port)
    try:
        await _until_answering(process, port)
        yield Server("127.0.0.1", port, zones)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _start_lab(folder: Path, port: int) -> tuple[asyncio.subprocess.Process, tuple[str, ...]]:
    settings = {
        "host": "127.0.0.1",
        "port": port,
        "zone": ZONE,
        "tsig_key_name": KEY_NAME,
        "tsig_secret": SECRET,
        "tsig_algorithm": "hmac-sha256",
        "records": [[f"{name}.{ZONE}.", ttl, type_, value] for name, ttl, type_, value in RECORDS],
    }
    file = folder / "dns.json"
    file.write_text(json.dumps(settings))
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "lab.dns_server", str(file), cwd=root)
    return process, (ZONE,)


async def _start_bind(folder: Path, port: int) -> tuple[asyncio.subprocess.Process, tuple[str, ...]]:
    zones = (ZONE, "other.test")
    for zone in zones:
        lines = [f"$ORIGIN {zone}.", "$TTL 60", "@ SOA ns hostmaster 1 60 60 3600 1", "@ NS ns", "ns A 127.0.0.1"]
        lines += [f"{name} {ttl} {type_} {value}" for name, ttl, type_, value in RECORDS if zone == ZONE]
        (folder / f"{zone}.zone").write_text("\n".join(lines) + "\n")
    (folder / "named.conf").write_text(_named_configuration(folder, port, zones))
    named = shutil.which("named") or "named"
    arguments = [named, "-f", "-c", str(folder / "named.conf"), "-n", "1"]
    process = await asyncio.create_subprocess_exec(*arguments, stderr=asyncio.subprocess.DEVNULL)
    return process, zones


def _named_configuration(folder: Path, port: int, zones: tuple[str, ...]) -> str:
    keys = f'key "{KEY_NAME}" {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n'
    keys += f'key "reader." {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n'
    options = (
        f'options {{ directory "{folder}"; pid-file none; session-keyfile "{folder}/session.key"; recursion no; '
        f"listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; dnssec-validation no; notify no; }};\n"
        "controls { };\n"
    )
    return (
        keys
        + options
        + "".join(
            f'zone "{zone}" {{ type primary; file "{folder}/{zone}.zone"; '
            f'update-policy {{ grant "{KEY_NAME}" zonesub ANY; }}; }};\n'
            for zone in zones
        )
    )


async def _until_answering(process: asyncio.subprocess.Process, port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"the DNS server ended with {process.returncode} before it answered")
            try:
                query = dns.message.make_query(ZONE, "SOA")
                await dns.asyncquery.tcp(query, "127.0.0.1", port=port, timeout=1)
                return
            except (OSError, EOFError, dns.exception.DNSException):
                await asyncio.sleep(0.02)
