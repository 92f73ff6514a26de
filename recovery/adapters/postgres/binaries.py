"""Which PostgreSQL programs this machine has."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from recovery.adapters.process import clean_environment, run
from recovery.errors import NotFound

DEBIAN_FOLDERS = Path("/usr/lib/postgresql")

_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)(?:\.\d+)?\S*)")


class PostgresBinaries:
    """Folders with ``postgres``, ``pg_dump`` and so on, by major version.

    Without ``directories`` they are looked for where Debian puts them, then on the PATH.
    """

    def __init__(self, directories: Mapping[int, Path] | None = None) -> None:
        self._configured = dict(directories) if directories else None
        self._versions: dict[int, str] | None = None
        self._folders: dict[int, Path] = {}

    async def versions(self) -> dict[int, str]:
        """Major version -> full version of every installation whose client tools answer; asked once."""
        if self._versions is None:
            found: dict[int, str] = {}
            for folder in self._candidates():
                answer = await self._ask(folder)
                if answer is not None and answer[0] not in found:
                    found[answer[0]] = answer[1]
                    self._folders[answer[0]] = folder
            self._versions = found
        return dict(self._versions)

    async def tool(self, major: int, name: str) -> Path:
        """Raises NotFound with what is installed and how to name more."""
        versions = await self.versions()
        if major not in versions:
            known = ", ".join(str(known) for known in sorted(versions)) or "none"
            raise NotFound(
                f"PostgreSQL {major} is needed on this machine, and what is installed here is {known}. Install its "
                f"server and client packages, or name the folder of its programs in the configuration."
            )
        path = self._folders[major] / name
        if not path.exists():
            raise NotFound(f"PostgreSQL {major} in {path.parent} has no {name}: install the package that carries it.")
        return path

    async def extensions(self, major: int) -> set[str] | None:
        """Names of the extensions that can be created here; None: the installation does not say where it keeps them.

        Raises NotFound as ``tool`` does.
        """
        folder = (await self.tool(major, "postgres")).parent
        if not (folder / "pg_config").exists():
            return None
        answer = await run([folder / "pg_config", "--sharedir"], environment=clean_environment(), timeout=20)
        kept = Path(answer.stdout.strip()) / "extension"
        if answer.code != 0 or not await asyncio.to_thread(kept.is_dir):
            return None
        return {path.name.removesuffix(".control") for path in await asyncio.to_thread(list, kept.glob("*.control"))}

    def _candidates(self) -> list[Path]:
        if self._configured is not None:
            return [folder for _, folder in sorted(self._configured.items())]
        folders = sorted(DEBIAN_FOLDERS.glob("*/bin")) if DEBIAN_FOLDERS.is_dir() else []
        for name in ("postgres", "pg_dump"):
            on_path = shutil.which(name)
            if on_path is not None:
                folders.append(Path(on_path).resolve().parent)
        return folders

    async def _ask(self, folder: Path) -> tuple[int, str] | None:
        for name in ("postgres", "pg_dump"):
            if (folder / name).exists():
                answer = await run([folder / name, "--version"], environment=clean_environment(), timeout=20)
                match = _VERSION.search(answer.stdout)
                if match is not None:
                    return int(match[2]), match[1]
        return None
