"""Whose certificates are believed where nobody says."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from recovery.adapters.trust import trusted
from tests.certificates import self_signed


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    trusted.cache_clear()
    yield
    trusted.cache_clear()


def test_what_the_machine_trusts_is_trusted_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, _ = self_signed(tmp_path, "authority.tests")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    (found,) = trusted().get_ca_certs()
    assert "authority.tests" in str(found["subject"])


@pytest.mark.parametrize("folder", [False, True], ids=["no folder", "an empty folder"])
def test_a_machine_without_authorities_believes_those_of_the_web(
    folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    nothing = SimpleNamespace(cafile=None, capath=str(tmp_path / "empty") if folder else None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)
    assert len(trusted().get_ca_certs()) > 50
