"""The configuration of a restored server.

The source's files name paths, addresses, memory and libraries of another machine, and a server does not start with a
file that it cannot follow. So a restored server gets a file of our own, made of: what must not be smaller than at the
source (from its control file), the source's settings that mean the same everywhere (recorded in the manifest), the
place's address, and what the operator asks for. The source's files stay beside it as ``*.source``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.folder import give_to
from recovery.adapters.process import clean_environment, run
from recovery.domain.recovery_point import PostgresSource
from recovery.errors import RestoreFailed

RECOVERY_FILE = "recovery-plans.recovery.conf"
READ_ONLY_FILE = "recovery-plans.read-only.conf"

_FROM_CONTROL = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}
_LONGEST_SOCKET_FOLDER = 90  # a socket's whole path has at most 107 bytes


async def control_data(binaries: PostgresBinaries, major: int, folder: Path, run_as: str | None) -> dict[str, str]:
    """What ``pg_controldata`` says, by its labels.

    Raises:
        RestoreFailed: the control file cannot be read.
    """
    tool = await binaries.tool(major, "pg_controldata")
    done = await run([tool, "-D", folder], run_as=run_as, environment=clean_environment())
    if done.code != 0:
        raise RestoreFailed(f"pg_controldata cannot read {folder}: {done.stderr or done.stdout}")
    pairs = (line.partition(":") for line in done.stdout.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


async def loadable_libraries(binaries: PostgresBinaries, major: int, wanted: list[str]) -> list[str]:
    """Those of the libraries to preload that this machine's installation has."""
    if not wanted:
        return []
    tool = await binaries.tool(major, "pg_config")
    folder = Path((await run([tool, "--pkglibdir"], environment=clean_environment())).stdout.strip())
    return [name for name in wanted if (folder / f"{name}.so").exists()]


def settings_for(
    source: PostgresSource, control: Mapping[str, str], libraries: list[str], tls: bool, chosen: Mapping[str, str]
) -> dict[str, str]:
    """All settings of the restored server.

    ``tls``: certificate and key came with the data. ``chosen`` (address, port, the operator's wishes) wins.
    """
    required = {name: control[label] for name, label in _FROM_CONTROL.items() if label in control}
    return {
        **source.settings,
        **required,
        "wal_level": "replica",
        "archive_mode": "off",  # a copy must never write into the archive of its source
        "ssl": "on" if tls else "off",
        "shared_preload_libraries": ",".join(libraries),
        "log_timezone": "UTC",
        "lc_messages": "C",
        "logging_collector": "off",
        **chosen,
    }


_EVERY_RECOVERY = {
    "hot_standby": "off",  # "ready" then means: recovered
    # The files are on the disk already, and PostgreSQL would write each of them again.
    "recovery_init_sync_method": "syncfs",
}
RECOVERY_SETTINGS = {
    **_EVERY_RECOVERY,
    "restore_command": "false",  # all WAL that is needed came with the backup
    "recovery_target": "immediate",  # end exactly at the stop LSN
    "recovery_target_action": "promote",  # on a timeline of its own
    "recovery_target_timeline": "current",
}


def archive_settings(command: str, timeline: int, target: Mapping[str, str]) -> dict[str, str]:
    """To go on with archived WAL along a timeline, which is named by its number: ``latest`` may change meanwhile."""
    return {
        **_EVERY_RECOVERY,
        "restore_command": command,
        "recovery_target_timeline": str(timeline),
        "recovery_target_action": "promote",
        **target,
    }


def write_configuration(
    folder: Path,
    settings: Mapping[str, str],
    *,
    read_only: bool,
    user: str | None,
    recovery: Mapping[str, str] = RECOVERY_SETTINGS,
) -> None:
    """Puts the source's files aside, writes ours, and asks for recovery at the next start: to the stop LSN, unless
    ``recovery`` says otherwise."""
    for name in ("postgresql.conf", "postgresql.auto.conf"):
        if (folder / name).exists():
            (folder / name).rename(folder / f"{name}.source")
    for name in ("standby.signal", "postmaster.pid"):
        (folder / name).unlink(missing_ok=True)
    text = "# Written by recovery-plans. The source's own file is postgresql.conf.source.\n" + _lines(settings)
    text += f"include = '{RECOVERY_FILE}'\ninclude = '{READ_ONLY_FILE}'\n"
    _write(folder / "postgresql.conf", text, user)
    _write(folder / "postgresql.auto.conf", "", user)
    write_recovery(folder, recovery, user)
    _write(folder / "recovery.signal", "", user)
    for name, default in (("pg_hba.conf", _ACCESS), ("pg_ident.conf", "")):
        if not (folder / name).exists():
            _write(folder / name, default, user)
    write_read_only(folder, read_only, user)


def write_recovery(folder: Path, recovery: Mapping[str, str], user: str | None) -> None:
    """How the next start recovers."""
    _write(folder / RECOVERY_FILE, _lines(recovery), user)


def write_read_only(folder: Path, read_only: bool, user: str | None) -> None:
    """Takes effect when the server reads its configuration again."""
    _write(folder / READ_ONLY_FILE, "default_transaction_read_only = on\n" if read_only else "", user)


def end_recovery(folder: Path, user: str | None) -> None:
    """Recovery settings must not stay: they would stop the server's next recovery at the same point."""
    _write(folder / RECOVERY_FILE, "", user)


def socket_folder(folder: Path) -> str:
    """The data directory itself, which only the server's user enters; none where its path is too long for a socket."""
    return str(folder) if len(str(folder)) <= _LONGEST_SOCKET_FOLDER and not re.search(r"[,'\"]", str(folder)) else ""


def _lines(settings: Mapping[str, str]) -> str:
    def quoted(value: str) -> str:
        return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"

    return "".join(f"{name} = {quoted(value)}\n" for name, value in settings.items())


def _write(path: Path, text: str, user: str | None) -> None:
    path.write_text(text)
    path.chmod(0o600)
    give_to(path, user)


# Where the source keeps its pg_hba.conf outside the data directory, only passwords open the copy.
_ACCESS = "local all all peer\nhost all all all scram-sha-256\nhost replication all all scram-sha-256\n"
