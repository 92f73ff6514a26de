"""``wal.py``, which RESTORE-BY-HAND.md prints: it writes what a recovery of ours would be given, or says why not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyrage
import pytest
import zstandard

from recovery.backup import wal_by_hand
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.wal.reader import WalArchive
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.domain.wal_archive import segment_file
from recovery.errors import NotFound
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import AGE, verifier
from tests.fakes.wal import FIRST, SEGMENT
from tests.unit.wal.test_recoveries import Rig, made_rig

OPENERS = {
    "age": lambda body: pyrage.decrypt(body, [pyrage.x25519.Identity.from_str(AGE.secret)]),
    "zstd": lambda body: zstandard.ZstdDecompressor().decompress(body),
}


def run(command: list[str], *, input: bytes, **_: Any) -> SimpleNamespace:
    """What the two programs do."""
    return SimpleNamespace(stdout=OPENERS[command[0]](input))


@dataclass
class Hand:
    """A person with a copy of the archive, at the files that a recovery will ask for."""

    rig: Rig
    folder: Path
    patch: pytest.MonkeyPatch

    @property
    def copy(self) -> Path:
        return self.folder / "wal-archive"

    @property
    def files(self) -> Path:
        return self.folder / "wal"

    def fetch(self) -> None:
        """``aws s3 cp --recursive``"""
        for key, body in self.rig.stores[0].objects.items():
            _, store, identifier, *rest = key.split("/")
            if (store, identifier) == ("postgres-wal", self.rig.server.identifier):
                place = self.copy.joinpath(*rest)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(body)

    def wal(self, *options: str, timeline: int = 1, stop: int = FIRST + 300) -> None:
        place = [str(self.copy), str(self.files), str(timeline), lsn_text(FIRST + 40), lsn_text(stop)]
        programs = SimpleNamespace(run=run, PIPE=subprocess.PIPE, CalledProcessError=subprocess.CalledProcessError)
        self.patch.setattr(wal_by_hand, "subprocess", programs)
        self.patch.setattr(sys, "argv", ["wal.py", *place, *options])
        wal_by_hand.main()

    def words(self, *options: str, **point: int) -> str:
        """With which it ends; nothing is there then."""
        with pytest.raises(SystemExit) as ended:
            self.wal(*options, **point)
        assert not self.files.exists()
        return str(ended.value)

    async def expected(self, opener: Opener, timeline: int, until: int) -> dict[str, bytes]:
        """What a recovery of ours is given along the timeline."""
        archive = WalArchive(self.rig.stores[0], "shop", self.rig.server.identifier, verifier(), opener)
        branch = next(each.branch for each in await archive.timelines() if each.branch.timeline == timeline)
        reader = await archive.lineage(branch)
        numbers = range(1, timeline + 1)
        names = [segment_file(number, at, SEGMENT) for number in numbers for at in range(FIRST, until, SEGMENT)]
        found = {}
        for name in [*names, *(f"{number:08X}.history" for number in numbers)]:
            try:
                found[name] = await reader.fetch(name, until=until)
            except NotFound:
                continue
        return found

    @property
    def written(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.files.iterdir()}


@pytest.fixture
def hand(sealer: Sealer, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hand:
    return Hand(made_rig(sealer, opener, [MemoryStore("a")]), tmp_path, monkeypatch)


async def grown(rig: Rig, *amounts: int) -> None:
    """Each is archived before the next is written: by partials, and by units that became whole."""
    for amount in amounts:
        rig.server.write(amount)
        await rig.archive()


async def test_the_files_are_those_that_a_recovery_is_given(hand: Hand, opener: Opener, capsys: Any) -> None:
    server = hand.rig.server
    await grown(hand.rig, 5000, 7000, SEGMENT, 2 * SEGMENT + 90, 20)
    server.promote(2)
    await grown(hand.rig, 100, SEGMENT)
    server.promote(3)
    await grown(hand.rig, 500, 300)
    hand.fetch()
    (hand.copy / "00000001" / "pieces" / "00000000" / "README.txt").write_text("not ours")
    hand.wal()
    assert f"to {lsn_text(server.position)} of timeline 3" in capsys.readouterr().out
    assert hand.written == await hand.expected(opener, 3, server.position)
    (first, second), middle = server.forks, FIRST + SEGMENT + 777
    for until in (middle, first[1], first[1] + 10, second[1] - 5, second[1] + 400):
        hand.files.rename(hand.folder / f"before-{until}")
        hand.wal("--until", lsn_text(until))
        assert hand.written == await hand.expected(opener, 3, until)


async def test_the_wal_ends_at_a_gap_and_what_is_asked_for_behind_it_is_refused(hand: Hand, capsys: Any) -> None:
    await grown(hand.rig, 5000, 3 * SEGMENT, 600)
    hand.fetch()
    (whole,) = hand.copy.glob(f"*/pieces/*/{FIRST + SEGMENT:016X}-{FIRST + 2 * SEGMENT:016X}.json")
    whole.unlink()
    for partial in hand.copy.glob(f"*/pieces/*/{FIRST + SEGMENT:016X}-*"):
        partial.unlink()
    gap = lsn_text(FIRST + SEGMENT)
    assert f"archived up to {gap} only" in hand.words("--until", lsn_text(FIRST + 2 * SEGMENT))
    assert f"archived up to {gap} only" in hand.words(stop=FIRST + SEGMENT + 9)
    hand.wal()
    assert f"there is a gap at {gap}" in capsys.readouterr().out
    assert sorted(hand.written) == [segment_file(1, FIRST, SEGMENT)]


@pytest.mark.parametrize("damage", ["missing", "other bytes", "other wal"])
async def test_what_cannot_be_believed_is_never_taken_for_the_end(hand: Hand, damage: str) -> None:
    await grown(hand.rig, 2 * SEGMENT)
    hand.fetch()
    damaged, other = sorted(hand.copy.glob("*/objects/*/*"), reverse=True)[:2]
    if damage == "missing":
        damaged.unlink()
    elif damage == "other bytes":
        damaged.write_bytes(damaged.read_bytes()[:-1])
    else:
        (record,) = hand.copy.glob(f"*/pieces/*/{damaged.name[:33]}.json")
        (its,) = hand.copy.glob(f"*/pieces/*/{other.name[:33]}.json")
        record.write_text(record.read_text().replace(digest_in(record), digest_in(its)))
    said = hand.words()
    assert damaged.name in said and "from another location" in said


def digest_in(record: Path) -> str:
    return record.read_text().split('"plain_sha256":"')[1][:64]


async def test_another_key_is_not_said_to_be_damage(hand: Hand) -> None:
    await grown(hand.rig, 2 * SEGMENT)
    hand.fetch()

    def refuse(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, command)

    hand.patch.setattr(sys.modules[__name__], "run", refuse)
    said = hand.words()
    assert min(path.name for path in hand.copy.glob("*/objects/*/*")) in said
    assert "is whole and cannot be opened: Command '['age'" in said and "another location" not in said


async def test_of_several_timelines_somebody_chooses(hand: Hand, opener: Opener) -> None:
    """Two regions went on from one moment, and one of them again."""
    server = hand.rig.server
    await grown(hand.rig, 5000)
    fork = server.position
    server.promote(2)
    await grown(hand.rig, SEGMENT)
    first = lsn_order(lsn_text(server.position))
    server.promote(3, at=fork + 50)
    await grown(hand.rig, 700)
    server.forks, server.timeline = [(1, fork - 100)], 2
    del server.wal[fork - 100 - server.first :]
    await grown(hand.rig, 900)
    hand.fetch()
    tips = sorted(path.name for path in hand.copy.iterdir())
    assert [name[:8] for name in tips] == ["00000001", "00000002", "00000002", "00000003"]
    said = hand.words()
    assert "which timeline" in said and all(name in said for name in tips)
    hand.wal("--branch", tips[3])
    assert hand.written == await hand.expected(opener, 3, fork + 750)
    assert f"on timeline 3 at {lsn_text(first)}" in Hand(hand.rig, hand.folder / "x", hand.patch).words(
        timeline=3, stop=first
    )


def test_it_is_printed_as_it_stands_and_runs_by_itself(tmp_path: Path) -> None:
    """With the interpreter alone, none of our packages beside it."""
    program = tmp_path / "wal.py"
    program.write_text(Path(wal_by_hand.__file__).read_text())
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(program), "nothing", "wal", "1", "0/28", "0/100"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no archived timeline leads on from the backup, which ends on timeline 1 at 0/100\n"
