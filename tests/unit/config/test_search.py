"""The search engine's part of the configuration."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from recovery.adapters.secrets import Secrets
from recovery.config import Config, Mistake
from recovery.domain.search import SearchRule, SearchStorage
from recovery.errors import BadInput
from workers.search import scratch_engine, search_engine

Spoil = Callable[..., str]
Find = Callable[[str], list[Mistake]]


def _with(search: str) -> tuple[tuple[str, str], ...]:
    return (
        ("        dns_value: 127.0.0.1\n", "        dns_value: 127.0.0.1\n        elasticsearch: https://a:9200\n"),
        ("        dns_value: 127.0.0.2\n", "        dns_value: 127.0.0.2\n        elasticsearch: http://b\n"),
        ("    postgres:\n      databases", f"    elasticsearch: {search}\n    postgres:\n      databases"),
        ("backup:\n", "backup:\n      kinds: [physical, search]\n"),
    )


def test_what_is_configured_reaches_the_runs(minimal: str, spoiled: Spoil) -> None:
    assert Config.parse(minimal).snapshot("shop").search is None
    text = spoiled(*_with('{indices: ["*", "-logs-*"], include_global_state: true}'))
    snapshot = Config.parse(text).snapshot("shop")
    assert snapshot.search == SearchRule(indices=["*", "-logs-*"], global_state=True)
    assert (snapshot.region("region-a").search, snapshot.region("region-b").search) == ("https://a:9200", "http://b")
    assert snapshot.backup_kinds == ["physical", "search"]
    assert snapshot.region("region-a").has("search")
    storage = "{type: s3, bucket: snapshots, base_path: recovery, client: shop, settings: {compress: 'true'}}"
    placed = Config.parse(spoiled(*_with(f"{{storage: {storage}}}"))).snapshot("shop").search
    assert placed is not None
    assert placed.storage == SearchStorage(
        type="s3", place="snapshots", base_path="recovery", client="shop", settings={"compress": "true"}
    )
    folder = Config.parse(spoiled(*_with("{storage: {type: fs, location: /mnt/snapshots}}"))).snapshot("shop").search
    assert folder is not None and folder.storage == SearchStorage(type="fs", place="/mnt/snapshots")


@pytest.mark.parametrize(("policy", "derived", "warned"), [("automatic", "false", True), ("automatic", "true", False),
                                                             ("approve", "false", False)])  # fmt: skip
def test_an_automatic_move_without_the_search_engine_is_warned_of(
    spoiled: Spoil, policy: str, derived: str, warned: bool
) -> None:
    text = spoiled(
        *_with(f"{{derived: {derived}}}"), ("tier: critical", f"tier: critical\n    failover: {{policy: {policy}}}")
    )
    config = Config.parse(text)
    search = config.snapshot("shop").search
    assert search is not None and search.derived is (derived == "true")
    found = [each for each in config.warnings() if each.startswith("groups.shop.elasticsearch: no failover moves")]
    assert len(found) == warned


def test_the_kind_is_left_out_where_a_group_has_no_search_engine(spoiled: Spoil) -> None:
    text = spoiled(("backup:\n", "backup:\n      kinds: [physical, search]\n"))
    assert Config.parse(text).snapshot("shop").backup_kinds == ["physical"]


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("{storage: {type: s3}}", "expected bucket, and no location"),
        ("{storage: {bucket: a, location: /b}}", "expected bucket, and no location"),
        ("{storage: {type: fs, bucket: a}}", "expected location, and neither bucket nor base_path"),
        ("{scratch: {address: search:9200}}", "expected an http or https address"),
        ("{indices: []}", "indices"),
        (
            "{storage: {bucket: a, client: shop, settings: {s3.Secret_Key: hush, access_key: hush, compress: 'true'}}}",
            "expected no s3.Secret_Key, access_key in settings: credentials belong into the nodes' keystores, under the"
            " name of client (shop)",
        ),
    ],
)
def test_mistakes_have_their_sentences(spoiled: Spoil, mistakes_of: Find, search: str, said: str) -> None:
    found = mistakes_of(spoiled(*_with(search)))
    sentences = [mistake.sentence("recovery.yaml") for mistake in found]
    assert any(said in sentence for sentence in sentences), found
    assert not any("hush" in sentence for sentence in sentences)


async def test_each_cluster_is_spoken_to_at_its_address_and_as_its_user(
    spoiled: Spoil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_PASSWORD", "hush")
    monkeypatch.setenv("SCRATCH_PASSWORD", "quiet")
    scratch = "{address: 'http://scratch:9201', user: prover, password: env:SCRATCH_PASSWORD}"
    config = Config.parse(spoiled(*_with(f"{{user: recovery, password: env:SEARCH_PASSWORD, scratch: {scratch}}}")))
    secrets = Secrets()
    async with search_engine(config, secrets, "shop", "region-a") as here:
        assert (here._connection.name, here._connection.login.user, here._connection.login.password) == (
            "a:9200", "recovery", "hush",
        )  # fmt: skip
    async with scratch_engine(config, secrets, "shop") as found:
        assert found is not None
        assert (found._connection.name, found._connection.login.user, found._connection.login.password) == (
            "scratch:9201", "prover", "quiet",
        )  # fmt: skip


async def test_a_group_without_one_says_so(minimal: str) -> None:
    config = Config.parse(minimal)
    with pytest.raises(BadInput, match=r"set groups\.shop\.elasticsearch"):
        async with search_engine(config, Secrets(), "shop", "region-a"):
            pass
    async with scratch_engine(config, Secrets(), "shop") as found:
        assert found is None
