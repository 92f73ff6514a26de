"""What a data directory says about its next start: standby.signal, where it streams from, whether it was a primary.

Everything here blocks: call it in a thread. As root, files are given to the directory's owner.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from recovery.adapters.postgres.host import INCOMPLETE
from recovery.errors import Refused
from recovery.ports.standby import Streaming

SIGNAL = "standby.signal"
AUTO_CONF = "postgresql.auto.conf"
PRIMARY_MARK = "recovery-plans.primary.json"
TIMELINES = "recovery-plans.timelines.json"
LAST_SOURCE = "recovery-plans.source.json"

_SETTING = re.compile(r"^\s*([A-Za-z_.]+)\s*=?\s*'((?:[^'\\]|''|\\.)*)'")


@dataclass(frozen=True)
class PrimaryMark:
    """This directory was the primary of ``epoch``, and was not shown to be an ancestor of a later one since.

    ``inode`` is the mark's own: in a copy of the directory it is another, and the mark says nothing there.
    """

    epoch: int
    before: str | None = None  # the last position that came from the primary before
    inode: int = 0


def owner_of(folder: Path) -> tuple[int, int]:
    """uid and gid of the data directory.

    Raises:
        Refused: we are neither root nor that user, so that we could neither see nor end its processes.
    """
    try:
        state = folder.stat()
    except FileNotFoundError:
        raise Refused(f"{folder} does not exist: name the data directory in the configuration") from None
    if os.geteuid() not in (0, state.st_uid):
        raise Refused(
            f"{folder} belongs to user {state.st_uid} and we are user {os.geteuid()}: run as that user or as root"
        )
    return state.st_uid, state.st_gid


def write_signal(folder: Path) -> None:
    """The next start of this directory is a standby's. Does nothing where it is one already; flushed otherwise."""
    if not (folder / "PG_VERSION").exists():
        raise Refused(f"{folder} is not a PostgreSQL data directory: it has no PG_VERSION")
    if not (folder / SIGNAL).exists():
        write_owned(folder, SIGNAL, "")


def write_owned(folder: Path, name: str, text: str | Callable[[int], str]) -> None:
    """Replaces one file of the directory as a whole, mode 0600, its owner's, flushed to the disk.

    ``text`` may depend on the inode that the file will have.
    """
    user, group = owner_of(folder)
    fresh = folder / f"{name}.recovery-plans-new"
    descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        if os.geteuid() == 0:
            os.fchown(file.fileno(), user, group)
        file.write(text if isinstance(text, str) else text(os.fstat(file.fileno()).st_ino))
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(folder / name)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def why_incomplete(folder: Path) -> str | None:
    """A sentence when a restore, rewind or clone of this directory was interrupted; None: it is whole."""
    if (folder / INCOMPLETE).exists():
        return f"{folder} holds an interrupted restore or rewind and must not be started: repeat the plan that made it"
    aside = work_folder(folder)
    if aside.exists() and not folder.exists():
        return f"{folder} was put aside for a rewind or a clone that did not end ({aside}): repeat the reprotect"
    return None


def work_folder(folder: Path) -> Path:
    """Where a rewind or clone of a directory is made: beside it, where nobody starts it."""
    return folder.with_name(f"{folder.name}.recovery-plans-rejoin")


def read_primary_mark(folder: Path) -> PrimaryMark | None:
    """None where there is none, and in a copy."""
    path = folder / PRIMARY_MARK
    try:
        mark = PrimaryMark(**json.loads(path.read_text()))
        return mark if mark.inode == path.stat().st_ino else None
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise Refused(f"{path} cannot be read ({error}): remove it when this server was never a primary") from None


def write_primary_mark(folder: Path, epoch: int, before: str | None) -> None:
    """Flushed before anything can be written under it."""
    write_owned(folder, PRIMARY_MARK, lambda inode: json.dumps(asdict(PrimaryMark(epoch, before, inode))))


def clear_primary_mark(folder: Path) -> None:
    (folder / PRIMARY_MARK).unlink(missing_ok=True)


def read_timeline_marks(folder: Path) -> dict[int, str]:
    """Marks of timelines whose first WAL may be gone by now. A file that cannot be read is none."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder / TIMELINES).read_text())
        return {int(number): str(mark) for number, mark in found.items()}
    return {}


def write_timeline_marks(folder: Path, marks: Mapping[int, str]) -> None:
    write_owned(folder, TIMELINES, json.dumps({str(number): mark for number, mark in sorted(marks.items())}))


# Where it streams from.


def write_last_source(folder: Path, conninfo: str, slot: str) -> None:
    """Keeps what is taken from the configuration, so that a later ``follow`` knows who replicates. As private as it."""
    write_owned(folder, LAST_SOURCE, json.dumps([conninfo, slot]))


def forget_last_source(folder: Path) -> None:
    """It follows somebody again."""
    (folder / LAST_SOURCE).unlink(missing_ok=True)


def read_last_source(folder: Path) -> tuple[str, str]:
    """``primary_conninfo`` and slot, empty where nothing is kept."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        conninfo, slot = json.loads((folder / LAST_SOURCE).read_text())
        return str(conninfo), str(slot)
    return "", ""


def conninfo_of(streaming: Streaming, passfile: Path | None) -> str:
    """``primary_conninfo`` without a password."""
    entries: dict[str, str] = {
        "keepalives_idle": "2",
        "keepalives_interval": "1",
        "keepalives_count": "3",
        **streaming.options,
        "host": streaming.host,
        "port": str(streaming.port),
        "user": streaming.user,
        "sslmode": streaming.sslmode,
    }
    if passfile is not None:
        entries["passfile"] = str(passfile)
    if streaming.sslrootcert:
        entries["sslrootcert"] = streaming.sslrootcert
    if streaming.application_name:
        entries["application_name"] = streaming.application_name
    return make_conninfo("", **entries)


def conninfo_entries(conninfo: str) -> dict[str, str]:
    """Its parts, by name."""
    return {key: str(value) for key, value in conninfo_to_dict(conninfo).items()} if conninfo else {}


def redirected(conninfo: str, host: str, port: int) -> str:
    """The same connection to another server."""
    entries = {key: value for key, value in conninfo_entries(conninfo).items() if key != "hostaddr"}
    return make_conninfo("", **{**entries, "host": host, "port": str(port)})


def same_server(conninfo: str, host: str, port: int) -> bool:
    """Whether a ``primary_conninfo`` leads there."""
    entries = conninfo_entries(conninfo)
    return entries.get("host") == host and entries.get("port", "5432") == str(port)


def write_passfile(folder: Path, streaming: Streaming, user: str | None) -> Path | None:
    """The file that holds the password for the server's user: the one that is named, or one beside the directory."""
    if streaming.passfile is not None or not streaming.password:
        return streaming.passfile
    path = passfile_of(folder)
    escaped = streaming.password.replace("\\", "\\\\").replace(":", "\\:")
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        give_descriptor(file.fileno(), user)
        file.write(f"*:*:*:{streaming.user}:{escaped}\n")
    fresh.rename(path)
    return path


def give_descriptor(descriptor: int, user: str | None) -> None:
    """Makes ``user`` the owner of an open file, where we may; None: it stays ours."""
    if user is not None and os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        os.fchown(descriptor, entry.pw_uid, entry.pw_gid)


def passfile_of(folder: Path) -> Path:
    """Where our own passfile of a data directory is."""
    return folder.with_name(f"{folder.name}.passfile")


def read_auto_conf(folder: Path) -> dict[str, str]:
    """String settings of ``postgresql.auto.conf``; the last one of a name counts."""
    found: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / AUTO_CONF).read_text().splitlines():
            match = _SETTING.match(line)
            if match is not None:
                found[match[1]] = match[2].replace("''", "'").replace("\\\\", "\\")
    return found


def write_auto_conf(folder: Path, settings: Mapping[str, str]) -> None:
    """Sets these in ``postgresql.auto.conf`` of a stopped server; other lines stay."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        lines = (folder / AUTO_CONF).read_text().splitlines()
    kept = [line for line in lines if re.split(r"[\s=]", line.strip(), maxsplit=1)[0] not in settings]
    for name, value in settings.items():
        escaped = value.replace("\\", "\\\\").replace("'", "''")
        kept.append(f"{name} = '{escaped}'")
    write_owned(folder, AUTO_CONF, "\n".join(kept) + "\n")
