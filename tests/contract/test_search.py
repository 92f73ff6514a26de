"""Elasticsearch and OpenSearch against their documented answers: the contract, and what no real one does on request."""

from __future__ import annotations

import pytest
from starlette.responses import JSONResponse

from recovery.adapters.search.connection import SearchLimits, SearchLogin
from recovery.adapters.search.recovery import SearchSnapshots
from recovery.domain.search import SearchProduct, snapshot_name
from recovery.errors import BadInput, Contended, NoSpace, Refused, SourceFailed, Unreachable
from recovery.ports.search import SearchAdvance, SearchRepository, SnapshotRequest
from tests.contract.search_answers import PASSWORD, USER, Index, Snapshot, failing, no_json
from tests.contract.search_contract import MARK, SearchContract, new_point, options
from tests.contract.search_restore_contract import DataStreams, SearchRestores
from tests.contract.search_site import FAST, Doors, FakeSite


@pytest.fixture(params=list(SearchProduct))
def site(request: pytest.FixtureRequest, search_engines: Doors) -> FakeSite:
    return search_engines.site(request.param)


@pytest.fixture
def one(search_engines: Doors) -> FakeSite:
    """Where the product makes no difference."""
    return search_engines.site(SearchProduct.OPENSEARCH)


class TestSearch(SearchContract, SearchRestores, DataStreams):
    pass


# What a snapshot can end as


@pytest.mark.parametrize("state", ["PARTIAL", "FAILED"])
async def test_a_snapshot_that_is_not_whole_is_a_failure_with_its_shards(one: FakeSite, state: str) -> None:
    await one.make("east", "orders", 40, shards=20)
    one.clusters["east"].outcome = failing(state, 12)
    await one.east.register(one.repository())
    request = SnapshotRequest("recovery", new_point())
    words = rf"ended {state}: 12 of 20 shards failed: orders\[0\]: IOException\[disk\]; .*orders\[9\].*; and 2 more\."
    for _ in range(2):  # another attempt finds the same one
        with pytest.raises(SourceFailed, match=words):
            await one.east.snapshot(request)
    assert await one.east.delete_snapshot("recovery", request.point)


async def test_a_partial_snapshot_is_not_restored(one: FakeSite) -> None:
    await one.make("east", "orders", 40, shards=2)
    source = await one.point()
    failing("PARTIAL", 1)(one.disk.places["/repository/recovery"][source.snapshot])
    with pytest.raises(Refused, match=r"ended PARTIAL: 1 of 2 shards failed"):
        await one.west.restore(source, options())
    assert await one.docs("west") == {}


async def test_a_snapshot_that_does_not_end_in_time_goes_on(one: FakeSite) -> None:
    await one.make("east", "orders")
    await one.east.register(one.repository(slow=True))
    request = SnapshotRequest("recovery", new_point(), within_seconds=0.05)
    with pytest.raises(Unreachable, match=r"did not end within 0\.05 s; it goes on"):
        await one.east.snapshot(request)
    assert [each.state for each in await one.east.snapshots("recovery")] == ["IN_PROGRESS"]


async def test_writes_meanwhile_widen_what_is_known_and_fail_no_restore(one: FakeSite) -> None:
    await one.make("east", "orders", 40)
    one.clusters["east"].written_meanwhile = {"orders": 5}
    source = await one.point()
    (part,) = source.indices
    assert (part.docs, part.rested) == (45, False)
    assert (part.positions[0].at_least, part.positions[0].at_most) == (39, 44)
    assert (await one.west.restore(source, options())).notes == []


async def test_writes_to_a_restored_index_are_noted_and_fail_nothing(one: FakeSite) -> None:
    await one.make("east", "orders", 40)
    source = await one.point()
    place = one.disk.places["/repository/recovery"][source.snapshot]
    place.indices["orders"].shards = [60]
    assert (await one.west.restore(source, options())).notes == ["written to already: orders"]


async def test_an_index_that_was_made_anew_meanwhile_is_not_held_against_the_old_one(one: FakeSite) -> None:
    await one.make("east", "orders", 40)

    def made_anew(snapshot: Snapshot) -> None:
        one.clusters["east"].indices["orders"] = Index([3])

    one.clusters["east"].outcome = made_anew
    source = await one.point()
    assert source.indices[0].positions == []
    assert (await one.west.restore(source, options())).notes == [
        "not compared, for they were closed or new when taken, or an earlier attempt had begun that: orders"
    ]


# Answers that refuse or are wrong


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (503, "cluster_block_exception", Unreachable),
        (429, "circuit_breaking_exception", Unreachable),
        (503, "concurrent_snapshot_execution_exception", Contended),
        (400, "snapshot_in_progress_exception", Contended),
        (403, "cluster_block_exception", Refused),
        (500, "repository_exception", SourceFailed),
        (400, "invalid_snapshot_name_exception", BadInput),
    ],
)
async def test_refusals_are_told_apart(one: FakeSite, status: int, kind: str, expected: type[Exception]) -> None:
    await one.make("east", "orders")
    await one.east.register(one.repository())
    request = SnapshotRequest("recovery", new_point())
    cause = {"type": "inner", "reason": "the innermost cause"}
    error = {"type": kind, "reason": "no", "caused_by": {"type": "middle", "reason": "middle", "caused_by": cause}}
    path = f"PUT /_snapshot/recovery/{snapshot_name(request.point)}"
    one.clusters["east"].answers[path] = JSONResponse({"error": error, "status": status}, status)
    with pytest.raises(expected, match=r"no: the innermost cause") as failure:
        await one.east.snapshot(request)
    assert type(failure.value) is expected


@pytest.mark.parametrize("password", ["wrong-password", None])
async def test_a_wrong_password_is_refused_and_never_shown(one: FakeSite, password: str | None) -> None:
    cluster = one.clusters["east"]
    cluster.protected = True
    async with SearchSnapshots(one.addresses["east"], SearchLogin(USER, PASSWORD), FAST) as right:
        assert (await right.server()).cluster == "east"
    login = SearchLogin(USER, password) if password else None
    async with SearchSnapshots(one.addresses["east"], login, FAST) as wrong:
        with pytest.raises(Refused, match=r"401.*Check elasticsearch\.user, its password and its role") as failure:
            await wrong.server()
    assert "wrong-password" not in str(failure.value) + repr(failure.value) + repr(login)


@pytest.mark.parametrize("key", ["access_key", "client.secret_key", "session_token"])
async def test_secrets_do_not_go_into_a_repositorys_settings(one: FakeSite, key: str) -> None:
    with pytest.raises(BadInput, match=rf"is to get {key}.*keystores") as failure:
        await one.east.register(SearchRepository("recovery", "s3", "backups", settings={key: "hush"}))
    assert "hush" not in str(failure.value) and one.clusters["east"].repositories == {}


async def test_a_bucket_is_registered_with_its_place_and_no_credentials(one: FakeSite) -> None:
    cluster = one.clusters["east"]
    cluster.has_s3 = True
    bucket = SearchRepository("b", "s3", "backups", base_path="shop", settings={"server_side_encryption": "true"})
    assert await one.east.register(bucket) == await one.east.register(bucket) == ["east-1"]
    wanted = {"bucket": "backups", "client": "default", "base_path": "shop", "server_side_encryption": "true"}
    assert cluster.repositories == {"b": {"type": "s3", "settings": wanted}}
    with pytest.raises(Refused, match="its base_path is shop, not other"):
        await one.east.register(SearchRepository("b", "s3", "backups", base_path="other", settings=bucket.settings))


@pytest.mark.parametrize(
    "address", ["https://recovery:hush@search:9200", "search:9200", "ftp://search", "http://x:port"]
)
def test_an_address_is_checked_and_not_repeated(address: str) -> None:
    with pytest.raises(BadInput, match="https://host:port without a user in it") as failure:
        SearchSnapshots(address)
    assert "hush" not in str(failure.value)


async def test_nobody_answers(one: FakeSite) -> None:
    async with SearchSnapshots("http://127.0.0.1:9", limits=FAST) as nobody:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9 could not be asked GET /"):
            await nobody.server()
    cluster = one.clusters["east"]
    cluster.lost.add("GET /")
    async with SearchSnapshots(one.addresses["east"], limits=SearchLimits(request_seconds=0.1)) as silent:
        with pytest.raises(Unreachable, match=r"no answer within 0\.1 s"):
            await silent.server()


async def test_what_is_no_search_engine_is_said(one: FakeSite) -> None:
    cluster = one.clusters["east"]
    cluster.answers["GET /"] = no_json()
    with pytest.raises(Unreachable, match="is no JSON: is it behind a proxy"):
        await one.east.server()
    cluster.answers["GET /"] = JSONResponse({"hello": "world"})
    with pytest.raises(BadInput, match="is no Elasticsearch or OpenSearch"):
        await one.east.server()
    cluster.answers = {"GET /_all/_alias": JSONResponse([])}
    await one.east.register(one.repository())
    with pytest.raises(Unreachable, match="could not take a snapshot: its answer is not one of a search engine"):
        await one.east.snapshot(SnapshotRequest("recovery", new_point()))


async def test_an_answer_is_bounded(one: FakeSite) -> None:
    await one.make("east", "orders")
    cluster = one.clusters["east"]
    await one.east.register(one.repository())
    cluster.answers["GET /_snapshot/recovery/_all"] = JSONResponse({"snapshots": ["x" * (2 << 20)]})
    async with SearchSnapshots(one.addresses["east"], limits=SearchLimits(longest_answer=1 << 20)) as bounded:
        with pytest.raises(Refused, match="an answer of more than 1 MiB"):
            await bounded.snapshots("recovery")


# Versions, sizes, names


async def test_versions_that_cannot_read_it_are_refused_by_name(one: FakeSite) -> None:
    await one.make("east", "orders")
    source = await one.point()
    one.clusters["west"].version = "2.11.0"
    with pytest.raises(Refused, match=r"OpenSearch 2\.19\.1 wrote it and OpenSearch 2\.11\.0 cannot read it"):
        await one.west.restore(source, options())
    one.clusters["west"].product, one.clusters["west"].version = SearchProduct.ELASTICSEARCH, "8.17.3"
    with pytest.raises(Refused, match="Elasticsearch reads no snapshot of OpenSearch"):
        await one.west.restore(source, options())
    one.clusters["west"].version = "6.8.23"
    with pytest.raises(Refused, match=r"Elasticsearch 6\.8\.23 at .* is too old: 7\.10\.0 and later"):
        await one.west.server()


async def test_releases_that_share_a_format_read_each_others(search_engines: Doors) -> None:
    site = search_engines.site(SearchProduct.ELASTICSEARCH)
    await site.make("east", "orders")
    source = await site.point()
    site.clusters["west"].version = "8.17.1"
    assert (await site.west.restore(source, options())).docs == 40
    site.clusters["west"].version = "8.16.9"
    with pytest.raises(Refused, match=r"Elasticsearch 8\.17\.0 wrote it and Elasticsearch 8\.16\.9 cannot read it"):
        await site.west.restore(source, options())


async def test_only_primaries_say_what_a_snapshot_holds(one: FakeSite) -> None:
    await one.make("east", "orders", 40, replicas=1)
    source = await one.point()
    assert (source.indices[0].shards, source.indices[0].positions[0].at_least) == (1, 39)


async def test_documents_that_no_search_has_seen_yet_are_counted(one: FakeSite) -> None:
    await one.make("east", "orders", 40)
    one.clusters["east"].indices["orders"].unseen = 30
    source = await one.point()
    assert (source.indices[0].docs, source.indices[0].rested) == (40, True)
    assert (await one.west.restore(source, options())).docs == 40


async def test_features_of_elasticsearch_keep_their_indices(site: FakeSite) -> None:
    """With the global state, a restore would put the features' indices (security too) in the place of the target's."""
    await site.make("east", "orders")
    source = await site.point(global_state=True)
    await site.west.restore(source, options(global_state=True, replicas=0, ignore_settings=["index.lifecycle.name"]))
    body = site.clusters["west"].bodies[f"POST /_snapshot/recovery/{source.snapshot}/_restore"]
    expected = ["none"] if site.product is SearchProduct.ELASTICSEARCH else None
    assert body.get("feature_states") == expected
    assert body["ignore_index_settings"] == ["index.lifecycle.name"]
    assert body["index_settings"]["index.number_of_replicas"] == 0


async def test_too_little_room_is_seen_before_anything_is_restored(one: FakeSite) -> None:
    await one.make("east", "orders", 5000)
    source = await one.point()
    one.clusters["west"].free = 1 << 20
    with pytest.raises(NoSpace, match="have 1 MiB free, and the primaries of snapshot .* alone need 4 MiB"):
        await one.west.restore(source, options())
    assert await one.docs("west") == {}


async def test_many_long_names_fit_into_a_servers_first_line(one: FakeSite) -> None:
    for number in range(150):
        await one.make("east", f"orders-of-a-shop-with-a-very-long-name-indeed-{number:05}", 2)
    source = await one.point()
    chosen = options()
    seen: list[SearchAdvance] = []
    restored = await one.west.restore(source, chosen, seen.append)
    assert (restored.docs, len(restored.indices)) == (300, 150)
    assert seen[-1] == SearchAdvance(150, 150, 300_000, 300_000)
    for index in one.clusters["west"].indices.values():
        index.settings[MARK] = chosen.restore_id
    assert len(await one.west.remove_restored(chosen.restore_id)) == 150
