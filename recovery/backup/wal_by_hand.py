"""Puts archived WAL into files as PostgreSQL names them. Needs age, zstd and, in the file key.txt, the private key.

ARCHIVE is the copied archive of one server, FILES a new folder; TIMELINE, START and STOP are those of the base backup.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

PIECE = re.compile(r"([0-9A-F]{16})-([0-9A-F]{16})(?:\.e[0-9]+)?\.json")
END = 1 << 64


def number(lsn: str) -> int:
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def text(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


class Branch:
    """A timeline: where its ancestors were left, and its pieces [(first LSN, LSN after it, record)] by segment."""

    def __init__(self, folder: Path) -> None:
        said = json.loads((folder / "history.json").read_text())["payload"]
        self.name, self.timeline, self.size = folder.name, int(said["timeline"]), int(said["segment_bytes"])
        self.history = str(said["history"])
        lines = [line.split() for line in self.history.splitlines() if line.strip() and line.strip()[0] != "#"]
        self.forks = [(int(line[0]), number(line[1])) for line in lines]
        self.pieces: dict[int, list[tuple[int, int, Path]]] = {}
        for path in folder.glob("pieces/*/*.json"):
            found = PIECE.fullmatch(path.name)
            if found:
                first, last = int(found[1], 16), int(found[2], 16)
                self.pieces.setdefault(first // self.size, []).append((first, last, path))

    def lineage(self, branches: list[Branch]) -> list[tuple[Branch, int, int]]:
        """Itself and its ancestors, oldest first, each with the LSNs from which and up to which it counts."""
        begin, found = 0, []
        for place, (timeline, left) in enumerate(self.forks):
            found += [
                (each, begin, left)
                for each in branches
                if (each.timeline, each.forks) == (timeline, self.forks[:place])
            ]
            begin = left
        return [*found, (self, begin, END)]


def opened(archive: Path, record: Path) -> bytes:
    """The WAL of a piece: what is not as its record says is not believed."""
    said = json.loads(record.read_text())["payload"]
    place = archive / said["object"].split("/", 3)[3]
    body: bytes = place.read_bytes()
    if hashlib.sha256(body).hexdigest() == said["sha256"]:
        try:
            for command in (["age", "-d", "-i", "key.txt"], ["zstd", "-dc"]):
                body = subprocess.run(command, input=body, stdout=subprocess.PIPE, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"{place} is whole and cannot be opened: {error}")
        if hashlib.sha256(body).hexdigest() == said["plain_sha256"]:
            return body
    sys.exit(f"{place} is damaged: copy it from another location")


def write(archive: Path, files: Path, lineage: list[tuple[Branch, int, int]], position: int, until: int) -> int:
    """Writes segments up to the first gap and returns it: PostgreSQL takes the zeros there for the end of the WAL."""
    size = lineage[-1][0].size
    position -= position % size
    while position < until:
        first, body = position, b""
        for branch, begin, left in lineage:
            end = min(first + size, left, until)
            if begin >= first + size or end <= first:
                continue
            while position < end:  # a timeline's first segment begins with the bytes of the one before it
                there = [each for each in branch.pieces.get(first // size, []) if each[0] <= position < each[1]]
                if not there:
                    break
                start, _, record = max(there, key=lambda each: each[1])
                body += opened(archive, record)[position - start : end - start]
                position = first + len(body)
            if body:
                log, within = divmod(first // size, (1 << 32) // size)
                (files / f"{branch.timeline:08X}{log:08X}{within:08X}").write_bytes(body.ljust(size, b"\0"))
            if position < end:
                return position
    return position


def chosen(branches: list[Branch], timeline: int, stop: int, name: str | None) -> list[tuple[Branch, int, int]]:
    """The newest timeline that leads on from the backup, with its ancestors."""
    found = {each.name: each.lineage(branches) for each in branches}
    leading = {
        name: line
        for name, line in found.items()
        if any(part.timeline == timeline and begin <= stop <= left for part, begin, left in line)
    }
    ancestors = {part.name for line in leading.values() for part, _, _ in line[:-1]}
    tips = [each for each in leading if (each == name if name else each not in ancestors)]
    if not leading:
        sys.exit(f"no archived timeline leads on from the backup, which ends on timeline {timeline} at {text(stop)}")
    if len(tips) != 1:
        sys.exit(f"which timeline is to be followed? --branch: one of {', '.join(sorted(leading))}")
    return leading[tips[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("archive", "files", "timeline", "start", "stop"):
        parser.add_argument(name)
    parser.add_argument("--until", help="an LSN: nothing from there on is written")
    parser.add_argument("--branch", help="the archive's folder of a timeline, where more than one leads on")
    given = parser.parse_args()
    archive, files, stop = Path(given.archive), Path(given.files), number(given.stop)
    until = number(given.until) if given.until else END
    branches = [Branch(path.parent) for path in sorted(archive.glob("*/history.json"))]
    lineage = chosen(branches, int(given.timeline), stop, given.branch)
    part = Path(f"{files}.part")  # a server is never given half of it
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        for branch, _, _ in lineage:
            if branch.history:
                (part / f"{branch.timeline:08X}.history").write_text(branch.history)
        reached = write(archive, part, lineage, number(given.start), until)
        needed = max(stop, until) if given.until else stop
        if reached < needed:
            sys.exit(f"the WAL from {given.start} on is archived up to {text(reached)} only: {text(needed)} is needed")
        part.rename(files)
    except OSError as error:
        sys.exit(f"{error}: copy the archive again, or from another location")
    print(f"the WAL from {given.start} to {text(reached)} of timeline {lineage[-1][0].timeline} is in {files}")
    behind = [
        first for branch, _, left in lineage for each in branch.pieces.values() for first, _, _ in each if first < left
    ]
    if not given.until and max(behind) > reached:
        print(f"there is a gap at {text(reached)}: what is archived behind it cannot be reached")


if __name__ == "__main__":
    main()
