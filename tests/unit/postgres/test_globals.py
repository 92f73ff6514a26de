"""What pg_dumpall writes is cut into statements, and existing roles are left alone."""

from __future__ import annotations

from typing import Any, cast

import asyncpg
import pytest

from recovery.adapters.postgres.globals import apply_globals, statements
from recovery.errors import RestoreFailed

DUMP = r"""--
-- PostgreSQL database cluster dump
--

\restrict 2wbKnv2J

SET default_transaction_read_only = off;

CREATE ROLE "odd; ""name";
ALTER ROLE "odd; ""name" WITH NOSUPERUSER LOGIN PASSWORD 'a;b''c--d' VALID UNTIL '2027-01-01';
COMMENT ON ROLE "odd; ""name" IS 'first; line
-- second \line';
CREATE ROLE clerk;
ALTER ROLE clerk WITH LOGIN;
ALTER ROLE clerk SET search_path TO 'public', 'x';
CREATE ROLE existing;
ALTER ROLE existing WITH SUPERUSER PASSWORD 'other';
ALTER ROLE existing SET work_mem TO '1MB';
GRANT clerk TO existing GRANTED BY postgres;
GRANT existing TO postgres GRANTED BY postgres;
CREATE TABLESPACE fast OWNER postgres LOCATION '/srv/fast';
GRANT ALL ON TABLESPACE fast TO clerk;

\unrestrict 2wbKnv2J
"""


class Recording:
    """Records statements; ``errors`` are raised for those that begin so."""

    def __init__(self, errors: dict[str, asyncpg.PostgresError] | None = None) -> None:
        self.executed: list[str] = []
        self._errors = errors or {}

    async def fetch(self, query: str) -> list[dict[str, str]]:
        return [{"name": "postgres"}, {"name": "existing"}]

    async def execute(self, statement: str) -> None:
        for start, error in self._errors.items():
            if statement.startswith(start):
                raise error
        self.executed.append(statement)


def test_statements_are_cut_at_their_own_ends() -> None:
    found = list(statements(DUMP))
    assert len(found) == 14
    assert found[0] == "SET default_transaction_read_only = off"
    assert found[1] == 'CREATE ROLE "odd; ""name"'
    assert "'a;b''c--d'" in found[2]
    assert found[3].endswith("-- second \\line'")
    assert not [statement for statement in found if "restrict" in statement]


async def test_existing_roles_and_tablespaces_are_not_touched() -> None:
    connection = Recording()
    applied = await apply_globals(cast(Any, connection), DUMP)
    assert applied.created == ['odd; "name', "clerk"]
    assert applied.skipped_roles == ["existing"]
    assert applied.skipped_tablespaces == ["fast"]
    assert not [statement for statement in connection.executed if "ROLE existing" in statement]
    assert "GRANT clerk TO existing GRANTED BY postgres" in connection.executed, "a new role is given"
    assert not [statement for statement in connection.executed if statement.startswith("GRANT existing TO postgres")]
    assert not [statement for statement in connection.executed if "TABLESPACE" in statement]


async def test_a_role_that_appears_meanwhile_is_no_failure() -> None:
    connection = Recording({"CREATE ROLE clerk": asyncpg.DuplicateObjectError("role exists")})
    applied = await apply_globals(cast(Any, connection), DUMP)
    assert "clerk" in applied.skipped_roles


async def test_a_refused_statement_is_reported_without_its_password() -> None:
    connection = Recording({'ALTER ROLE "odd': asyncpg.InsufficientPrivilegeError("must be superuser")})
    with pytest.raises(RestoreFailed, match='ALTER ROLE odd; "name: must be superuser') as failure:
        await apply_globals(cast(Any, connection), DUMP)
    assert "a;b" not in str(failure.value)
