"""What diverged is sealed where it is put aside, and opens again with the installation's keys alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pyrage
import pytest
import zstandard
from typer.testing import CliRunner

from drctl.main import app
from recovery.adapters import diverged_folder
from recovery.adapters.diverged_folder import DivergedFolders, SealedFolder, open_diverged, read_index, runs_below
from recovery.backup.sealing import AgeKey, Opener, Sealer, generate_age_key
from recovery.errors import Corrupt, NotFound, Refused, WrongKey
from tests.unit.config.conftest import MINIMAL

SECRET_ROW = b"card 4111-1111-1111-1111 "
WAL = SECRET_ROW * 3000
SEGMENT = "000000020000000000000003"


@pytest.fixture
def key() -> AgeKey:
    return generate_age_key()


@pytest.fixture
async def sealer(key: AgeKey) -> AsyncIterator[Sealer]:
    async with Sealer([key.public, generate_age_key().public], threads=1) as sealer:
        yield sealer


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diverged_folder, "CHUNK_BYTES", 32_000)


async def pieces(content: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for begin in range(0, len(content), size):
        yield content[begin : begin + size]


async def put_aside(folder: Path, sealer: Sealer) -> Path:
    sink = SealedFolder(folder, sealer)
    await sink.store("00000002.history", pieces(b"1\t0/3000000\tno recovery target\n"))
    await sink.store(SEGMENT, pieces(WAL))
    return folder


async def test_nothing_readable_lies_on_the_disk(tmp_path: Path, sealer: Sealer) -> None:
    folder = await put_aside(tmp_path / "a.diverged" / "run1", sealer)
    files = [path for path in folder.iterdir() if path.is_file()]
    assert len([path for path in files if path.name.startswith(SEGMENT)]) == 3
    for path in files:
        assert SECRET_ROW not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_it_opens_to_the_same_files(tmp_path: Path, sealer: Sealer, key: AgeKey) -> None:
    folder = await put_aside(tmp_path / "run1", sealer)
    async with Opener([key.secret], threads=1) as opener:
        files = await open_diverged(folder, opener, tmp_path / "opened")
        assert [file.name for file in files] == ["00000002.history", SEGMENT]
        assert files[1].read_bytes() == WAL
        with pytest.raises(Refused, match="already"):
            await open_diverged(folder, opener, tmp_path / "opened")


async def test_it_opens_by_hand(tmp_path: Path, sealer: Sealer, key: AgeKey) -> None:
    """As the documentation says: each object through age, and then through zstd."""
    folder = await put_aside(tmp_path / "run1", sealer)
    identity = pyrage.x25519.Identity.from_str(key.secret)
    objects = sorted(folder.glob(f"{SEGMENT}.*.zst.age"))
    plain = [zstandard.decompress(pyrage.decrypt(path.read_bytes(), [identity])) for path in objects]
    assert b"".join(plain) == WAL


async def test_a_repeated_step_leaves_one_copy(tmp_path: Path, sealer: Sealer) -> None:
    folder = await put_aside(tmp_path / "run1", sealer)
    before = read_index(folder)
    await put_aside(folder, sealer)
    after = read_index(folder)
    assert [(file.name, file.sha256) for file in after.files] == [(file.name, file.sha256) for file in before.files]
    assert after.saved_at == before.saved_at
    assert {path.name for path in folder.iterdir()} == {
        "index.json",
        *(entry.key for file in after.files for entry in file.objects),
    }


async def test_another_key_a_flipped_bit_and_a_lost_object_are_said(
    tmp_path: Path, sealer: Sealer, key: AgeKey
) -> None:
    folder = await put_aside(tmp_path / "run1", sealer)
    async with Opener([generate_age_key().secret], threads=1) as stranger:
        with pytest.raises(WrongKey):
            await open_diverged(folder, stranger, tmp_path / "stranger")
    victim = folder / f"{SEGMENT}.000001.zst.age"
    body = bytearray(victim.read_bytes())
    body[-1] ^= 1
    async with Opener([key.secret], threads=1) as opener:
        victim.write_bytes(bytes(body))
        with pytest.raises(Corrupt):
            await open_diverged(folder, opener, tmp_path / "flipped")
        victim.unlink()
        with pytest.raises(NotFound, match=r"000001\.zst\.age is missing"):
            await open_diverged(folder, opener, tmp_path / "lost")
    assert not list((tmp_path / "flipped").glob(SEGMENT)), "a file is whole or not there"


def test_a_folder_that_is_not_there_holds_no_run(tmp_path: Path) -> None:
    assert runs_below(tmp_path / "nowhere") == []
    with pytest.raises(NotFound, match="nothing that was put aside"):
        read_index(tmp_path)


def commands(folder: Path, key: AgeKey, data_directory: Path) -> Callable[..., Awaitable[str]]:
    """``drctl`` with a configuration of the test's folders; answers what was printed."""
    (folder / "age.key").write_text(key.secret)
    text = MINIMAL.read_text()
    text = text.replace("/run/recovery/region-a/postgres", str(data_directory))
    text = text.replace("file:/run/recovery/operator.agekey", f"file:{folder / 'age.key'}")
    text += f"\nguards:\n  state_folder: {folder / 'guard'}\n"
    (folder / "recovery.yaml").write_text(text)

    async def drctl(*words: str) -> str:
        arguments = [*words, "--config", str(folder / "recovery.yaml")]
        done = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    return drctl


async def test_the_command_lists_and_opens_them(tmp_path: Path, sealer: Sealer, key: AgeKey) -> None:
    data = tmp_path / "pg" / "main"
    await put_aside(diverged_folder.diverged_beside(data) / "1a2b3c4d5e6f", sealer)
    drctl = commands(tmp_path, key, data)
    (found,) = json.loads(await drctl("diverged", "list", "-o", "json"))
    assert (found["id"], found["group"], found["region"]) == ("1a2b3c4d5e6f", "shop", "region-a")
    assert "1a2b3c4d5e6f" in await drctl("diverged", "list")
    out = await drctl("diverged", "fetch", "1a2b3c4d5e6f", "--into", str(tmp_path / "opened"))
    assert (tmp_path / "opened" / SEGMENT).read_bytes() == WAL
    assert f"pg_waldump --path {tmp_path / 'opened'} {SEGMENT} {SEGMENT}" in out


async def test_the_command_lists_and_opens_what_guards_put_aside(tmp_path: Path, key: AgeKey) -> None:
    for store, name, content in (("redis", "0123-900.rdb", b"REDIS0011"), ("nats", "events-1-2.jsonl", b"{}\n")):
        below = diverged_folder.diverged_below(tmp_path / "guard" / "region-b", store, "shop")
        async with DivergedFolders(below, (key.public,)).open(f"{store}-1") as folder:
            await folder.store(name, pieces(content))
            await folder.complete({"keys": 1})
    drctl = commands(tmp_path, key, tmp_path / "pg")
    listed = json.loads(await drctl("diverged", "list", "-o", "json"))
    assert [(each["id"], each["region"], each["store"]) for each in listed] == [
        ("redis-1", "region-b", "redis"),
        ("nats-1", "region-b", "nats"),
    ]
    into = tmp_path / "opened"
    out = await drctl("diverged", "fetch", "redis-1", "--into", str(into))
    assert f"redis-server --port 7777 --dir {into} --dbfilename 0123-900.rdb --appendonly no" in out
    await drctl("diverged", "fetch", "nats-1", "--into", str(into))
    assert (into / "events-1-2.jsonl").read_bytes() == b"{}\n"
