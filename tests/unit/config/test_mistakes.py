"""Every mistake is named by file, line and key, with what was expected, an example, and what was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recovery.config import Config, ConfigurationInvalid, Mistake
from recovery.errors import BadInput

Spoil = Callable[..., str]
Find = Callable[[str], list[Mistake]]

SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB7tFYkuHL3PPL6OhaIEhiZZW7v6oJZHgSNrF3jt9Zo6"
NOBODYS = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z"  # the point 0

# What is replaced, by what, the key of the mistake, and what its sentence says.
KINDS = [
    pytest.param(
        "port: 54320", "port: abc", "groups.shop.regions.region-a.postgres.port",
        "expected a TCP port between 1 and 65535, for example 5432; got 'abc'", id="no port",
    ),
    pytest.param(
        "port: 54320", "port: 70000", "groups.shop.regions.region-a.postgres.port",
        "expected a TCP port between 1 and 65535, for example 5432; got 70000", id="port too high",
    ),
    pytest.param(
        "port: 54320", "prot: 54320", "groups.shop.regions.region-a.postgres.prot",
        "unknown key (did you mean 'port'?): expected one of bin_directories, data_directory, host, port, "
        "replication_password, replication_user, run_as, wal_socket",
        id="unknown key",
    ),
    pytest.param(
        "port: 54320", "port: 1\n          port: 2", "groups.shop.regions.region-a.postgres.port",
        "this key stands here twice, first on line {line-1}: keep one of them", id="duplicate key",
    ),
    pytest.param(
        "    home: region-a\n", "", "groups.shop.home",
        "this key is missing: expected region that owns the group in ordinary times, for example us-east-1",
        id="missing key",
    ),
    pytest.param(
        "home: region-a", "home: region-z", "groups.shop.home",
        "expected a region of the group that exists (did you mean 'region-b'?); known: region-a, region-b; "
        "got 'region-z'",
        id="unknown home",
    ),
    pytest.param(
        "tier: critical", "tier: critcal", "groups.shop.tier",
        "expected a tier that exists (did you mean 'critical'?); known: critical, low, standard; got 'critcal'",
        id="unknown tier",
    ),
    pytest.param(
        "locations: [store-a, store-b]", "locations: [store-a, elsewhere]", "groups.shop.backup.locations[1]",
        "expected a location that exists; known: store-a, store-b; got 'elsewhere'", id="unknown location",
    ),
    pytest.param(
        "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", SSH, "keys.recipients[0]",
        "expected an age public key (age1...), the only kind that recovery points are sealed for, and this is an SSH "
        f"key: make a key pair with age-keygen; got '{SSH[:59]}...", id="an SSH recipient",
    ),
    pytest.param(
        "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", NOBODYS, "keys.recipients[0]",
        "expected an age public key that somebody has the private half of, and this one is nobody's (a point of small "
        f"order): take what age-keygen printed; got '{NOBODYS[:59]}...", id="nobody's recipient",
    ),
    pytest.param(
        "provider: rfc2136", "provider: rfc2316", "groups.shop.dns.provider",
        "expected 'route53' or 'rfc2136', for example route53 (did you mean 'rfc2136'?); got 'rfc2316'",
        id="none of the words",
    ),
    pytest.param(
        "ttl: 1}", "ttl: soon}", "groups.shop.dns.records[0].ttl",
        "expected a whole number of seconds above 0, for example 60; got 'soon'", id="no seconds",
    ),
    pytest.param(
        "name: db.shop.test", "name: db", "groups.shop.dns.records[0].name",
        "expected a full DNS name, for example api.shop-platform.com; got 'db'", id="no full name",
    ),
    pytest.param(
        "name: db.shop.test", "name: db.other.test", "groups.shop.dns",
        "expected records of the zone shop.test only, and db.other.test lies outside it",
        id="record outside its zone",
    ),
    pytest.param(
        "server: 127.0.0.1:5353", "server: 'ns one:5353'", "groups.shop.dns.server",
        "expected host or host:port, for example nats-cluster-us-east-1.example.com:4222; got 'ns one:5353'",
        id="no address",
    ),
    pytest.param(
        "backup:\n", "backup:\n      schedule: every six hours\n", "groups.shop.backup.schedule",
        "expected a cron expression of five fields, for example \"0 */6 * * *\" (every six hours), daily or weekly; "
        "it has 3 fields instead of 5 (minute, hour, day of month, month, day of week); got 'every six hours'",
        id="no cron expression",
    ),
    pytest.param(
        "backup:\n", "backup:\n      chunk_size: 8\n", "groups.shop.backup.chunk_size",
        "expected a size with its unit (B, kB, MB, GB, KiB, MiB, GiB, TiB), for example 16MB or 5GiB; got 8",
        id="size without unit",
    ),
    pytest.param(
        "backup:\n", "backup:\n      chunk_size: 8GiB\n", "groups.shop.backup.chunk_size",
        "expected a size of 64KiB to 512MiB, for example 64KiB; got '8GiB'", id="size beyond its limits",
    ),
    pytest.param(
        "backup:\n", "backup:\n      retention_days: 0\n", "groups.shop.backup.retention_days",
        "expected a number of at least 1, for example 30; got 0", id="number too small",
    ),
    pytest.param(
        "backup:\n", "backup:\n      retention_days: a month\n", "groups.shop.backup.retention_days",
        "expected a whole number, for example 30; got 'a month'", id="no number",
    ),
    pytest.param(
        "backup:\n", "backup:\n      kinds: [fysical]\n", "groups.shop.backup.kinds[0]",
        "expected 'physical', 'logical', 'snapshot', 'streams', 'rdb' or 'search', for example [physical, logical, "
        "streams, rdb, search]"
        " (did you mean 'physical'?); got 'fysical'",
        id="wrong entry of a list",
    ),
    pytest.param(
        "services: [shop]", "services: shop", "groups.shop.services",
        "expected a list, for example [core, web]; got 'shop'", id="no list",
    ),
    pytest.param(
        "backup:\n      locations: [store-a, store-b]", "backup: daily", "groups.shop.backup",
        "expected further keys below this one, each as key: value; got 'daily'", id="no mapping",
    ),
    pytest.param(
        "tier: critical", "tier: critical\n    approvals: {timeout: 15}", "groups.shop.approvals.timeout",
        "expected a duration with its unit (ms, s, m, h, d, w), for example 30s, 15m, 1h30m or 7d; got 15",
        id="duration without unit",
    ),
    pytest.param(
        "tier: critical", "tier: critical\n    failover: {lease_ttl: 1s}", "groups.shop.failover.lease_ttl",
        "expected a duration of 3s to 1h, for example 1h; got '1s'", id="duration beyond its limits",
    ),
    pytest.param(
        "tier: critical", "tier: critical\n    failover: {automatic: true, policy: manual}", "groups.shop.failover",
        "expected either automatic or policy, which say the same thing; keep policy",
        id="the same said twice",
    ),
    pytest.param(
        "url: s3://recovery-a/points", "url: recovery-a/points", "locations.store-a.url",
        "expected s3://bucket/prefix or file:///folder, for example s3://backup-primary/shop; got 'recovery-a/points'",
        id="no store",
    ),
    pytest.param(
        "endpoint: http://127.0.0.1:8301", "endpoint: 127.0.0.1:8301", "locations.store-a.endpoint",
        "expected an http or https address, for example https://shop.example.com/healthz; got '127.0.0.1:8301'",
        id="no web address",
    ),
    pytest.param(
        "in_region: region-b", "in_region: mars", "locations.store-b.in_region",
        "expected a region that exists; known: region-a, region-b; got 'mars'", id="unknown region",
    ),
    pytest.param(
        "address: 127.0.0.1:7233", "address: temporal", "temporal.address",
        "expected host:port, for example temporal.example.com:7233; got 'temporal'", id="address without port",
    ),
    pytest.param(
        "version: 1", "version: 2", "version", "expected 1, for example 1; got 2", id="unknown version",
    ),
    pytest.param(
        "  shop:\n", "  Shop!:\n", "groups.Shop!",
        "expected a name of small letters, digits and hyphens, for example shop-eu; got 'Shop!'", id="no name",
    ),
    pytest.param(
        "dns_value: 127.0.0.2", "priority: 5", "groups.shop.regions.region-b.dns_value",
        "this key is missing: expected what the group's records hold while this region is active, "
        "for example 203.0.113.10",
        id="records without value",
    ),
    pytest.param(
        "data_directory: /run/recovery/region-a/postgres", "data_directory: postgres",
        "groups.shop.regions.region-a.postgres.data_directory",
        "expected an absolute path, for example /var/lib/postgresql/16/main; got 'postgres'", id="relative path",
    ),
    pytest.param(
        "critical_tables: [customers, orders, payments]", "critical_tables: [a.b.c.d]",
        "groups.shop.critical_tables[0]",
        "expected a table as table, schema.table or database.schema.table, for example public.users; got 'a.b.c.d'",
        id="no table",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "key", "said"), KINDS)
def test_a_mistake_has_its_sentence(spoiled: Spoil, mistakes_of: Find, old: str, new: str, key: str, said: str) -> None:
    text = spoiled((old, new))
    mistakes = mistakes_of(text)
    found = [mistake for mistake in mistakes if mistake.key == key]
    assert found, [mistake.sentence("recovery.yaml") for mistake in mistakes]
    assert found[0].line is not None
    assert found[0].text == said.replace("{line-1}", str(found[0].line - 1))


def test_the_sentence_names_file_line_and_key(spoiled: Spoil) -> None:
    text = spoiled(("port: 54320", "port: abc"))
    line = next(number for number, content in enumerate(text.splitlines(), start=1) if "port: abc" in content)
    with pytest.raises(BadInput) as caught:
        Config.parse(text, "recovery.yaml")
    assert str(caught.value) == (
        f"recovery.yaml, line {line}, groups.shop.regions.region-a.postgres.port: "
        "expected a TCP port between 1 and 65535, for example 5432; got 'abc'"
    )


def test_all_mistakes_come_at_once_in_the_order_of_the_file(spoiled: Spoil, mistakes_of: Find) -> None:
    text = spoiled(
        ("address: 127.0.0.1:7233", "address: x"),
        ("port: 54320", "prot: 54320"),
        ("tier: critical", "tier: gold"),
        ("ttl: 1}", "ttl: 1, ttl: 2}"),
    )
    mistakes = mistakes_of(text)
    assert [mistake.key for mistake in mistakes] == [
        "temporal.address",
        "groups.shop.tier",
        "groups.shop.regions.region-a.postgres.prot",
        "groups.shop.dns.records[0].ttl",
    ]
    lines = [mistake.line for mistake in mistakes]
    assert lines == sorted(line for line in lines if line is not None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "this key is missing"),
        ("- a\n- b\n", "expected keys and values"),
        ("just words", "expected keys and values"),
        ("a: [1, 2", "no valid YAML"),
        ("a: b: c", "no valid YAML"),
        ("\tversion: 1", "no valid YAML"),
        ("version: 1\n---\nversion: 1\n", "no valid YAML"),
        ("version: !!python/object:os.system x", "without a YAML tag"),
        ("? [a, b]\n: c\n", "expected text as key"),
        ("a: &x [*x]", "refers to itself"),
        ("[" * 200, "no valid YAML"),
    ],
)
def test_what_is_no_configuration_at_all(mistakes_of: Find, text: str, said: str) -> None:
    assert any(said in mistake.text for mistake in mistakes_of(text))


def test_aliases_cannot_make_a_small_file_huge(mistakes_of: Find) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
    )
    assert any("nested too deeply" in mistake.text for mistake in mistakes_of(bomb))


def test_anchors_and_merge_keys_are_understood(spoiled: Spoil) -> None:
    text = spoiled(
        (
            "postgres:\n          host: 127.0.0.1\n          port: 54320",
            "postgres: &place\n          host: 127.0.0.1\n          port: 54320",
        ),
        (
            "postgres:\n          host: 127.0.0.1\n          port: 54321",
            "postgres:\n          <<: *place\n          port: 54321",
        ),
    )
    places = {region.name: region.postgres for region in Config.parse(text).snapshot("shop").regions}
    assert places["region-b"] is not None
    assert (places["region-b"].host, places["region-b"].port) == ("127.0.0.1", 54321)


def test_a_mistake_that_a_group_inherits_is_shown_under_defaults(spoiled: Spoil, mistakes_of: Find) -> None:
    text = spoiled(
        ("groups:\n", "defaults:\n  backup: {retention_days: many}\n  failover: {polcy: manual}\n\ngroups:\n")
    )
    mistakes = mistakes_of(text)
    assert [mistake.key for mistake in mistakes] == ["defaults.backup.retention_days", "defaults.failover.polcy"]
    line = next(number for number, content in enumerate(text.splitlines(), start=1) if "many" in content)
    assert mistakes[0].line == line


def test_files_that_cannot_be_read_are_the_users_mistakes(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.yaml does not exist: expected .* recovery\.example\.yaml"):
        Config.load(tmp_path / "nowhere.yaml")
    with pytest.raises(BadInput, match="cannot be read"):
        Config.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("group: caf\xe9".encode("latin-1"))
    with pytest.raises(BadInput, match="expected UTF-8 text, and byte 10 is none"):
        Config.load(tmp_path / "latin.yaml")


def test_an_error_is_known_to_retry_policies_as_bad_input(mistakes_of: Find) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        Config.parse("version: 1")
    assert caught.value.kind == "BadInput"
    assert not caught.value.retryable
