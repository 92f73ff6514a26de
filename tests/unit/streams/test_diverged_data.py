"""What only a returned Redis or JetStream holds is sealed before it follows: no readable byte of it is written."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import nats.errors
import pytest
from nats.aio.client import Client

from recovery.adapters import diverged_folder
from recovery.adapters.diverged_folder import DivergedFolders, diverged_below, open_diverged, runs_below
from recovery.adapters.listening import Listener
from recovery.adapters.nats.divergence import SavedTail, save_tail
from recovery.adapters.redis import divergence as of_redis
from recovery.adapters.redis.connection import RedisServer
from recovery.adapters.redis.replication import Replication
from recovery.backup.sealing import AgeKey, Opener, generate_age_key
from recovery.errors import BadInput, Refused, Unreachable

SECRET = "card 4111-1111-1111-1111"
ENCODED = base64.b64encode(SECRET.encode()).decode()
REDIS = RedisServer("127.0.0.1", 1)


@pytest.fixture
def key() -> AgeKey:
    return generate_age_key()


@pytest.fixture
def aside(tmp_path: Path, key: AgeKey) -> DivergedFolders:
    return DivergedFolders(diverged_below(tmp_path / "state", "nats", "shop"), (key.public,))


def nothing_readable(below: Path, *secrets: str) -> None:
    files = [path for path in below.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert not [secret for secret in secrets if secret.encode() in path.read_bytes()], path
        assert path.stat().st_mode & 0o777 == 0o600


async def opened(folder: Path, key: AgeKey, into: Path) -> bytes:
    async with Opener([key.secret], threads=1) as opener:
        (file,) = await open_diverged(folder, opener, into)
    return file.read_bytes()


# -- streams --------------------------------------------------------------------------------------------------------


@dataclass
class FakeStream:
    """A connection to a server with one stream, whose messages are asked for one by one."""

    numbers: Collection[int]
    last_ts: str = "2026-11-22T10:00:07.123456789Z"
    dies_at: int = 0
    asked: list[int] = field(default_factory=list)

    async def request(self, subject: str, body: bytes, timeout: float) -> Any:
        number = int(json.loads(body)["seq"])
        self.asked.append(number)
        if number == self.dies_at:
            raise nats.errors.ConnectionClosedError
        if number in self.numbers:
            message = {"seq": number, "subject": "events.order", "time": self.last_ts, "data": ENCODED}
            return _Answer(json.dumps({"message": message}).encode())
        return _Answer(json.dumps({"error": {"err_code": 10037, "description": "no message found"}}).encode())

    def info(self, first: int, last: int) -> dict[str, Any]:
        state = {"messages": len(self.numbers), "first_seq": first, "last_seq": last, "last_ts": self.last_ts}
        return {"config": {"name": "events"}, "state": state}


@dataclass
class _Answer:
    data: bytes


async def save(stream: FakeStream, aside: DivergedFolders, common: int = 100, last: int = 107) -> SavedTail:
    return await save_tail(cast(Client, stream), stream.info(1, last), common, aside)


async def test_messages_are_sealed_and_open_to_lines(aside: DivergedFolders, key: AgeKey, tmp_path: Path) -> None:
    stream = FakeStream(range(101, 108))
    saved = await save(stream, aside)
    assert (saved.messages, saved.fork, saved.last) == (7, 100, 107)
    assert saved.listed[0] == f"events 101 events.order {stream.last_ts}"
    nothing_readable(tmp_path, SECRET, ENCODED)
    (run,) = runs_below(aside.folder)
    assert saved.file == f"{run}/events-101-107.jsonl.*.zst.age"
    lines = (await opened(run, key, tmp_path / "opened")).splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(101, 108))
    assert json.loads(lines[-1])["data"] == ENCODED


async def test_a_tail_that_was_saved_is_not_read_again(aside: DivergedFolders) -> None:
    stream = FakeStream(range(101, 108))
    saved = await save(stream, aside)
    stream.asked.clear()
    assert await save(stream, aside) == saved
    assert stream.asked == []


async def test_an_interrupted_save_is_done_again_and_leaves_nothing_of_the_first(
    aside: DivergedFolders, key: AgeKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diverged_folder, "CHUNK_BYTES", 4096)
    stream = FakeStream(range(101, 301), dies_at=290)
    with pytest.raises(nats.errors.ConnectionClosedError):
        await save(stream, aside, last=300)
    assert [path for path in aside.folder.rglob("*") if path.is_file()], "it came so far"
    stream.dies_at, stream.numbers = 0, range(101, 111)  # the others were too old meanwhile
    saved = await save(stream, aside, last=300)
    assert saved.messages == 10
    (run,) = runs_below(aside.folder)
    by_hand = sorted(path.name for path in run.glob("*.zst.age"))
    assert by_hand == ["events-101-300.jsonl.000000.zst.age"], "what the pattern names is the file, and no more"
    assert len((await opened(run, key, tmp_path / "opened")).splitlines()) == 10


async def test_two_tails_with_equal_numbers_are_two(aside: DivergedFolders) -> None:
    """Two failovers at one sequence: the mirror had received nothing between them."""
    first = await save(FakeStream(range(101, 108)), aside)
    second = await save(FakeStream(range(101, 108), last_ts="2026-11-22T11:30:00Z"), aside)
    assert first.file != second.file
    assert len(runs_below(aside.folder)) == 2


async def test_what_was_deleted_leaves_nothing(aside: DivergedFolders) -> None:
    stream = FakeStream([50])
    saved = await save(stream, aside)
    assert (saved.messages, saved.file) == (0, None)
    assert not aside.folder.exists()


async def test_nothing_is_written_where_nobody_could_open_it(tmp_path: Path) -> None:
    nobody = DivergedFolders(tmp_path / "state", ())
    with pytest.raises(BadInput, match="recipient"):
        await save(FakeStream(range(101, 108)), nobody)
    assert not (tmp_path / "state").exists()


# -- Redis ----------------------------------------------------------------------------------------------------------


def says(replid: str = "a" * 40, offset: int = 900, replid2: str = "0" * 40, second_offset: int = -1) -> Replication:
    return Replication(
        is_primary=False, read_only=True, upstream=None, link_up=False, syncing=False, last_heard=-1, replid=replid,
        offset=offset, replid2=replid2, second_offset=second_offset, counts=True, keys=7, run_id="x",
    )  # fmt: skip


@dataclass
class Saves:
    """Stands in for the server: what a ``BGSAVE`` left is a file of the test's."""

    folder: Path
    times: int = 0

    async def __call__(self, server: RedisServer) -> tuple[Path, str]:
        self.times += 1
        return self.folder, "dump.rdb"


@pytest.fixture
def server_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saves:
    saves = Saves(tmp_path / "redis")
    saves.folder.mkdir()
    (saves.folder / "dump.rdb").write_bytes(b"REDIS0011" + SECRET.encode() * 1000)
    monkeypatch.setattr(of_redis, "_save", saves)
    return saves


class NoProcess(Listener):
    async def pids(self) -> list[int]:
        return []


NOBODY = NoProcess("127.0.0.1", 1, frozenset())


async def test_a_redis_is_sealed_once_for_one_state(
    aside: DivergedFolders, key: AgeKey, tmp_path: Path, server_saves: Saves
) -> None:
    new = says("b" * 40, replid2="a" * 40, second_offset=801)
    saved = await of_redis.save_data(REDIS, NOBODY, aside, says(), new)
    assert (saved.keys, saved.fork, saved.bytes_beyond) == (7, 800, 100)
    nothing_readable(tmp_path / "state", SECRET)
    (run,) = runs_below(aside.folder)
    assert saved.file == f"{run}/{'a' * 12}-900.rdb.*.zst.age"
    rdb = (server_saves.folder / "dump.rdb").read_bytes()
    assert await opened(run, key, tmp_path / "opened") == rdb
    assert saved.size == len(rdb)
    assert await of_redis.save_data(REDIS, NOBODY, aside, says(), new) == saved
    assert server_saves.times == 1
    assert of_redis.told(saved).files == [saved.file]


async def test_an_unknown_fork_counts_all_bytes(aside: DivergedFolders, server_saves: Saves) -> None:
    saved = await of_redis.save_data(REDIS, NOBODY, aside, says(), says("c" * 40))
    assert saved.fork is None
    assert of_redis.told(saved).bytes == saved.size > 0


async def test_what_is_no_rdb_file_is_not_taken_for_one(aside: DivergedFolders, server_saves: Saves) -> None:
    (server_saves.folder / "dump.rdb").write_bytes(b"*1\r\n$4\r\nPING")
    with pytest.raises(Refused, match="no RDB file"):
        await of_redis.save_data(REDIS, NOBODY, aside, says(), says("c" * 40))
    (server_saves.folder / "dump.rdb").unlink()
    with pytest.raises(Unreachable, match="are not in"):
        await of_redis.save_data(REDIS, NOBODY, aside, says(), says("c" * 40))
    assert runs_below(aside.folder) == []
