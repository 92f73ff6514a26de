"""The embedded server's ports, lock and address, without starting it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from recovery.config import Config
from recovery.errors import BadInput, Refused
from workers.client import address_of
from workers.embedded import _free, _locked, state_file_of

MINIMAL = (Path(__file__).parents[1] / "config" / "minimal.yaml").read_text()
WITHOUT_ADDRESS = MINIMAL.replace("  address: 127.0.0.1:7233", "  namespace: default")


def test_a_taken_port_names_the_option_that_mends_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"port {port} cannot be used.*--ui-port"):
            _free(port, "--ui-port")
    assert _free(port, "--ui-port") == port
    assert _free(0, "--port") > 0


def test_one_state_has_one_server(tmp_path: Path) -> None:
    with _locked(tmp_path / "temporal.db"):
        with pytest.raises(Refused, match="drctl up runs already"), _locked(tmp_path / "temporal.db"):
            pass
        with _locked(tmp_path / "other.db"):
            pass
    with _locked(tmp_path / "temporal.db"):
        pass


def test_a_state_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="set temporal.state_file to a file in a folder of yours"), _locked(
        tmp_path / "missing" / "temporal.db"
    ):  # fmt: skip
        pass


def test_commands_find_the_embedded_server_by_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    config = Config.parse(WITHOUT_ADDRESS)
    state = state_file_of(config)
    assert state == tmp_path / "recovery-plans" / "temporal.db"
    assert address_of(config) == "127.0.0.1:7233"
    state.parent.mkdir()
    state.with_suffix(".address").write_text(json.dumps({"address": "127.0.0.1:4711"}))
    assert address_of(config) == "127.0.0.1:4711"
    state.with_suffix(".address").write_text("{")
    assert address_of(config) == "127.0.0.1:7233"
    assert address_of(Config.parse(MINIMAL)) == "127.0.0.1:7233", "temporal.address comes first"
