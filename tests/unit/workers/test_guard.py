"""From a configuration to a guard: what is guarded, with which times, and what is missing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from recovery.adapters.postgres.guarded import GuardedPostgres
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.config.warnings import warnings_of
from recovery.domain.ownership import AcknowledgingSet
from recovery.errors import BadInput, NotFound, Refused
from recovery.guard.guard import lock_folder
from workers.guard import GuardProcess, _Wiring, run_guard


def _document(folder: Path) -> dict[str, Any]:
    token = folder / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    place = {"host": "127.0.0.1", "data_directory": str(folder / "data")}
    return {
        "version": 1,
        "keys": {"recipients": [_recipient()], "trusted_signers": [_signer()]},
        "witness": {"url": f"file://{folder}/witness"},
        "guards": {"token": f"file:{token}", "state_folder": str(folder / "state")},
        "locations": {"here": {"url": f"file://{folder}/points"}},
        "regions": {"a": {"guard": "http://127.0.0.1:1"}, "b": {"guard": "http://127.0.0.1:2"}},
        "groups": {
            "shop": {
                "tier": "critical",
                "home": "a",
                "regions": {"a": {"postgres": dict(place)}, "b": {"postgres": dict(place)}},
                "postgres": {},
                "failover": {"lease_ttl": "5s"},
            }
        },
    }


def _recipient() -> str:
    from recovery.backup.sealing import generate_age_key

    return generate_age_key().public


def _signer() -> str:
    from recovery.backup.signing import generate_signing_key

    return generate_signing_key().public


def _run(document: dict[str, Any], folder: Path, region: str = "a") -> None:
    file = folder / "recovery.yaml"
    with file.open("w") as stream:
        YAML().dump(document, stream)

    async def scene() -> None:
        stop = asyncio.Event()
        stop.set()
        await run_guard(GuardProcess(Config.load(file), region), ready=lambda sentence: None, stop=stop)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d["regions"]["a"].pop("guard"), r"set regions\.a\.guard"),
        (lambda d: d["regions"]["b"].pop("guard"), "no group of a is guarded"),
        (lambda d: d["guards"].pop("token"), "no group of a is guarded"),
        (lambda d: d["regions"]["a"].update(guard="https://127.0.0.1:1"), "certificate_file"),
        (lambda d: d["groups"]["shop"]["regions"]["a"]["postgres"].pop("data_directory"), "data_directory"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, change: Any, sentence: str) -> None:
    document = _document(tmp_path)
    change(document)
    with pytest.raises(BadInput, match=sentence):
        _run(document, tmp_path)


def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    document = _document(tmp_path)
    (tmp_path / "token").write_text("short")
    with pytest.raises(BadInput, match="16 characters"):
        _run(document, tmp_path)


def test_an_unknown_region_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="a, b"):
        _run(_document(tmp_path), tmp_path, "c")


def test_one_guard_per_state_folder(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "a", "a"):
        with pytest.raises(Refused, match="runs on this host already"), lock_folder(tmp_path / "a", "a"):
            pass
        with lock_folder(tmp_path / "b", "b"):
            pass
    with lock_folder(tmp_path / "a", "a"):
        pass


def _three(folder: Path, **replication: Any) -> dict[str, Any]:
    document = _document(folder)
    document["regions"]["c"] = {"guard": "http://127.0.0.1:3"}
    shop = document["groups"]["shop"]
    shop["regions"] = {
        name: {"postgres": {"host": "127.0.0.1", "data_directory": str(folder / name), "replication_user": f"s_{name}"}}
        for name in "abc"
    }
    shop["postgres"] = {"replication_user": "everybody"}
    shop["replication"] = {"mode": "streaming", "synchronous": True, **replication}
    return document


def _loaded(document: dict[str, Any], folder: Path) -> Config:
    file = folder / "recovery.yaml"
    with file.open("w") as stream:
        YAML().dump(document, stream)
    return Config.load(file)


@pytest.mark.parametrize(("configured", "wait_for"), [({}, 2), ({"acknowledgements": 1}, 1)])
async def test_commits_wait_for_as_many_of_the_other_regions_as_is_configured(
    tmp_path: Path, configured: dict[str, int], wait_for: int
) -> None:
    config = _loaded(_three(tmp_path, **configured), tmp_path)
    secrets = Secrets()
    group = await _Wiring(config, "b", tmp_path, secrets).group("shop")
    secrets.close()
    assert group.acknowledging == AcknowledgingSet(members=["standby_a", "standby_c"], wait_for=wait_for)
    (store,) = group.stores
    assert isinstance(store, GuardedPostgres) and store.member == "standby_b"
    assert not [words for words in warnings_of(config, None) if "stream as" in words]


def test_more_acknowledgements_than_standbys_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="replication.acknowledgements of at most 2"):
        _loaded(_three(tmp_path, acknowledgements=3), tmp_path)


def test_standbys_that_share_their_credentials_are_warned_of(tmp_path: Path) -> None:
    document = _three(tmp_path)
    for name in "ab":
        del document["groups"]["shop"]["regions"][name]["postgres"]["replication_user"]
    config = _loaded(document, tmp_path)
    (found,) = [words for words in warnings_of(config, None) if "stream as" in words]
    assert "the standbys of a, b stream as the user everybody" in found
    assert config.group("shop").replicates_as("c") == ("s_c", None)
