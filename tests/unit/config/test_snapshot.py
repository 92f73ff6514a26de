"""What a run works with: secret-free, the same on every machine, and different as soon as anything differs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from drctl.config import _yaml
from recovery.config import Config
from recovery.config.config import with_defaults
from recovery.errors import NotFound


@pytest.fixture(scope="module")
def known(example: str) -> Config:
    return Config.parse(example)


def test_a_snapshot_has_what_a_run_needs(minimal: str) -> None:
    snapshot = Config.parse(minimal).snapshot("shop")
    assert (snapshot.name, snapshot.home_region, snapshot.services) == ("shop", "region-a", ["shop"])
    assert (snapshot.objectives.tier, snapshot.objectives.rto, snapshot.objectives.rpo) == (
        "critical",
        timedelta(minutes=15),
        timedelta(minutes=5),
    )
    assert [(region.name, region.role, region.priority, region.task_queue) for region in snapshot.regions] == [
        ("region-a", "primary", 100, "recovery-region-a"),
        ("region-b", "dr", 90, "recovery-region-b"),
    ]
    assert [region.restore_queue for region in snapshot.regions] == [
        "recovery-region-a-restore",
        "recovery-region-b-restore",
    ]
    place = snapshot.region("region-b").postgres
    assert place is not None
    assert (place.host, place.port, place.user, place.run_as) == ("127.0.0.1", 54321, "recovery", "postgres")
    assert place.data_directory == "/run/recovery/region-b/postgres"
    assert [(record.name, record.type, record.ttl, record.zone) for record in snapshot.records] == [
        ("db.shop.test", "A", 1, "shop.test")
    ]
    assert snapshot.region("region-b").dns_value == "127.0.0.2"
    assert snapshot.locations == ["store-a", "store-b"]
    assert snapshot.backup_kinds == ["physical", "logical"]
    assert snapshot.logical_databases == ["shop"]
    assert snapshot.critical_tables == ["customers", "orders", "payments"]
    assert (snapshot.retention.days, snapshot.retention.count) == (30, None)


def test_a_region_gives_what_a_group_leaves_out(example: str) -> None:
    region = Config.parse(example).snapshot("platform").region("eu-west-1")
    assert region.postgres is not None
    assert (region.postgres.host, region.postgres.port) == ("postgres-replica.eu-west-1.rds.amazonaws.com", 5432)
    assert region.nats == "nats-cluster-eu-west-1.example.com:4222"
    assert region.redis == "redis-replica.eu-west-1.cache.amazonaws.com:6379"
    assert (region.role, region.priority) == ("secondary", 90)


def test_a_group_may_see_a_region_otherwise(example: str) -> None:
    snapshot = Config.parse(example).snapshot("shop")
    assert snapshot.region("eu-west-1").role == "dr"
    assert snapshot.region("eu-west-1").health_urls == ["https://shop.eu-west-1.shop-platform.com/health"]
    assert snapshot.region("eu-central-1").health_urls[-1] == (
        "https://shop.eu-central-1.shop-platform.com/api/v1/health/redis"
    )


def test_budgets_of_the_group_count_more_than_those_of_the_tier(spoiled: Callable[..., str]) -> None:
    text = spoiled(
        (
            "groups:\n",
            "tiers:\n  critical:\n    rto: 1h\n    rpo: 5m\n"
            "    budgets: {full-recovery: {restore-database: 20m, notify: 1m}}\ngroups:\n",
        ),
        ("tier: critical", "tier: critical\n    budgets: {full-recovery: {restore-database: 30m}}"),
    )
    assert Config.parse(text).snapshot("shop").budgets == {
        "FullRecovery.restore-database": 1800.0,
        "FullRecovery.notify": 60.0,
    }


def test_an_unknown_group_names_the_known_ones(example: str) -> None:
    config = Config.parse(example)
    with pytest.raises(NotFound) as caught:
        config.snapshot("shpo")
    assert str(caught.value) == "no group 'shpo' in the configuration (did you mean 'shop'?); known: platform, shop"
    with pytest.raises(NotFound, match="known: backup-primary, backup-secondary"):
        config.location("nowhere")
    with pytest.raises(NotFound, match="known: us-east-1, eu-west-1, us-west-2, eu-central-1"):
        config.region_queue("mars")


def test_the_hash_is_the_same_for_the_same_meaning(minimal: str, spoiled: Callable[..., str]) -> None:
    wanted = Config.parse(minimal).snapshot("shop").config_hash
    assert len(wanted) == 64
    same = [
        f"# a comment\n{minimal}",
        spoiled(("version: 1", "version: 0x1")),
        spoiled(("backup:\n", "backup:\n      retention_days: 30\n")),  # the default, said aloud
        spoiled(("groups:\n", "defaults:\n  backup: {retention_days: 30}\ngroups:\n")),
        spoiled(("password: env:SHOP_POSTGRES_PASSWORD", "password: file:/run/secrets/shop")),  # each worker's own
        spoiled(("address: 127.0.0.1:7233", "address: temporal:7233")),
        spoiled(("host: 127.0.0.1", "host: 10.99.0.7")),  # how it is reached from another place
        spoiled(("webhook:", "other:")),
    ]
    assert {Config.parse(text).snapshot("shop").config_hash for text in same} == {wanted}


def test_the_hash_of_a_group_does_not_depend_on_other_groups(example: str) -> None:
    data = YAML(typ="safe").load(example)
    wanted = Config.parse(example).snapshot("platform").config_hash
    del data["groups"]["shop"]
    assert Config.parse(_yaml(data)).snapshot("platform").config_hash == wanted


def _changes(data: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value below, with another one that is valid in most places."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _changes(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _changes(value, (*path, index))
        yield path, data[:-1]
    elif isinstance(data, bool):
        yield path, not data
    elif isinstance(data, int):
        yield path, data + 1
    elif isinstance(data, str):
        yield path, f"1{data}"
        yield path, f"{data}x"
        yield path, "9h"


def _changed(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    data = copy.deepcopy(data)
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return data


def test_every_valid_change_of_a_group_changes_the_hash(example: str) -> None:
    data = YAML(typ="safe").load(example)
    name = "shop"
    wanted = Config.parse(example).snapshot(name).config_hash
    tried, same = 0, []
    for path, value in _changes(data["groups"][name], ("groups", name)):
        try:
            found = Config.model_validate(with_defaults(_changed(data, path, value))).snapshot(name).config_hash
        except (ValidationError, LookupError):  # no valid value here, or the name of nothing
            continue
        tried += 1
        if found == wanted:
            same.append(path[2:])
    assert tried > 100
    references = {"password", "replication_password", "credentials", "kubeconfig", "secret", "access_key", "secret_key"}
    addresses = {
        "host",
        "port",
        "nats",
        "redis",
        "elasticsearch",
        "http",
        "health_urls",
        "server",
        "members",
        "endpoint",
    }
    files = {"ca_file", "certificate_file", "ssl_root_certificate", "scratch_folder", "wal_socket"}
    each_process = references | addresses | files
    assert [path for path in same if not each_process & set(path[-3:])] == []
    assert all(path[0] != "checks" for path in same)  # a port that is a part of what is checked


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("witness", "endpoint"), "https://s3.through-a-gateway.example.com"),
        (("regions", "eu-west-1", "endpoints", "postgres"), "10.9.9.9:5499"),
        (("regions", "us-east-1", "guard"), "https://10.9.9.9:7450"),
        (("groups", "shop", "regions", "eu-west-1", "postgres", "port"), 5499),
        (("groups", "shop", "postgres", "ssl_root_certificate"), "/etc/elsewhere/ca.pem"),
    ],
)
def test_what_each_process_may_see_in_its_own_way_is_not_in_the_hash(
    example: str, known: Config, path: tuple[str, ...], value: Any
) -> None:
    data = YAML(typ="safe").load(example)
    changed = Config.parse(_yaml(_changed(data, path, value)))
    for group in ("shop", "platform"):
        assert changed.snapshot(group).config_hash == known.snapshot(group).config_hash
    assert changed != known


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tiers", "standard", "rpo"), "29min"),
        (("locations", "shop-platform-backups", "url"), "s3://elsewhere/database"),
        (("regions", "eu-west-1", "priority"), 91),
        (("keys", "trusted_signers"), []),
        (("keys", "recipients"), ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]),
        (("witness", "url"), "s3://other-witness/ownership"),
        (("temporal", "region_queue"), "other-{region}"),
        (("defaults", "backup", "compression_level"), 3),
    ],
)
def test_what_a_group_stands_on_changes_its_hash(
    example: str, known: Config, path: tuple[str, ...], value: Any
) -> None:
    data = YAML(typ="safe").load(example)
    changed = Config.parse(_yaml(_changed(data, path, value)))
    assert changed.snapshot("shop").config_hash != known.snapshot("shop").config_hash


def test_a_guard_where_none_was_changes_its_hash(example: str) -> None:
    named = _changed(YAML(typ="safe").load(example), ("groups", "shop", "nats"), {"streams": ["events"]})
    before = Config.parse(_yaml(named)).snapshot("shop").config_hash
    guarded = _changed(named, ("regions", "eu-west-1", "guard"), "https://10.9.9.9:7450")
    assert Config.parse(_yaml(guarded)).snapshot("shop").config_hash != before


def test_a_snapshot_holds_no_reference_to_a_secret(example: str) -> None:
    for group in ("platform", "shop"):
        text = Config.parse(example).snapshot(group).model_dump_json()
        assert not [form for form in ("env:", "file:/", "aws-secretsmanager:") if form in text]


@pytest.mark.parametrize("passage", ["retention_days: null", "retention_count: 3", "kinds: [logical]"])
def test_what_is_shown_loads_again_to_the_same(spoiled: Callable[..., str], passage: str) -> None:
    text = spoiled(
        ("groups:\n", "defaults:\n  backup: {retention_days: 7, retention_count: 8}\ngroups:\n"),
        ("backup:\n", f"backup:\n      {passage}\n"),
    )
    config = Config.parse(text)
    again = Config.parse(_yaml(config.public()))
    assert again.groups == config.groups
    assert again.public() == config.public()
    assert again.snapshot("shop") == config.snapshot("shop")
