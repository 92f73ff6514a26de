"""Roles of a logical recovery point: the statements of ``globals.sql``, applied without touching existing roles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import asyncpg

from recovery.adapters.postgres.connection import Connection, words_of
from recovery.adapters.postgres.identity import read_roles
from recovery.errors import RestoreFailed

LARGEST_BYTES = 64 << 20

_NAME = r'("(?:[^"]|"")+"|[^\s;"]+)'
_OF_ROLE = re.compile(rf"(?:CREATE ROLE|ALTER ROLE|COMMENT ON ROLE|SECURITY LABEL .*? ON ROLE)\s+{_NAME}", re.S)
_OF_TABLESPACE = re.compile(
    r"(?:(?:CREATE|ALTER|COMMENT ON|SECURITY LABEL .*? ON) TABLESPACE|(?:GRANT|REVOKE) .*? ON TABLESPACE)"
    rf"\s+{_NAME}",
    re.S,
)
_MEMBERSHIP = re.compile(rf"GRANT\s+{_NAME}\s+TO\s+{_NAME}")
# One piece of SQL as pg_dumpall writes it: a comment, a psql command, a quoted string or name, an end, anything else.
_PIECE = re.compile(r"--[^\n]*|^\\[^\n]*|E'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|;|.", re.S | re.M)


@dataclass
class AppliedGlobals:
    """What became of the statements."""

    created: list[str] = field(default_factory=list)
    skipped_roles: list[str] = field(default_factory=list)
    skipped_tablespaces: list[str] = field(default_factory=list)


def statements(sql: str) -> Iterator[str]:
    """The SQL statements of a ``pg_dumpall --globals-only``, without comments and psql's own commands."""
    statement: list[str] = []
    for match in _PIECE.finditer(sql):
        piece = match[0]
        if piece == ";":
            yield "".join(statement).strip()
            statement = []
        elif piece.startswith("--") or (piece.startswith("\\") and not "".join(statement).strip()):
            continue
        else:
            statement.append(piece)
    if rest := "".join(statement).strip():
        yield rest


async def apply_globals(connection: Connection, sql: str) -> AppliedGlobals:
    """Creates the roles that do not exist yet, with their settings and memberships. Others stay as they are.

    Tablespaces are not created: their folders are the source machine's.

    Raises:
        RestoreFailed: the server refused something else than what exists already. No statement is quoted: they hold
            passwords.
    """
    existing = set(await read_roles(connection))
    applied = AppliedGlobals()
    failures: list[str] = []
    for statement in statements(sql):
        if (space := _OF_TABLESPACE.match(statement)) is not None:
            _add(applied.skipped_tablespaces, _plain(space[1]))
            continue
        role = _OF_ROLE.match(statement)
        name = _plain(role[1]) if role is not None else None
        if name in existing:
            _add(applied.skipped_roles, name)
            continue
        member = _MEMBERSHIP.match(statement)
        if member is not None and {_plain(member[1]), _plain(member[2])} <= existing:
            continue
        try:
            await connection.execute(statement)
        except asyncpg.DuplicateObjectError:
            _add(applied.skipped_roles, name)
        except asyncpg.PostgresError as error:
            failures.append(f"{' '.join(statement.split()[:2])} {name or ''}: {words_of(error)}".replace("  ", " "))
        else:
            if statement.startswith("CREATE ROLE"):
                _add(applied.created, name)
    if failures:
        raise RestoreFailed(f"roles could not be restored: {'; '.join(failures[:5])}")
    return applied


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _add(names: list[str], name: str | None) -> None:
    if name is not None and name not in names:
        names.append(name)
