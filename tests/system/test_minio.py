"""MinIO instead of SeaweedFS: the contracts of object stores, of leases and of ownership records."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lab.processes import die_with
from lab.state import S3Place
from recovery.adapters.aws import make_client
from tests.contract.stores import OTHER_S3
from tests.ports import free_port

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[2]
CONTRACTS = [f"tests/contract/test_{name}_store.py" for name in ("object", "lease", "ownership")]
OTHERWISE = (
    "test_the_storage_class_reaches_the_server",  # it has one class
    "test_objects_are_added_where_a_policy_forbids_to_delete",  # no policy binds its administrator
)


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Place]:
    folder, address = tmp_path_factory.mktemp("minio"), f"127.0.0.1:{free_port()}"
    place = S3Place(
        endpoint=f"http://{address}", access_key="administrator", secret_key=secrets.token_hex(20), bucket="recovery"
    )
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "MINIO_UPDATE": "off", "MINIO_BROWSER": "off",
        "MINIO_ROOT_USER": place.access_key, "MINIO_ROOT_PASSWORD": place.secret_key,
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(shutil.which("minio")), "server", "--quiet", "--address", address, str(folder / "data")],
            env=environment, stdout=log, stderr=log, preexec_fn=die_with(os.getpid()),
        )  # fmt: skip
    try:
        until = time.monotonic() + 30
        while not _is_ready(place):
            assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.05)
        client = make_client(
            "s3", endpoint_url=place.endpoint, region_name=place.region,
            aws_access_key_id=place.access_key, aws_secret_access_key=place.secret_key,
        )  # fmt: skip
        client.create_bucket(Bucket=place.bucket)
        client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
        yield place
    finally:
        process.terminate()
        process.wait(20)


def _is_ready(place: S3Place) -> bool:
    try:
        return httpx.get(f"{place.endpoint}/minio/health/ready", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


async def test_its_conditional_writes_versions_and_locks_are_those_that_we_need(minio: S3Place) -> None:
    """Exactly one of racing writers wins, nobody's write is taken for another's, and what is locked withstands."""
    left_out = [f"--deselect={CONTRACTS[0]}::{name}" for name in OTHERWISE]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CONTRACTS, *left_out,
        "-k", "not memory and not folder and not fake",
        env={**os.environ, OTHER_S3: minio.model_dump_json()}, cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 0, said.decode()[-5000:]
