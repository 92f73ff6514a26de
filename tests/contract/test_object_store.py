"""What every object store must do, whether in memory, in a folder, or a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lab.state import S3Place
from recovery.adapters.folder import FolderStore
from recovery.adapters.s3 import S3Store
from recovery.adapters.s3_bucket import ObjectLock, ObjectSettings
from recovery.backup.once import put_once
from recovery.errors import BadInput, Contended, NotFound, Refused, Unreachable
from recovery.ports.object_store import ObjectStore
from tests.contract.stores import KINDS, opened, s3_store


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path, s3_place: S3Place) -> AsyncIterator[ObjectStore]:
    async with opened(request.param, tmp_path, s3_place) as made:
        yield made


async def _keys(store: ObjectStore, prefix: str) -> list[str]:
    return [info.key async for info in store.list(prefix)]


async def test_a_stored_object_reads_back_with_its_etag(store: ObjectStore) -> None:
    body = bytes(range(256)) * 5000
    etag = await store.put("shop/a/1.age", body, sha256=hashlib.sha256(body).hexdigest())
    assert await store.get("shop/a/1.age") == (body, etag)
    info = await store.head("shop/a/1.age")
    assert info is not None
    assert (info.key, info.size, info.etag) == ("shop/a/1.age", len(body), etag)
    assert abs(datetime.now(UTC) - info.modified) < timedelta(minutes=5)


async def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    await store.put("empty", b"")
    assert (await store.get("empty"))[0] == b""


async def test_a_missing_object_is_named(store: ObjectStore) -> None:
    with pytest.raises(NotFound):
        await store.get("shop/none")
    assert await store.head("shop/none") is None


async def test_writing_again_replaces_and_changes_the_etag(store: ObjectStore) -> None:
    first = await store.put("k", b"one")
    second = await store.put("k", b"two")
    assert first != second
    assert await store.get("k") == (b"two", second)


async def test_if_absent_creates_once(store: ObjectStore) -> None:
    await store.put("m/manifest.json", b"first", if_absent=True)
    with pytest.raises(Contended):
        await store.put("m/manifest.json", b"second", if_absent=True)
    assert (await store.get("m/manifest.json"))[0] == b"first"


async def test_if_match_replaces_exactly_what_was_read(store: ObjectStore) -> None:
    first = await store.put("own", b"1")
    second = await store.put("own", b"2", if_match=first)
    with pytest.raises(Contended):
        await store.put("own", b"3", if_match=first)
    assert await store.get("own") == (b"2", second)


async def test_if_match_on_a_missing_object_is_contended(store: ObjectStore) -> None:
    etag = await store.put("own", b"1")
    await store.delete(["own"])
    with pytest.raises(Contended):
        await store.put("own", b"2", if_match=etag)
    assert await store.head("own") is None


@pytest.mark.parametrize("how", ["if_absent", "if_match"])
async def test_of_racing_conditional_writers_exactly_one_wins(store: ObjectStore, how: str) -> None:
    for number in range(2):
        key = f"race/{how}/{number}"
        etag = await store.put(key, b"before") if how == "if_match" else None
        writes = [
            store.put(key, f"writer {writer}".encode(), if_absent=etag is None, if_match=etag) for writer in range(8)
        ]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        winners = [writer for writer, outcome in enumerate(outcomes) if isinstance(outcome, str)]
        assert len(winners) == 1
        assert all(isinstance(outcome, str | Contended) for outcome in outcomes)
        assert await store.get(key) == (f"writer {winners[0]}".encode(), outcomes[winners[0]])


async def test_a_list_is_in_the_order_of_keys_and_only_of_the_prefix(store: ObjectStore) -> None:
    keys = ["a/b/2", "a/b/1", "a/b-c", "a/b", "a/bc/1", "b/1", "a/ü ö%41+&"]
    for key in keys:
        if key != "a/b":  # a folder cannot be a file too
            await store.put(key, key.encode())
    assert await _keys(store, "a/b/") == ["a/b/1", "a/b/2"]
    assert await _keys(store, "a/b") == sorted(["a/b/2", "a/b/1", "a/b-c", "a/bc/1"])
    assert "a/ü ö%41+&" in await _keys(store, "a/")
    assert await _keys(store, "none/") == []


async def test_folders_are_those_directly_below(store: ObjectStore) -> None:
    for key in ("shop/postgres/p2/manifest.json", "shop/postgres/p1/x/1", "shop/postgres/file", "other/postgres/p3/x"):
        await store.put(key, b"x")
    assert list(await store.folders("shop/postgres/")) == ["p1", "p2"]
    assert list(await store.folders("")) == ["other", "shop"]
    assert list(await store.folders("none/")) == []


async def test_deleting_is_idempotent_and_exact(store: ObjectStore) -> None:
    for number in range(12):
        await store.put(f"d/{number:02d}", b"x")
    await store.delete([f"d/{number:02d}" for number in range(0, 12, 2)] + ["d/none"])
    assert await _keys(store, "d/") == [f"d/{number:02d}" for number in range(1, 12, 2)]
    await store.delete([])
    await store.delete(["d/00"])


async def test_writing_and_deleting_in_one_folder_do_not_disturb_each_other(store: ObjectStore) -> None:
    async def come_and_go(number: int) -> None:
        for _ in range(10):
            await store.put(f"f/g/{number}", b"x")
            await store.delete([f"f/g/{number}"])

    await asyncio.gather(*(come_and_go(number) for number in range(4)))
    assert await _keys(store, "f/") == []


async def test_bytes_damaged_on_their_way_are_not_stored(s3_place: S3Place) -> None:
    store = s3_store(s3_place)
    with pytest.raises(Unreachable):
        await store.put("bad", b"hello", sha256=hashlib.sha256(b"other").hexdigest())
    assert await store.head("bad") is None
    await store.close()


async def test_deletes_and_lists_go_beyond_one_page(s3_place: S3Place) -> None:
    store = s3_store(s3_place, connections=16)
    keys = [f"many/{number:04d}" for number in range(1005)]
    await asyncio.gather(*(store.put(key, b"") for key in keys))
    assert await _keys(store, "many/") == keys
    await store.delete(keys)
    assert await _keys(store, "many/") == []
    await store.close()


async def test_versioning_off_is_said_with_what_mends_it(s3_place: S3Place) -> None:
    bucket = "without-versioning"
    store = s3_store(s3_place, bucket=bucket)
    await asyncio.to_thread((await store._client()).create_bucket, Bucket=bucket)
    (shortcoming,) = await store.shortcomings()
    assert f"aws s3api put-bucket-versioning --bucket {bucket}" in shortcoming
    await asyncio.to_thread(
        (await store._client()).put_bucket_versioning, Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    assert await store.shortcomings() == []
    await store.close()


async def test_the_storage_class_reaches_the_server(s3_place: S3Place) -> None:
    store = s3_store(s3_place, prefix="classes", objects=ObjectSettings(storage_class="GLACIER_IR"))
    await store.put("x", b"1")
    head = await asyncio.to_thread((await store._client()).head_object, Bucket=s3_place.bucket, Key="classes/x")
    assert head["StorageClass"] == "GLACIER_IR"
    await store.close()


async def _locking(place: S3Place, bucket: str) -> tuple[S3Store, Any]:
    store = s3_store(place, bucket=bucket, objects=ObjectSettings(lock=ObjectLock("COMPLIANCE", 1)))
    client: Any = await store._client()
    await asyncio.to_thread(client.create_bucket, Bucket=bucket, ObjectLockEnabledForBucket=True)
    return store, client


async def test_a_lock_is_tried_and_withstands(s3_place: S3Place) -> None:
    store, client = await _locking(s3_place, "locked")
    assert await store.shortcomings() == []
    await store.put("manifest.json", b"{}", if_absent=True)
    (version,) = (await asyncio.to_thread(client.list_object_versions, Bucket="locked", Prefix=store._root + "m"))[
        "Versions"
    ]
    with pytest.raises(ClientError, match="AccessDenied|denied|WORM"):
        await asyncio.to_thread(
            client.delete_object, Bucket="locked", Key=version["Key"], VersionId=version["VersionId"]
        )
    await store.close()


async def test_a_server_that_only_says_that_it_locks_is_found_out(
    s3_place: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the header, and deletes the object all the same."""
    store, client = await _locking(s3_place, "says-that-it-locks")
    put = client.put_object

    def without_lock(**request: Any) -> Any:
        return put(**{name: value for name, value in request.items() if not name.startswith("ObjectLock")})

    monkeypatch.setattr(client, "put_object", without_lock)
    (shortcoming,) = await store.shortcomings()
    assert "could be deleted" in shortcoming
    await store.close()


async def test_objects_are_added_where_a_policy_forbids_to_delete(s3_place: S3Place) -> None:
    """SeaweedFS keeps such a policy for single deletions; a condition on ``If-None-Match`` it does not know."""
    bucket = "add-only"
    store = s3_store(s3_place, bucket=bucket)
    client: Any = await store._client()
    await asyncio.to_thread(client.create_bucket, Bucket=bucket)
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    await asyncio.to_thread(client.put_bucket_policy, Bucket=bucket, Policy=policy)
    await put_once(store, "shop/x", b"1")
    await put_once(store, "shop/x", b"1")
    with pytest.raises(Contended):
        await put_once(store, "shop/x", b"2")
    with pytest.raises(ClientError, match="AccessDenied"):
        await asyncio.to_thread(client.delete_object, Bucket=bucket, Key=store._root + "shop/x")
    assert await store.get("shop/x") == (b"1", (await store.get("shop/x"))[1])
    await store.close()


async def test_deletions_go_by_credentials_of_their_own(s3_place: S3Place) -> None:
    prefix = "removed-by-another"
    remover = s3_store(s3_place, prefix=prefix)
    store = s3_store(s3_place, prefix=prefix, remover=remover)
    await store.put("a", b"1")
    wrong = s3_store(s3_place, prefix=prefix, remover=s3_store(s3_place, prefix=prefix, secret_key="another"))
    with pytest.raises(Refused):
        await wrong.delete(["a"])
    assert await store.head("a") is not None
    await store.delete(["a"])
    assert await store.head("a") is None
    await wrong.close()
    await store.close()


def test_a_storage_class_that_cannot_be_read_at_once_is_refused() -> None:
    with pytest.raises(BadInput, match="GLACIER_IR"):
        S3Store("archive", "bucket", objects=ObjectSettings(storage_class="DEEP_ARCHIVE"))


async def test_a_wrong_secret_is_refused_and_not_repeated_in_the_error(s3_place: S3Place) -> None:
    wrong = "not-the-secret-of-this-store"
    store = s3_store(s3_place, secret_key=wrong)
    for call in (store.get("a"), store.put("a", b"1"), store.head("a"), store.folders("a/"), store.delete(["a"])):
        with pytest.raises(Refused) as caught:
            await call
        assert wrong not in str(caught.value)
        assert s3_place.access_key not in str(caught.value)
    await store.close()


async def test_a_missing_bucket_is_named(s3_place: S3Place) -> None:
    store = s3_store(s3_place, bucket="there-is-no-such-bucket")
    with pytest.raises(NotFound, match="NoSuchBucket"):
        await store.get("a")
    await store.close()


async def test_a_server_that_is_not_there_is_unreachable(s3_place: S3Place) -> None:
    store = s3_store(s3_place, endpoint_url="http://127.0.0.1:9")
    for call in (store.get("a"), store.put("a", b"1"), store.put("a", b"1", if_absent=True), store.folders("a/")):
        with pytest.raises(Unreachable):
            await call
    await store.close()


async def test_a_server_that_never_answers_is_unreachable_within_the_time_outs(s3_place: S3Place) -> None:
    silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(3600), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    store = s3_store(s3_place, endpoint_url=f"http://127.0.0.1:{port}", read_timeout=0.3, connect_timeout=0.3)
    began = time.monotonic()
    with pytest.raises(Unreachable):
        await store.put("a", b"1", if_absent=True)
    assert time.monotonic() - began < 10
    silent.close()
    await store.close()


async def test_a_conditional_write_whose_answer_was_lost_is_resolved_by_reading_back(
    s3_place: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_store(s3_place)
    client = await store._client()
    really_put = client.put_object
    losses = [True]

    def put_and_lose_the_answer(**request: object) -> object:
        answer = really_put(**request)  # type: ignore[arg-type]
        if losses.pop() if losses else False:
            raise ConnectionResetError("connection reset by peer")
        return answer

    monkeypatch.setattr(client, "put_object", put_and_lose_the_answer)
    etag = await store.put("once", b"mine", if_absent=True)
    assert await store.get("once") == (b"mine", etag)
    losses.append(True)
    second = await store.put("once", b"mine too", if_match=etag)
    assert await store.get("once") == (b"mine too", second)
    with pytest.raises(Contended):
        await store.put("once", b"mine too", if_absent=True)  # no answer was lost: somebody else was first
    await store.close()


async def test_a_folder_shows_no_half_written_object(tmp_path: Path) -> None:
    """Readers beside a writer see one whole version or the other, and never a temporary file."""
    store = FolderStore("folder", tmp_path)
    versions = [bytes([number]) * 200_000 for number in range(4)]
    await store.put("k/v", versions[0])
    writing = asyncio.gather(*(store.put("k/v", version) for version in versions * 5))
    while not writing.done():
        assert (await store.get("k/v"))[0] in versions
        assert await _keys(store, "") == ["k/v"]
    await writing
    await store.close()


async def test_a_folder_compares_and_replaces_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment between the two is drawn out, so that writers would meet in it if nothing kept them apart."""
    store = FolderStore("folder", tmp_path)
    compare = store._require_etag

    def compare_slowly(target: Path, key: str, expected: str) -> None:
        compare(target, key, expected)
        time.sleep(0.05)

    monkeypatch.setattr(store, "_require_etag", compare_slowly)
    etag = await store.put("own", b"before")
    outcomes = await asyncio.gather(
        *(store.put("own", b"%d" % number, if_match=etag) for number in range(4)), return_exceptions=True
    )
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
    await store.close()


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a//b", "a/./b", ""])
async def test_a_folder_never_leaves_its_root(tmp_path: Path, key: str) -> None:
    store = FolderStore("folder", tmp_path / "root")
    with pytest.raises(BadInput):
        await store.put(key, b"x")
    await store.close()
