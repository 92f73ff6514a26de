"""Indexes that disagree with their tables, with the distribution's PostgreSQL: the packaged one has no amcheck."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from recovery.domain.recovery_point import CheckResult, VerdictState
from tests.integration.postgres_servers import Server, Writer, public_folder, running_source, take
from tests.system.debian_postgres import WITHOUT_VECTOR, newest

pytestmark = pytest.mark.system

BY_LENGTH = """
CREATE OR REPLACE FUNCTION public.sorted_by(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT pg_catalog.{}($1)';
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


@pytest.fixture(scope="module")
async def source(folder: Path) -> AsyncIterator[Server]:
    major, postgres = newest()
    async with running_source(folder, major=major, postgres=postgres, schema=WITHOUT_VECTOR) as server:
        yield server


async def judged(source: Server, folder: Path, point_id: str) -> tuple[VerdictState, str, CheckResult]:
    """Verdict, reason, and the check of the indexes, of a point that was taken while clients wrote."""
    async with Writer(source):
        point = await take(source.postgres.physical_source(source.login, point_id), point_id)
    state, reason, checks = await source.postgres.validate(point, folder / "scratch", ["customers"])
    return state, reason, next(check for check in checks if check.name == "indexes")


async def test_sound_indexes_are_checked_and_counted(source: Server, folder: Path) -> None:
    state, reason, check = await judged(source, folder, "sound")
    assert state is VerdictState.VALID, reason
    assert "not available" not in reason
    indexes = await source.value("SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
                                 " WHERE c.relnamespace = 'public'::regnamespace")  # fmt: skip
    assert check.passed
    assert int(check.detail.split()[-3]) > indexes, "the users' and those of the system catalogue"


async def test_an_index_that_lacks_its_rows_makes_the_point_useless_and_is_named(source: Server, folder: Path) -> None:
    """As after a change of the collation: every page is sound, and a search does not find what is there."""
    await source.execute(BY_LENGTH.format("lower") + "CREATE INDEX by_name ON public.customers (sorted_by(name))")
    await source.execute(BY_LENGTH.format("upper"))
    try:
        state, reason, check = await judged(source, folder, "wrong")
    finally:
        await source.execute("DROP INDEX by_name")
    assert state is VerdictState.RESTORE_FAILED
    assert not check.passed
    assert "shop.public.by_name" in reason
    assert "lacks matching index tuple" in reason
