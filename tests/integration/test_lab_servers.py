"""What a started lab offers, asked through the clients that the product uses."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from pathlib import Path

import asyncpg
import dns.asyncquery
import dns.message
import httpx
import nats
import psutil
import pytest
import redis.asyncio
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client

from lab import Lab, LabError
from lab.readiness import s3_client

REGIONS = ("region-a", "region-b")


def test_regions_differ_in_address_and_agree_in_port(lab: Lab) -> None:
    first, second = (lab.postgres(region) for region in REGIONS)
    assert first.host != second.host
    assert first.port == second.port
    assert lab.s3("region-a").endpoint.rsplit(":", 1)[1] == lab.s3("region-b").endpoint.rsplit(":", 1)[1]
    assert lab.redis("region-a").rsplit(":", 1)[1] == lab.redis("region-b").rsplit(":", 1)[1]


def test_servers_listen_on_their_own_address_only(lab: Lab) -> None:
    state = lab.describe()
    hosts = {server.host for server in state.servers} | {link.host for link in state.links}
    listening: dict[str, set[str]] = {}
    for server in state.servers:
        for pid in server.pids:
            with contextlib.suppress(psutil.NoSuchProcess):  # a server's processes of one session come and go
                for connection in psutil.Process(pid).net_connections(kind="tcp"):
                    if connection.status == psutil.CONN_LISTEN:
                        listening.setdefault(server.name, set()).add(connection.laddr.ip)
    assert set(listening) >= {server.name for server in state.servers if server.port}
    for server in state.servers:
        own = {link.host for link in state.links} if server.service == "proxy" else {server.host}
        assert listening.get(server.name, set()) <= own, server.name
    assert all(host.startswith("127.") for host in hosts)


async def test_the_standby_streams_from_the_primary(lab: Lab) -> None:
    primary = await asyncpg.connect(lab.postgres("region-a").dsn())
    standby = await asyncpg.connect(lab.postgres("region-b").dsn())
    try:
        assert await primary.fetchval("SELECT pg_is_in_recovery()") is False
        assert await standby.fetchval("SELECT pg_is_in_recovery()") is True
        assert await primary.fetchval("SHOW data_checksums") == "on"
        row = await primary.fetchrow("SELECT state, application_name FROM pg_stat_replication")
        assert row is not None
        assert tuple(row) == ("streaming", "standby_region_b")
        slot = await primary.fetchrow("SELECT slot_name, active FROM pg_replication_slots")
        assert slot is not None
        assert tuple(slot) == ("standby_region_b", True)
    finally:
        await primary.close()
        await standby.close()


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("pg_dumpall", ["--globals-only"]),
        ("pg_dump", ["--format=custom"]),  # large objects included
        ("pg_basebackup", ["--pgdata=-", "--format=tar", "--wal-method=none", "--no-manifest", "--checkpoint=fast"]),
    ],
)
async def test_the_backup_role_suffices_for_a_backup(
    lab: Lab, tmp_path: Path, program: str, arguments: list[str]
) -> None:
    place = lab.postgres("region-a")
    connection = await asyncpg.connect(place.dsn("backup"))
    assert await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    await connection.close()
    output = tmp_path / "output"
    with output.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            place.bin_directory / program, f"--dbname={place.dsn('backup')}", *arguments, stdout=out, stderr=-1
        )
        _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    if program == "pg_dumpall":
        assert b"CREATE ROLE app" in output.read_bytes()
        assert b"SCRAM-SHA-256" in output.read_bytes()
    if program == "pg_basebackup":
        assert output.stat().st_size > 20_000_000


async def test_a_wrong_password_is_refused(lab: Lab) -> None:
    place = lab.postgres("region-a").model_copy(update={"password": "wrong"})
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(place.dsn())


async def test_jetstream_keeps_a_message(lab: Lab) -> None:
    client = await nats.connect(lab.nats("region-b"))
    stream = client.jetstream()
    await stream.add_stream(name="orders", subjects=["orders.*"])
    try:
        assert (await stream.publish("orders.new", b"1")).seq == 1
    finally:
        await stream.delete_stream("orders")
        await client.close()


async def test_redis_wants_its_password(lab: Lab) -> None:
    url = lab.redis("region-a")
    async with redis.asyncio.from_url(url) as client:
        assert await client.ping()
    bare = f"redis://{url.rsplit('@', 1)[1]}"
    async with redis.asyncio.from_url(bare) as client:
        with pytest.raises(redis.AuthenticationError):
            await client.ping()


@pytest.mark.parametrize("name", [*REGIONS, "witness"])
def test_stores_are_separate_and_keep_versions(lab: Lab, name: str) -> None:
    place = lab.witness() if name == "witness" else lab.s3(name)
    client = s3_client(place)
    assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == [place.bucket]
    versions = [client.put_object(Bucket=place.bucket, Key="versions", Body=body)["VersionId"] for body in (b"1", b"2")]
    old = client.get_object(Bucket=place.bucket, Key="versions", VersionId=versions[0])["Body"].read()
    for version in versions:
        client.delete_object(Bucket=place.bucket, Key="versions", VersionId=version)
    assert old == b"1"


def test_a_store_refuses_another_stores_key(lab: Lab) -> None:
    place = lab.s3("region-a").model_copy(update={"secret_key": lab.s3("region-b").secret_key})
    client = s3_client(place)
    with pytest.raises(client.exceptions.ClientError) as raised:
        client.list_objects_v2(Bucket=place.bucket)
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


async def test_temporal_knows_the_search_attributes_and_shows_its_ui(lab: Lab) -> None:
    place = lab.temporal()
    client = await Client.connect(place.address, namespace=place.namespace)
    known = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=place.namespace))
    assert {"DrGroup", "DrPlan"} <= set(known.custom_attributes)
    async with httpx.AsyncClient() as http:
        assert (await http.get(place.ui_address, follow_redirects=True)).status_code == 200
    assert place.database_file.stat().st_size > 0


@pytest.mark.parametrize("name", ["db", "api", "www", "admin", "cdn"])
async def test_every_name_of_the_shop_points_at_the_first_region(lab: Lab, name: str) -> None:
    place = lab.dns()
    query = dns.message.make_query(f"{name}.{place.zone}", "A")
    for ask in (dns.asyncquery.udp, dns.asyncquery.tcp):
        answer = await ask(query, place.host, port=place.port, timeout=2)
        assert [rdata.address for rdata in answer.answer[0]] == [lab.postgres("region-a").host]
        assert answer.answer[0].ttl == 1


async def test_the_webhook_keeps_what_it_gets(lab: Lab) -> None:
    place = lab.webhook()
    async with httpx.AsyncClient() as http:
        assert (await http.post(place.url, json={"title": "region lost"})).status_code == 204
    assert '"title": "region lost"' in place.file.read_text().splitlines()[-1]


async def test_unknown_names_are_answered_with_the_known_ones(lab: Lab) -> None:
    with pytest.raises(LabError, match="Known: region-a, region-b"):
        lab.postgres("region-c")
    with pytest.raises(LabError, match="Known: app, nats, postgres, redis, s3"):
        await lab.kill("region-a", "mysql")
    with pytest.raises(LabError, match="Known: clients, control, outside, region-a, region-b, witness"):
        await lab.partition("region-a", "moon")


def test_the_state_file_is_private(lab: Lab) -> None:
    assert (lab.folder / "lab.json").stat().st_mode & 0o777 == 0o600


def test_no_secret_is_in_a_command_line(lab: Lab) -> None:
    place = lab.postgres("region-a")
    secrets = [place.password, place.backup_password, place.app_password, lab.s3("region-a").secret_key]
    secrets += [lab.dns().tsig_secret, lab.redis("region-a").split(":")[2].split("@")[0]]
    shown = subprocess.run(["ps", "-eo", "args", "-ww"], capture_output=True, text=True, check=True).stdout
    assert lab.folder.name in shown
    assert not [secret for secret in secrets if secret in shown]
