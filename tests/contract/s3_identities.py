"""Identities of a real S3 server that have the policies of deploy/s3, and what else is in their bucket."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import ClientError

from lab.state import S3Place
from recovery.adapters.aws import make_client
from recovery.adapters.s3 import S3Store

FOLDER = Path(__file__).parents[2] / "deploy" / "s3"
WRITER, RETENTION, READER = NAMES = ("backup-writer", "retention", "restore-reader")
CONDITIONAL = "s3:if-none-match"
PREFIX = "team/dr"
OUTSIDE = ("team/dr-of-another/x", "team/x", "x")
"""Keys of the same bucket that are not the location's. The first one begins as the location's do."""
CONFIG = Config(connect_timeout=2, read_timeout=20, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})


def policy(name: str, bucket: str) -> str:
    """The file, as docs/locations.md says to fill it in."""
    return (FOLDER / f"{name}.json").read_text().replace("BUCKET", bucket).replace("PREFIX", PREFIX)


def without_condition(document: str) -> str:
    """For a server that does not know the key and therefore allows no write at all. Nothing else is left out."""
    whole = json.loads(document)
    for statement in whole["Statement"]:
        if statement.get("Condition") == {"Null": {CONDITIONAL: "false"}}:
            del statement["Condition"]
    return json.dumps(whole)


@dataclass(frozen=True)
class Identity:
    """Somebody with credentials, and one policy (the server's administrator: all rights)."""

    place: S3Place
    access_key: str
    secret_key: str = field(repr=False)
    client: Any = field(repr=False)

    def store(self, bucket: str, name: str = "vault", **settings: Any) -> S3Store:
        return S3Store(
            name, bucket, prefix=PREFIX, endpoint_url=self.place.endpoint, region=self.place.region,
            access_key=self.access_key, secret_key=self.secret_key, **settings,
        )  # fmt: skip


def _client(service: str, place: S3Place, access_key: str, secret_key: str) -> Any:
    return make_client(
        service,
        endpoint_url=place.endpoint,
        region_name=place.region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=CONFIG,
    )


def administrator(place: S3Place) -> Identity:
    keys = (place.access_key, place.secret_key)
    return Identity(place, *keys, _client("s3", place, *keys))


def add_identity(place: S3Place, document: str, bucket: str) -> Identity:
    """A new one with this policy and no other, once the server goes by it: before, it would refuse everything."""
    iam, name = _client("iam", place, place.access_key, place.secret_key), f"tried-{secrets.token_hex(6)}"
    iam.create_user(UserName=name)
    made = iam.create_access_key(UserName=name)["AccessKey"]
    arn = iam.create_policy(PolicyName=name, PolicyDocument=document)["Policy"]["Arn"]
    iam.attach_user_policy(UserName=name, PolicyArn=arn)
    keys = (made["AccessKeyId"], made["SecretAccessKey"])
    added = Identity(place, *keys, _client("s3", place, *keys))
    deadline = time.monotonic() + 30
    while refused := refusal(lambda: added.client.list_objects_v2(Bucket=bucket)):
        assert time.monotonic() < deadline, f"all policies allow to list the bucket, and the server answers {refused}"
        time.sleep(0.05)
    return added


def refusal(call: Callable[[], Any]) -> str:
    """The code of the server's refusal, "" where it did what was asked. A batch is refused when all of it is."""
    try:
        answer = call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    codes = {entry["Code"] for entry in answer.get("Errors", [])}
    return codes.pop() if len(codes) == 1 and not answer.get("Deleted") else ""


def stored(root: Identity, buckets: Sequence[str]) -> dict[tuple[str, str, str], Any]:
    """All versions there are: their bytes, tags and locks; delete markers; and how the buckets are set up."""
    found: dict[tuple[str, str, str], Any] = {}
    for bucket in buckets:
        page = root.client.list_object_versions(Bucket=bucket)
        assert not page["IsTruncated"]
        found[bucket, "", "versioning"] = root.client.get_bucket_versioning(Bucket=bucket).get("Status")
        for entry in page.get("DeleteMarkers", []):
            found[bucket, entry["Key"], entry["VersionId"]] = "deleted"
        for entry in page.get("Versions", []):
            version = {"Bucket": bucket, "Key": entry["Key"], "VersionId": entry["VersionId"]}
            body = root.client.get_object(**version)
            tags = root.client.get_object_tagging(**version)["TagSet"]
            lock = (body.get("ObjectLockMode"), body.get("ObjectLockRetainUntilDate"))
            found[bucket, entry["Key"], entry["VersionId"]] = (body["Body"].read(), tags, lock)
    return found
