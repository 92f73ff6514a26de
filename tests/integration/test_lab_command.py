"""`drctl lab`: a lab of one's own from the command line, with plain sentences and exit codes for mistakes."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from drctl.main import app

pytestmark = pytest.mark.asyncio(loop_scope="module")
READY_WITHIN = 30.0  # seconds, of a person's patience: with a sample database and a workload, on two cores


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """A lab's folder; its name has a space."""
    path = tmp_path_factory.mktemp("of somebody") / "my lab"
    began = time.monotonic()
    started = await drctl("up", path, "--megabytes", "10", "--workload", "20", "--output", "json")
    assert started.exit_code == 0, started.output
    assert time.monotonic() - began < READY_WITHIN, "about 9 s on a quiet machine"
    yield path
    await drctl("down", path)


async def drctl(command: str, folder: Path, *arguments: str) -> Result:
    """Run `drctl lab <command>` as its process would, in a thread because it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, ["lab", command, *arguments, "--folder", str(folder)])


async def status(folder: Path) -> dict[str, dict[str, object]]:
    shown = await drctl("status", folder, "--output", "json")
    assert shown.exit_code == 0, shown.output
    return {server["name"]: server for server in json.loads(shown.stdout)["servers"]}


async def test_up_starts_a_lab_that_outlives_the_command(folder: Path) -> None:
    servers = await status(folder)
    assert {server["state"] for server in servers.values()} == {"running"}
    assert {"region-a/postgres", "region-b/s3", "witness/witness", "control/temporal"} <= set(servers)
    assert any(name.startswith("control/workload-") for name in servers)
    table = (await drctl("status", folder)).stdout
    assert "region-a" in table
    assert "Temporal UI: http://" in table


async def test_no_secret_is_shown(folder: Path) -> None:
    kept = json.loads((folder / "lab.json").read_text())
    secrets = [
        kept["postgres"]["region-a"]["password"],
        kept["s3"]["witness"]["secret_key"],
        kept["dns"]["tsig_secret"],
    ]
    for output in ("json", "text"):
        shown = (await drctl("status", folder, "--output", output)).output
        assert not [secret for secret in secrets if secret in shown]


async def test_faults_have_effects(folder: Path) -> None:
    killed = await drctl("kill", folder, "region-b", "redis")
    assert (killed.exit_code, killed.stdout) == (0, "Killed region-b/redis.\n")
    servers = await status(folder)
    assert servers["region-b/redis"]["state"] == "killed"
    host, port = str(servers["region-b/redis"]["address"]).split(":")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(socket.create_connection, (host, int(port)), 2)
    assert (await drctl("restart", folder, "region-b", "redis")).exit_code == 0
    assert (await drctl("freeze", folder, "region-b", "nats")).exit_code == 0
    assert (await status(folder))["region-b/nats"]["state"] == "frozen"
    assert (await drctl("thaw", folder, "region-b")).exit_code == 0
    assert (await status(folder))["region-b/nats"]["state"] == "running"
    cut = await drctl("partition", folder, "region-a", "region-b", "--output", "json")
    assert json.loads(cut.stdout)["one"] == "region-a"
    assert "cannot hear each other" in (await drctl("status", folder)).stdout
    assert (await drctl("heal", folder)).exit_code == 0
    assert "cannot hear each other" not in (await drctl("status", folder)).stdout
    broken = await drctl("corrupt", folder, "region-a", "postgres-page", "--table", "documents")
    assert "Flipped a bit of documents (block 0)" in broken.stdout


@pytest.mark.parametrize(
    ("command", "arguments", "code", "sentence"),
    [
        ("kill", ["region-z"], 2, "There is no region 'region-z'. Known: control, region-a, region-b, witness."),
        ("kill", ["region-a", "mysql"], 2, "region-a has no service 'mysql'. Known: app, nats, postgres, redis, s3."),
        ("partition", ["region-a", "region-a"], 2, "Nothing connects region-a and region-a."),
        ("corrupt", ["region-a", "s3-object", "--key", "gone"], 2, "has no object 'gone'"),
        ("corrupt", ["region-a", "s3-object", "--table", "orders"], 2, "--table does not go with s3-object"),
        ("up", [], 2, "A lab is already running in"),
        ("up", ["--postgres", "17"], 2, "The lab has PostgreSQL 16 and 18, not 17"),
    ],
)
async def test_a_mistake_gets_one_sentence(
    folder: Path, command: str, arguments: list[str], code: int, sentence: str
) -> None:
    result = await drctl(command, folder, *arguments)
    assert result.exit_code == code, result.output
    assert sentence in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["status", "heal", "down"])
async def test_without_a_lab_the_way_to_one_is_said(tmp_path: Path, command: str) -> None:
    result = await drctl(command, tmp_path / "none")
    assert result.exit_code == 3
    assert "There is no lab in" in result.stderr
    assert "drctl lab up" in result.stderr


async def test_down_ends_everything(folder: Path) -> None:
    ended = await drctl("down", folder, "--output", "json")
    assert ended.exit_code == 0
    assert json.loads(ended.stdout)["folder"] == str(folder)
    assert await asyncio.to_thread(folder.exists) is False
