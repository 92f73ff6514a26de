"""A server or a checker that this machine ended has said nothing about the dump that it was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.adapters.redis.connection import RedisServer
from recovery.adapters.redis.programs import DumpChecker
from recovery.adapters.redis.scratch import _loaded
from recovery.errors import Corrupt, RecoveryError, RestoreFailed, Unreachable
from tests.fakes.child import FakeChild

DETECTED = "--- RDB ERROR DETECTED ---\n[offset 21] Unexpected EOF reading RDB file\n"
ALLOCATING = "# rdbGenericLoadStringObject failed allocating {} bytes\n"
PANIC = "# Guru Meditation: Redis aborting for OUT OF MEMORY. Allocating 24 bytes! #server.c:6658\n"
ASSERTED = "# === ASSERTION FAILED ===\n# ==> rdb.c:1989 'lpValidateIntegrity' is not true\n"

ENDS = [  # of Redis 6.2 and 7.0 with too little address space, and when killed
    (-9, "", True),
    (-15, "", True),
    (-6, PANIC, True),
    (-11, PANIC, True),
    (1, ALLOCATING.format(60_000_000) + DETECTED, True),
    (1, ALLOCATING.format(1 << 40) + DETECTED, False),
    (1, DETECTED, False),
    (-6, ASSERTED, False),
]


@pytest.mark.parametrize(("code", "output", "ours"), ENDS)
async def test_a_checker_without_memory_finds_no_damage(code: int, output: str, ours: bool) -> None:
    for child in (FakeChild(code, output), FakeChild(code, DETECTED, stderr=output)):
        checker = DumpChecker(child, "redis-check-rdb")  # type: ignore[arg-type]
        await checker.feed(b"REDIS0009")
        expected: type[RecoveryError] = Unreachable if ours else Corrupt
        with pytest.raises(expected, match=r"memory" if ours else "found it damaged"):
            await checker.finish()
        await checker.end()


@pytest.mark.parametrize(("code", "output", "ours"), ENDS)
async def test_a_scratch_server_without_memory_has_refused_no_dump(
    code: int, output: str, ours: bool, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.write_text(output)
    expected: type[RecoveryError] = Unreachable if ours else RestoreFailed
    with pytest.raises(expected, match=r"memory" if ours else "did not load the dump. The end of its log"):
        await _loaded(RedisServer(str(tmp_path / "nobody"), 0), FakeChild(code), log, 5)  # type: ignore[arg-type]
