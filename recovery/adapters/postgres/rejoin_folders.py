"""Folders beside a data directory in which an old primary is made a standby, and the record of how far that came.

Everything but ``claimed`` blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from recovery.adapters.postgres import standby_files as files
from recovery.adapters.postgres.folder import give_to, no_space
from recovery.adapters.postgres.host import INCOMPLETE
from recovery.backup.bounded import opened
from recovery.errors import Contended, Refused

DONE_MARK = "recovery-plans.rejoined.json"

Method = Literal["follow", "rewind", "clone"]
Phase = Literal["rewinding", "rewound", "cloning", "cloned"]

_CONFIGURATION = ("postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf")
_CERTIFICATES = (".crt", ".key", ".pem", ".crl")


@dataclass(frozen=True)
class Work:
    """An unfinished rejoin."""

    effect_id: str
    phase: Phase
    why_not_rewind: str = ""


@dataclass(frozen=True)
class Done:
    """The last rejoin that ended well."""

    effect_id: str
    method: Method
    inode: int = 0


def beside(folder: Path, what: str) -> Path:
    return folder.with_name(f"{folder.name}.recovery-plans-{what}")


def _work_file(folder: Path) -> Path:
    return beside(folder, "rejoin.json")


@contextlib.asynccontextmanager
async def claimed(folder: Path) -> AsyncIterator[None]:
    """One process at a time; the lock ends with it."""
    descriptor = await opened(lambda: _lock(folder), os.close)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    with no_space(folder):
        descriptor = os.open(beside(folder, "rejoin.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Contended(f"another attempt is still at work on {folder}") from None
    return descriptor


def read_work(folder: Path) -> Work | None:
    try:
        return Work(**json.loads(_work_file(folder).read_text()))
    except FileNotFoundError:
        aside = files.work_folder(folder)
        return Work("", "rewinding") if aside.exists() and not folder.exists() else None


def write_work(folder: Path, work: Work) -> None:
    path = _work_file(folder)
    fresh = path.with_name(f"{path.name}.new")
    with no_space(folder), fresh.open("w") as file:
        json.dump(asdict(work), file)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    files.sync_folder(folder.parent)


def read_done(folder: Path) -> Done | None:
    """None where there was none, and in a copy of the directory."""
    path = folder / DONE_MARK
    try:
        done = Done(**json.loads(path.read_text()))
        return done if done.inode == path.stat().st_ino else None
    except (OSError, ValueError, TypeError):
        return None


def write_done(folder: Path, effect_id: str, method: Method) -> None:
    files.write_owned(folder, DONE_MARK, lambda inode: json.dumps(asdict(Done(effect_id, method, inode))))


def not_begun(folder: Path) -> bool:
    """Whether the directory was not put aside yet when its rewind was interrupted: then nothing happened to it."""
    if not (folder / "PG_VERSION").exists():
        return False
    (folder / INCOMPLETE).unlink(missing_ok=True)
    return True


def begin_rewind(folder: Path, aside: Path, effect_id: str) -> None:
    """The mark inside is for whoever moves the folder back by hand; pg_rewind removes it with what the source lacks."""
    keep_configuration(folder, folder)
    write_work(folder, Work(effect_id, "rewinding"))
    files.write_owned(folder, INCOMPLETE, "")
    (folder / files.SIGNAL).unlink(missing_ok=True)  # pg_rewind recovers a crashed directory in single-user mode
    (folder / "recovery.signal").unlink(missing_ok=True)
    rename(folder, aside)


def keep_configuration(folder: Path, source: Path | None) -> None:
    """Copies the configuration of ``source`` aside, unless an earlier attempt did: by now it may be overwritten."""
    kept = beside(folder, "config")
    if source is None or kept.exists():
        return
    fresh = beside(folder, "config-new")
    remove_tree(fresh)
    fresh.mkdir(mode=0o700)
    for path in source.iterdir():
        if path.is_file() and (path.name in _CONFIGURATION or path.suffix in _CERTIFICATES):
            shutil.copy2(path, fresh / path.name)
            state = path.stat()
            if os.geteuid() == 0:
                os.chown(fresh / path.name, state.st_uid, state.st_gid)
    fresh.rename(kept)


def complete(folder: Path, made: Path, settings: dict[str, str], effect_id: str, method: Method) -> None:
    """Gives a rewound or cloned directory its own configuration, and makes it a standby's."""
    kept = beside(folder, "config")
    if kept.exists():
        for path in kept.iterdir():
            state = path.stat()
            shutil.copy2(path, made / path.name)
            if os.geteuid() == 0:
                os.chown(made / path.name, state.st_uid, state.st_gid)
    for name in (INCOMPLETE, files.PRIMARY_MARK, "recovery-plans.json"):
        (made / name).unlink(missing_ok=True)
    files.write_auto_conf(made, settings)
    files.write_signal(made)
    write_done(made, effect_id, method)


def make_folder(path: Path, user: str | None) -> None:
    """pg_basebackup takes an empty folder, and may not be allowed to make one."""
    with no_space(path):
        path.mkdir(mode=0o700)
        give_to(path, user)


def whatever_is_there(folder: Path) -> Path | None:
    """The old directory, wherever an interrupted attempt left it."""
    for path in (folder, files.work_folder(folder), beside(folder, "old")):
        if (path / "PG_VERSION").exists():
            return path
    return None


def swap(folder: Path, new: Path, old: Path) -> None:
    """Between two renames there is no data directory at all; a repeated call goes on from there."""
    aside = files.work_folder(folder)
    if folder.exists():
        remove_tree(old)
        rename(folder, old)
    elif aside.exists():
        remove_tree(old)
        rename(aside, old)
    rename(new, folder)


def rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        raise Refused(f"{source} cannot be renamed to {target}: {error.strerror}") from error
    files.sync_folder(target.parent)


def tidy(folder: Path, *, keep: bool, streams: bool) -> Path | None:
    """Ends a rejoin. Where the new data do not stream yet, the old ones wait for ``forget_old``; where they are to be
    kept, they get a name that nothing of ours touches. Returns where the old ones are."""
    _work_file(folder).unlink(missing_ok=True)
    remove_tree(beside(folder, "config"))
    remove_tree(files.work_folder(folder))
    old = beside(folder, "old")
    if keep and old.exists():
        kept = beside(folder, f"kept-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
        rename(old, kept)
        return kept
    if streams:
        remove_tree(old)
    return old if old.exists() else None


def forget_old(folder: Path) -> None:
    """Removes replaced data once their successor streams; does nothing while a rejoin is unfinished."""
    if read_work(folder) is None:
        remove_tree(beside(folder, "old"))


def remove_tree(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
