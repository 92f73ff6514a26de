"""What a connection to Temporal is made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import TLSConfig

from recovery.adapters.secrets import Secrets
from recovery.config import Config
from workers.client import connect

MINIMAL = (Path(__file__).parents[1] / "config" / "minimal.yaml").read_text()
ADDRESS = "  address: 127.0.0.1:7233"


async def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *more: str) -> dict[str, Any]:
    """The arguments of the SDK's ``Client.connect``."""
    found: dict[str, Any] = {}

    async def note(_: type[Client], /, address: str, **arguments: Any) -> object:
        found.update(arguments, address=address)
        return object()

    monkeypatch.setattr(Client, "connect", classmethod(note))
    file = tmp_path / "recovery.yaml"
    file.write_text(MINIMAL.replace(ADDRESS, "\n".join([ADDRESS, *(f"  {line}" for line in more)])))
    secrets = Secrets()
    try:
        await connect(Config.load(file), secrets)
    finally:
        secrets.close()
    return found


async def test_a_cluster_is_asked_with_our_certificate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEMPORAL_TLS_KEY", "the key")
    (tmp_path / "ca.pem").write_text("the authority")
    (tmp_path / "client.pem").write_text("the certificate")
    found = await asked(
        monkeypatch, tmp_path,
        "tls:", f"  ca_file: {tmp_path}/ca.pem", f"  certificate_file: {tmp_path}/client.pem",
        "  key: env:TEMPORAL_TLS_KEY", "  server_name: temporal.example",
    )  # fmt: skip
    assert found["tls"] == TLSConfig(
        server_root_ca_cert=b"the authority", client_cert=b"the certificate", client_private_key=b"the key",
        domain="temporal.example",
    )  # fmt: skip
    assert found["api_key"] is None


async def test_an_api_key_never_travels_in_plain_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEMPORAL_API_KEY", "secret")
    found = await asked(monkeypatch, tmp_path, "api_key: env:TEMPORAL_API_KEY")
    assert (found["api_key"], found["tls"]) == ("secret", True)


async def test_without_either_nothing_is_encrypted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = await asked(monkeypatch, tmp_path)
    assert (found["address"], found["api_key"], found["tls"]) == ("127.0.0.1:7233", None, False)
