"""What a bucket gives its objects, and what it lacks, with what mends it. The object lock is tried in tests/contract.

The API is moto's, which keeps less of a replication rule than Amazon does: rules are answered by the tests themselves.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from recovery.adapters.s3 import S3Store
from recovery.adapters.s3_bucket import ObjectLock, ObjectSettings, ReplicaRule

BUCKET, REPLICAS = "backup-primary", "backup-primary-eu-west-1"
KEY = "arn:aws:kms:eu-west-1:111122223333:key/dr"
LOCK = ObjectSettings(lock=ObjectLock("COMPLIANCE", 14))
KMS = ObjectSettings(encryption="aws:kms")
SETTINGS = ObjectSettings(
    storage_class="STANDARD_IA",
    encryption="aws:kms",
    kms_key="arn:aws:kms:us-east-1:111122223333:key/dr",
    tags={"retention": "disaster recovery", "team": "platform"},
    lock=ObjectLock("GOVERNANCE", 3),
)


@pytest.fixture(autouse=True)
async def aws(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield


async def _store(**settings: Any) -> tuple[S3Store, Any]:
    store = S3Store("primary", BUCKET, prefix="dr/shop", **settings)
    client: Any = await store._client()
    put = client.put_object

    def verified(**request: Any) -> Any:
        """As servers do; moto takes any checksum."""
        sent = request.get("ChecksumSHA256")
        if sent is not None and sent != base64.b64encode(hashlib.sha256(request["Body"]).digest()).decode():
            raise _answer("PutObject", "BadDigest", 400)
        return put(**request)

    client.put_object = verified
    return store, client


async def _bucket(client: Any, *, lock: bool = False, versioning: bool = True) -> None:
    await asyncio.to_thread(client.create_bucket, Bucket=BUCKET, ObjectLockEnabledForBucket=lock)
    if versioning and not lock:
        enabled = {"Status": "Enabled"}
        await asyncio.to_thread(client.put_bucket_versioning, Bucket=BUCKET, VersioningConfiguration=enabled)


def _replicate(
    client: Any, status: str = "Enabled", prefix: str = "dr/", kms: str = "Enabled", **destination: Any
) -> None:
    """The form is that of GetBucketReplication's documentation."""
    rule = {
        "ID": "dr", "Status": status, "Priority": 1, "Filter": {"Prefix": prefix},
        "SourceSelectionCriteria": {"SseKmsEncryptedObjects": {"Status": kms}},
        "DeleteMarkerReplication": {"Status": "Disabled"},
        "Destination": {"Bucket": f"arn:aws:s3:::{REPLICAS}", **destination},
    }  # fmt: skip
    answer = {"ReplicationConfiguration": {"Role": "arn:aws:iam::111122223333:role/replication", "Rules": [rule]}}
    client.get_bucket_replication = lambda Bucket: answer  # noqa: N803


async def test_objects_are_written_as_configured() -> None:
    store, client = await _store(objects=SETTINGS)
    await _bucket(client, lock=True)
    await store.put("manifest.json", b"{}", if_absent=True)
    head = await asyncio.to_thread(client.head_object, Bucket=BUCKET, Key="dr/shop/manifest.json")
    assert (head["StorageClass"], head["ServerSideEncryption"]) == ("STANDARD_IA", "aws:kms")
    assert head["SSEKMSKeyId"] == SETTINGS.kms_key
    assert head["ObjectLockMode"] == "GOVERNANCE"
    assert abs(head["ObjectLockRetainUntilDate"] - datetime.now(UTC) - timedelta(days=3)) < timedelta(minutes=5)
    tags = await asyncio.to_thread(client.get_object_tagging, Bucket=BUCKET, Key="dr/shop/manifest.json")
    assert {tag["Key"]: tag["Value"] for tag in tags["TagSet"]} == SETTINGS.tags


async def test_an_object_says_how_far_its_replication_is() -> None:
    """The form is that of HeadObject's documentation (x-amz-replication-status); moto has none."""
    store, client = await _store()
    await _bucket(client)
    await store.put("manifest.json", b"{}")
    plain = await store.head("manifest.json")
    head = client.head_object
    client.head_object = lambda **request: {**head(**request), "ReplicationStatus": "PENDING"}
    found = await store.head("manifest.json")
    assert plain is not None and found is not None
    assert (plain.replication, found.replication) == (None, "PENDING")


async def test_a_storage_class_that_the_server_does_not_keep_is_said() -> None:
    store, client = await _store(objects=ObjectSettings(storage_class="STANDARD_IA"))
    await _bucket(client)
    assert await store.shortcomings() == []
    assert await store.shortcomings() == [], "its probe is there already"
    deaf, client = await _store(objects=ObjectSettings(storage_class="GLACIER_IR"))
    put = client.put_object
    client.put_object = lambda StorageClass, **rest: put(**rest)  # noqa: N803
    (shortcoming,) = await deaf.shortcomings()
    assert "keeps objects as STANDARD, and not as GLACIER_IR" in shortcoming


async def test_a_bucket_without_object_lock_is_said_with_what_mends_it() -> None:
    store, client = await _store(objects=LOCK)
    await _bucket(client)
    (shortcoming,) = await store.shortcomings()
    assert f"put-object-lock-configuration --bucket {BUCKET}" in shortcoming


@pytest.mark.parametrize(
    ("code", "status"), [("AccessDenied", 403), ("InvalidRequest", 400)], ids=["Amazon's", "MinIO's"]
)
async def test_the_lock_is_tried_with_credentials_that_may_only_add_objects(code: str, status: int) -> None:
    """As deploy/s3/backup-writer.json has it: PutObject under If-None-Match, and no DeleteObject."""
    store, client = await _store(objects=LOCK)
    await _bucket(client, lock=True)
    put = client.put_object
    kept: dict[str, Any] = {}

    def only_adding(**request: Any) -> Any:
        if request.get("IfNoneMatch") != "*":
            raise _denied("PutObject")
        kept.update(Mode=request["ObjectLockMode"], RetainUntilDate=request["ObjectLockRetainUntilDate"])
        return put(**request)

    def never(**request: Any) -> Any:
        raise _answer("DeleteObject", code, status)

    client.put_object, client.delete_object = only_adding, never
    client.get_object_retention = lambda **version: {"Retention": kept}  # moto does not answer it
    assert await store.shortcomings() == []


def _answer(operation: str, code: str, status: int) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        operation,
    )


def _denied(operation: str) -> ClientError:
    return _answer(operation, "AccessDenied", 403)


async def test_writes_are_tried_once_in_a_process_with_credentials_that_may_only_add_objects() -> None:
    store, client = await _store()
    await _bucket(client)
    put = client.put_object
    tried: list[str] = []

    def only_adding(**request: Any) -> Any:
        if request.get("IfNoneMatch") != "*":
            raise _denied("PutObject")
        tried.append(request["Key"])
        return put(**request)

    client.put_object = only_adding
    assert await store.shortcomings() == []
    assert tried == [f"dr/shop/write-probes/{name}" for name in ("once", "once", "damaged")]
    assert await store.shortcomings() == []
    assert len(tried) == 3, "it is known"
    kept = [info.key async for info in store.list("write-probes/")]
    assert kept == ["write-probes/once"]


async def test_a_server_that_ignores_if_none_match_is_found_out() -> None:
    """On it two attempts would both publish their manifest."""
    store, client = await _store()
    await _bucket(client)
    put = client.put_object
    client.put_object = lambda **request: put(**{k: v for k, v in request.items() if k != "IfNoneMatch"})
    for _ in range(2):
        (shortcoming,) = await store.shortcomings()
        assert "overwrites what If-None-Match: * protects" in shortcoming


async def test_a_server_that_ignores_checksums_is_found_out() -> None:
    store, client = await _store()
    await _bucket(client)
    put = client.put_object
    client.put_object = lambda **request: put(**{k: v for k, v in request.items() if k != "ChecksumSHA256"})
    for _ in range(2):
        (shortcoming,) = await store.shortcomings()
        assert "stores objects whose SHA-256 is not the one that was sent" in shortcoming
    await store.delete(["write-probes/damaged"])
    client.put_object = put
    assert await store.shortcomings() == []


async def test_a_server_that_gives_back_something_else_is_found_out() -> None:
    store, client = await _store()
    await _bucket(client)
    get = client.get_object
    client.get_object = lambda **request: {**get(**request), "Body": io.BytesIO(b"something else")}
    (shortcoming,) = await store.shortcomings()
    assert "does not give back what was stored" in shortcoming


async def test_a_replication_that_is_as_expected_is_no_shortcoming() -> None:
    store, client = await _store(replica=ReplicaRule(REPLICAS, "STANDARD", KEY), objects=KMS)
    await _bucket(client)
    _replicate(client, StorageClass="STANDARD", EncryptionConfiguration={"ReplicaKmsKeyID": KEY})
    assert await store.shortcomings() == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (None, f"the replication of dr/shop/ to {REPLICAS} does not exist"),
        ({"kms": "Disabled"}, "misses what is encrypted with a KMS key here"),
        ({"status": "Disabled"}, f"to {REPLICAS} is disabled"),
        ({"prefix": "dr/shop/physical/"}, "does not exist"),
        ({"StorageClass": "GLACIER"}, "gets storage class GLACIER, expected STANDARD"),
        ({"EncryptionConfiguration": {"ReplicaKmsKeyID": "arn:aws:kms:eu-west-1:1:key/x"}}, f"expected {KEY}"),
        ({"EncryptionConfiguration": None}, f"encrypted with no KMS key, expected {KEY}"),
    ],
)
async def test_what_a_replication_lacks_is_said_with_what_mends_it(rule: dict[str, Any] | None, words: str) -> None:
    store, client = await _store(replica=ReplicaRule(REPLICAS, "STANDARD", KEY), objects=KMS)
    await _bucket(client)
    if rule is not None:
        settings = {"StorageClass": "STANDARD", "EncryptionConfiguration": {"ReplicaKmsKeyID": KEY}, **rule}
        _replicate(client, **{name: value for name, value in settings.items() if value is not None})
    (shortcoming,) = await store.shortcomings()
    assert words in shortcoming
    assert f"put-bucket-replication --bucket {BUCKET}" in shortcoming


async def test_a_bucket_without_versioning_replicates_nothing() -> None:
    store, client = await _store(versioning_required=False, replica=ReplicaRule(REPLICAS, "STANDARD"))
    await _bucket(client, versioning=False)
    first, _ = await store.shortcomings()
    assert "put-bucket-versioning" in first
