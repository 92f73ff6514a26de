"""Clients are refused by a running server whose place another one has taken: by rules at the top of its pg_hba.conf.

Nothing else refuses new sessions of a running server and takes effect without a restart: on a standby no database and
no role can be altered. Refused are all roles that may log in, except superusers, roles that replicate, and the one that
asks: people, standbys, backups and we go on. libpq ends its search through several hosts at a login that is refused, so
a standby lets clients in again as soon as the old ones are gone. A server that still accepts writes goes on refusing,
until it is made a standby (rejoined), or primary again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import time
from pathlib import Path

import asyncpg

from recovery.adapters.postgres.connection import Connection, quoted
from recovery.adapters.postgres.standby_files import write_owned
from recovery.errors import Refused

MARK = "recovery-plans.refusal.json"
"""In the data directory: which file our rules stand in."""
BEGIN, END = "# recovery-plans: clients are refused from here", "# recovery-plans: to here"
RELOAD_SECONDS = 2.0

_PLACES = "SELECT current_setting('hba_file') AS rules, current_setting('data_directory') AS folder"
_ROLES = """
SELECT rolname::text AS name FROM pg_roles
 WHERE rolcanlogin AND NOT rolsuper AND NOT rolreplication AND rolname <> current_user ORDER BY rolname
"""


async def refuse_clients(connection: Connection) -> str:
    """Returns why they are not refused; empty when they are. Safe to repeat."""
    try:
        found = await connection.fetchrow(_PLACES)
        names = [row["name"] for row in await connection.fetch(_ROLES)]
        assert found is not None
        content = await connection.fetchval("SELECT pg_read_file($1)", found["rules"])
    except asyncpg.PostgresError as error:
        return f"its pg_hba.conf cannot be read: {error}"
    if not names:
        return "all of its roles are superusers, replicate, or are our own"
    rules, folder = Path(found["rules"]), Path(found["folder"])
    why = await asyncio.to_thread(_put_up, rules, folder, str(content), names)
    if not why:
        await _reload(connection)
    return why


async def let_clients_in(connection: Connection) -> bool:
    """Takes our rules away, where there are any. True when there were. Who may not see the place put up none."""
    try:
        folder = await data_directory(connection)
    except asyncpg.InsufficientPrivilegeError:
        return False
    if not await asyncio.to_thread(take_down, folder):
        return False
    await _reload(connection)
    return True


async def data_directory(connection: Connection) -> Path:
    """Of the server, by its own word."""
    return Path(await connection.fetchval("SELECT current_setting('data_directory')"))


def take_down(folder: Path) -> bool:
    """The same for the next start of a server that is stopped. Blocks. True when there were rules of ours."""
    mark = folder / MARK
    try:
        rules = Path(json.loads(mark.read_text()))
    except FileNotFoundError:
        return False
    with contextlib.suppress(FileNotFoundError):  # a clone brought other files
        _replace(rules, _without(rules.read_text()))
    mark.unlink(missing_ok=True)
    return True


def _put_up(rules: Path, folder: Path, content: str, names: list[str]) -> str:
    try:
        if rules.read_text() != content:
            return f"{rules} here is not the one that the server reads: it runs on another machine"
        write_owned(folder, MARK, json.dumps(str(rules)))  # before the rules: they are never there without it
        _replace(rules, "\n".join([*_rules(names), _without(content)]))
    except (OSError, ValueError) as error:
        return f"{rules} cannot be changed here: {error}"
    except Refused as error:
        return str(error)
    return ""


def _rules(names: list[str]) -> list[str]:
    listed = ",".join(quoted(name) for name in names)
    why = "# Another server has this one's place. A promotion or a reprotect takes these rules away."
    return [BEGIN, why, f"local all {listed} reject", f"host all {listed} all reject", END]


def _without(content: str) -> str:
    before, begin, rest = content.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    return before + after if begin and end else content


def _replace(path: Path, text: str) -> None:
    """As a whole, with the owner and the mode that it has."""
    state = path.stat()
    fresh = path.with_name(f"{path.name}.recovery-plans-new")
    mode = stat.S_IMODE(state.st_mode)
    descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w") as file:
        if os.geteuid() == 0:
            os.fchown(file.fileno(), state.st_uid, state.st_gid)
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)


async def _reload(connection: Connection) -> None:
    """Until the server has read its files again: our own session does so after the postmaster."""
    before = await connection.fetchval("SELECT pg_conf_load_time()")
    await connection.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + RELOAD_SECONDS
    while await connection.fetchval("SELECT pg_conf_load_time()") == before and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
