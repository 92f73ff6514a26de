"""The distribution's newest PostgreSQL, as operators have it; the packaged one is the lab's."""

from __future__ import annotations

from lab.packages import system_user
from recovery.adapters.postgres import LocalPostgres, PostgresBinaries
from recovery.adapters.postgres.binaries import DEBIAN_FOLDERS
from tests.integration.postgres_servers import SCHEMA

WITHOUT_VECTOR = SCHEMA.replace("CREATE EXTENSION vector;", "")


def newest() -> tuple[int, LocalPostgres]:
    """Its major version, and its programs, run by the lab's user."""
    installed = [path.parent.parent for path in DEBIAN_FOLDERS.glob("*/bin/postgres")]
    assert installed, "make test-system needs the Debian package postgresql"
    found = max(installed, key=lambda path: int(path.name))
    return int(found.name), LocalPostgres(PostgresBinaries({int(found.name): found / "bin"}), run_as=system_user())
