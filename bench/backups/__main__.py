"""Backups and restores beside those of others, taking turns in one run.

    python -m bench.backups [--size 1GB] [--repetitions 5] [--only WORD,...] [--barman PROGRAM] [--nats PROGRAM]

Parts (``--only``): physical, scripts, s3, streams, wal, memory. Exits with 1 when a limit is missed, and with 2 when
none is, but a peer or a part was left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import platform
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.backups.data import HOST, running
from bench.backups.ours import our_worker
from bench.backups.peers import Scripts, Tools
from bench.backups.streams import jetstream
from bench.backups.table import MEGABYTE, rows_table, verdicts_table
from bench.backups.turns import (
    PARTS,
    Physical,
    Run,
    archive,
    judge_physical,
    judge_streams,
    peak_memory,
    prepared,
    s3_arguments,
    say,
    streams_turn,
)
from lab import Lab
from lab.state import S3Place

REGION = "bench"
LARGE = 4_000_000_000  # bytes from which on three repetitions are enough


async def turns(run: Run, folder: Path) -> None:
    """Everything that takes turns, and the WAL afterwards, on the same server."""
    postgres = [part for part in ("physical", "scripts", "s3", "wal") if run.wants(part)]
    async with contextlib.AsyncExitStack() as stack:
        bucket: S3Place | None = None
        if run.wants("s3") or run.wants("scripts"):
            lab = await stack.enter_async_context(await Lab.start(regions=(REGION,), services={"s3"}))
            bucket = lab.s3(REGION)
        source = await stack.enter_async_context(running(folder))
        say(f"PostgreSQL {source.major} of {source.binaries}")
        if postgres:
            size = await source.load(run.arguments.size)
            run.words.append(f"PostgreSQL {source.major}; the databases have {size / MEGABYTE:.0f} MB.")
        nats = await stack.enter_async_context(jetstream(source.own_folder("nats"))) if run.wants("streams") else None
        if nats is not None:
            await nats.fill(run.arguments.messages)
        settings = {
            "login": [HOST, source.place.port], "major": source.major, "binaries": str(source.binaries),
            "user": source.user, "folder": str(folder / "location"),
            "bucket": s3_arguments(bucket) if bucket else None,
            "nats": [nats.server.host, nats.server.port] if nats else None,
        }  # fmt: skip
        ours = await stack.enter_async_context(our_worker(settings))
        scripts = Scripts(source, source.own_folder("scripts"))
        physical = Physical(run, source, ours, scripts, await prepared(run, source), bucket)
        for number in range(1, run.arguments.repetitions + 1):
            run.turn = number
            await physical.turn()
            if nats is not None:
                await streams_turn(run, nats, ours)
        if run.wants("wal"):
            await archive(run, source)


def _public_folder() -> Path:
    """As root, the server's user has to pass through it."""
    folder = Path(tempfile.mkdtemp(prefix="recovery-bench-"))
    folder.chmod(0o755)
    return folder


async def main(arguments: argparse.Namespace) -> int:
    run = Run(arguments, Tools.here(arguments.barman, arguments.nats))
    run.left_out += run.tools.missing
    run.left_out += [f"{part} was not asked for (--only)" for part in PARTS if not run.wants(part)]
    say(f"{platform.platform()}, Python {platform.python_version()}, {arguments.repetitions} repetitions")
    folder = _public_folder()
    began = time.monotonic()
    try:
        await turns(run, folder)
        if run.wants("memory"):
            await peak_memory(run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    verdicts = [*judge_physical(run.rows), *judge_streams(run.rows), *run.verdicts]
    say("\n" + rows_table(list(run.rows)) + "\n\n" + "\n".join(run.words) + "\n\n" + verdicts_table(verdicts))
    for sentence in run.left_out:
        say(f"left out: {sentence}")
    say(f"took {time.monotonic() - began:.0f} s")
    if any(not verdict.reached for verdict in verdicts):
        return 1
    return 2 if run.left_out else 0


def size(text: str) -> int:
    """Bytes of ``1GB``, ``100MB``."""
    found = re.fullmatch(r"(\d+)\s*(MB|GB)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: say 100MB, 1GB or 4GB")
    return int(found[1]) * {"MB": MEGABYTE, "GB": 1000 * MEGABYTE}[found[2]]


def parts(text: str) -> list[str]:
    chosen = [word.strip() for word in text.split(",")]
    if unknown := [word for word in chosen if word not in PARTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no part: there are {', '.join(PARTS)}")
    return chosen


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size, default=size("1GB"), help="of the database (default 1GB)")
    parser.add_argument("--repetitions", type=int, help="default 5, and 3 from 4GB on")
    parser.add_argument("--messages", type=int, default=100_000, help="in the stream (default 100,000)")
    parser.add_argument("--wal-seconds", type=int, default=60, help="of write load (default 60)")
    parser.add_argument("--only", type=parts, default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--barman", help="the program barman-cloud-backup")
    parser.add_argument("--nats", help="the program nats")
    arguments = parser.parse_args()
    arguments.repetitions = arguments.repetitions or (3 if arguments.size >= LARGE else 5)
    return arguments


if __name__ == "__main__":
    sys.exit(asyncio.run(main(parsed())))
