"""The policies of deploy/s3 on a server that enforces them: what each identity does, and what it is refused."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lab.state import S3Place
from recovery.adapters.s3 import S3Store
from recovery.adapters.s3_bucket import ObjectLock, ObjectSettings, ReplicaRule
from recovery.backup.catalogue import Catalogue
from recovery.backup.once import put_once
from recovery.backup.pipeline import WrittenPoint, write_point
from recovery.backup.reader import open_point, verify_objects
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.upload import WriteBudget
from recovery.domain.recovery_point import Verdict, VerdictState
from recovery.errors import RecoveryError, Refused
from tests.contract.s3_identities import (
    NAMES,
    OUTSIDE,
    PREFIX,
    READER,
    RETENTION,
    WRITER,
    Identity,
    add_identity,
    administrator,
    policy,
    refusal,
    stored,
    without_condition,
)
from tests.fakes.points import FakeSource, identity, signer, verdict_on, verifier

ASKED = ObjectSettings(tags={"retention": "dr"}, lock=ObjectLock("GOVERNANCE", 1))
KEY = f"{PREFIX}/shop/an-object"
Call = Callable[[Any], Any]
"""A request that somebody's client makes."""


@dataclass(frozen=True)
class Site:
    """A bucket with versioning and object lock, another one, and who has which policy for the first."""

    root: Identity
    bucket: str
    elsewhere: str
    parties: dict[str, Identity]

    def everything(self) -> dict[tuple[str, str, str], Any]:
        return stored(self.root, (self.bucket, self.elsewhere))

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        before = self.everything()
        yield
        assert self.everything() == before


def _site(place: S3Place) -> Site:
    root, name = administrator(place), secrets.token_hex(4)
    bucket, elsewhere = f"vault-{name}", f"elsewhere-{name}"
    for made in (bucket, elsewhere):
        root.client.create_bucket(Bucket=made, ObjectLockEnabledForBucket=True)
        for key in (KEY, *OUTSIDE):
            root.client.put_object(Bucket=made, Key=key, Body=b"as it was")
    documents = {each: policy(each, bucket) for each in NAMES}
    documents[WRITER] = without_condition(documents[WRITER])
    return Site(root, bucket, elsewhere, {each: add_identity(place, documents[each], bucket) for each in NAMES})


@pytest.fixture(scope="module")
def site(s3_place: S3Place) -> Site:
    """For the tests that compare what is there with what was there before."""
    return _site(s3_place)


@pytest.fixture
async def fresh(s3_place: S3Place) -> Site:
    """For those that write recovery points, whose names are the same in each."""
    return await asyncio.to_thread(_site, s3_place)


@pytest.fixture
async def stores(fresh: Site) -> AsyncIterator[dict[str, S3Store]]:
    """The location as each of them opens it."""
    made = {name: party.store(fresh.bucket) for name, party in fresh.parties.items()}
    yield made
    for store in made.values():
        await store.close()


async def _backup(store: S3Store, sealer: Sealer, number: int = 1) -> WrittenPoint:
    source = FakeSource({"base.tar": [bytes([each]) * 50_000 for each in range(3)]})
    budget = WriteBudget(chunk_bytes=40_000, object_seconds=20.0, attempt_seconds=10.0, patience_seconds=5.0)
    which = identity(point_id=f"20261122T10150{number}Z-physical-1a2b3c")
    return await write_point(source, stores=[store], sealer=sealer, identity=which, signer=signer(), budget=budget)


def _verdict(written: WrittenPoint) -> Verdict:
    return verdict_on(written.manifest, written.manifest_sha256, state=VerdictState.VALID, location="vault")


async def test_a_backup_is_written_with_the_writers_and_read_with_the_readers(
    fresh: Site, stores: dict[str, S3Store], sealer: Sealer, opener: Opener
) -> None:
    writer = fresh.parties[WRITER].store(
        fresh.bucket, objects=ASKED, replica=ReplicaRule("replica", "STANDARD"), versioning_required=True
    )
    (lacking,) = await writer.shortcomings()
    assert "the replication of team/dr/ to replica does not exist" in lacking, "it may look at all the others"
    written = await _backup(writer, sealer)
    assert (written.complete_locations, written.dropped) == (["vault"], {})
    assert await Catalogue([writer], verifier()).write_verdict(_verdict(written), signer()) == ["vault"]
    await writer.close()

    reader = stores[READER]
    found = await Catalogue([reader], verifier()).newest_validated("shop")
    assert found.manifest == written.manifest
    assert all(result.passed for result in await verify_objects(reader, found.manifest))
    read = b"".join([piece async for piece in open_point(reader, found.manifest, opener).stream("base.tar")])
    assert read == b"".join(bytes([each]) * 50_000 for each in range(3))
    everything = await asyncio.to_thread(fresh.everything)
    point = {key: kept for (_, key, _), kept in everything.items() if written.manifest.point_id in key}
    assert len(point) > 4
    for body, tags, (mode, until) in point.values():
        assert (tags, mode) == ([{"Key": "retention", "Value": "dr"}], "GOVERNANCE")
        assert until > datetime.now(UTC) + timedelta(hours=23)
        assert body


async def test_who_restores_cannot_judge_or_write_anything(
    fresh: Site, stores: dict[str, S3Store], sealer: Sealer
) -> None:
    written = await _backup(stores[WRITER], sealer)
    with fresh.unchanged():
        with pytest.raises(RecoveryError, match="AccessDenied"):
            await Catalogue([stores[READER]], verifier()).write_verdict(_verdict(written), signer())
        with pytest.raises(Refused, match="AccessDenied"):
            await put_once(stores[READER], "shop/new", b"1")
        with pytest.raises(Refused, match="AccessDenied"):
            await stores[READER].delete(["shop/an-object"])


@pytest.mark.parametrize("how", ["by itself", "beside the writer's"])
async def test_retention_removes_a_point_and_its_versions_stay(
    fresh: Site, stores: dict[str, S3Store], sealer: Sealer, how: str
) -> None:
    superseded, kept = await _backup(stores[WRITER], sealer), await _backup(stores[WRITER], sealer, 2)
    before = await asyncio.to_thread(fresh.everything)
    store = stores[RETENTION]
    if how == "beside the writer's":
        store = fresh.parties[WRITER].store(fresh.bucket, remover=stores[RETENTION])
    with pytest.raises(RecoveryError, match="AccessDenied"):
        await Catalogue([stores[WRITER]], verifier()).delete_point("shop", superseded.manifest.point_id)
    assert await asyncio.to_thread(fresh.everything) == before
    listed = Catalogue([store], verifier())
    assert [point.manifest for point in await listed.points("shop")] == [kept.manifest, superseded.manifest]
    await listed.delete_point("shop", superseded.manifest.point_id)
    (left,) = await Catalogue([stores[READER]], verifier()).points("shop")
    assert left.manifest == kept.manifest
    after = await asyncio.to_thread(fresh.everything)
    assert {where: after[where] for where in before} == before, "what was deleted is hidden, and no version is gone"
    markers = {key for where, key, version in after.keys() - before.keys()}
    assert markers == {key for _, key, _ in before if superseded.manifest.point_id in key}
    with pytest.raises(RecoveryError, match="AccessDenied"):
        await put_once(stores[RETENTION], "shop/new", b"1")
    await store.close()


def _for_nobody(bucket: str, version: str, until: datetime) -> dict[str, Call]:
    """What would destroy a version, now or later, or let somebody do it."""
    whole, one = {"Bucket": bucket, "Key": KEY}, {"Bucket": bucket, "Key": KEY, "VersionId": version}
    objects = {"Objects": [{"Key": KEY, "VersionId": version}]}
    sooner = {"Mode": "GOVERNANCE", "RetainUntilDate": until - timedelta(hours=1)}
    expire = {"ID": "all", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}
    return {
        "delete a version": lambda c: c.delete_object(**one),
        "delete a version, bypassing": lambda c: c.delete_object(**one, BypassGovernanceRetention=True),
        "delete versions": lambda c: c.delete_objects(Bucket=bucket, Delete=objects),
        "delete versions, bypassing": lambda c: c.delete_objects(
            Bucket=bucket, Delete=objects, BypassGovernanceRetention=True
        ),
        "shorten a lock": lambda c: c.put_object_retention(**whole, Retention=sooner),
        "shorten a lock, bypassing": lambda c: c.put_object_retention(
            **whole, Retention=sooner, BypassGovernanceRetention=True
        ),
        "legal hold": lambda c: c.put_object_legal_hold(**whole, LegalHold={"Status": "OFF"}),
        "ACL": lambda c: c.put_object_acl(**whole, ACL="public-read"),
        "policy": lambda c: c.put_bucket_policy(Bucket=bucket, Policy="{}"),
        "versioning": lambda c: c.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
        ),
        "lifecycle": lambda c: c.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": [expire]}
        ),
        "lock configuration": lambda c: c.put_object_lock_configuration(
            Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
        ),
        "bucket": lambda c: c.delete_bucket(Bucket=bucket),
    }  # fmt: skip


def _writes(bucket: str, key: str) -> dict[str, Call]:
    one = {"Bucket": bucket, "Key": key}
    return {
        "put": lambda c: c.put_object(**one, Body=b"changed"),
        "put where there is none": lambda c: c.put_object(Bucket=bucket, Key=f"{key}-new", Body=b"1", IfNoneMatch="*"),
        "put what was read": lambda c: c.put_object(**one, Body=b"changed", IfMatch='"0"'),
        "copy": lambda c: c.copy_object(**one, CopySource={"Bucket": bucket, "Key": key}, MetadataDirective="REPLACE"),
        "multipart": lambda c: c.create_multipart_upload(**one),
    }


def _deletions(bucket: str, key: str) -> dict[str, Call]:
    return {
        "delete": lambda c: c.delete_object(Bucket=bucket, Key=key),
        "delete several": lambda c: c.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}]}),
    }


def _reads(bucket: str, key: str) -> dict[str, Call]:
    return {"get": lambda c: c.get_object(Bucket=bucket, Key=key)}


def _refusals(party: Identity, calls: dict[str, Call]) -> dict[str, str]:
    return {what: refusal(lambda call=call: call(party.client)) for what, call in calls.items()}  # type: ignore[misc]


def _all_denied(party: Identity, calls: dict[str, Call]) -> None:
    assert _refusals(party, calls) == dict.fromkeys(calls, "AccessDenied")


@pytest.mark.parametrize("name", NAMES)
def test_nobody_destroys_a_version_or_opens_a_way_to(site: Site, name: str) -> None:
    until = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    lock = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until, "ChecksumAlgorithm": "SHA256"}
    plain = site.root.client.list_object_versions(Bucket=site.bucket, Prefix=KEY)["Versions"][-1]["VersionId"]
    assert "ObjectLockMode" not in site.root.client.head_object(Bucket=site.bucket, Key=KEY, VersionId=plain)
    locked = site.root.client.put_object(Bucket=site.bucket, Key=KEY, Body=b"locked", **lock)["VersionId"]
    with site.unchanged():
        for version in (plain, locked):
            _all_denied(site.parties[name], _for_nobody(site.bucket, version, until))


@pytest.mark.parametrize("name", NAMES)
def test_nobody_reaches_another_prefix_or_bucket(site: Site, name: str) -> None:
    places = [(site.bucket, key) for key in OUTSIDE] + [(site.elsewhere, KEY)]
    with site.unchanged():
        for bucket, key in places:
            _all_denied(site.parties[name], _reads(bucket, key) | _writes(bucket, key) | _deletions(bucket, key))
        _all_denied(site.parties[name], {"list": lambda c: c.list_objects_v2(Bucket=site.elsewhere)})


def test_each_is_refused_what_the_others_are_for(site: Site) -> None:
    with site.unchanged():
        _all_denied(site.parties[WRITER], _deletions(site.bucket, KEY))
        _all_denied(site.parties[READER], _deletions(site.bucket, KEY) | _writes(site.bucket, KEY))
        _all_denied(site.parties[RETENTION], _writes(site.bucket, KEY))


def test_a_server_that_does_not_know_the_condition_takes_no_write_of_the_writers(site: Site) -> None:
    """SeaweedFS 4.48 evaluates ``s3:if-none-match`` as absent: nothing is overwritten, and nothing is added. Once it
    knows the key this fails: then the file is tried as it is, and ``without_condition`` and docs/locations.md go."""
    exact = add_identity(site.root.place, policy(WRITER, site.bucket), site.bucket)
    assert _refusals(exact, _reads(site.bucket, KEY)) == {"get": ""}
    with site.unchanged():
        _all_denied(exact, _writes(site.bucket, KEY) | _deletions(site.bucket, KEY))


def test_without_the_condition_what_the_writer_overwrites_stays_as_an_older_version(site: Site) -> None:
    before = site.everything()
    site.parties[WRITER].client.put_object(Bucket=site.bucket, Key=KEY, Body=b"changed")
    after = site.everything()
    assert {where: after[where] for where in before} == before
    (added,) = after.keys() - before.keys()
    assert added[:2] == (site.bucket, KEY)
