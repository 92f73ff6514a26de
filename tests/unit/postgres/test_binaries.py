"""Which extensions an installation has."""

from __future__ import annotations

from pathlib import Path

from recovery.adapters.postgres.binaries import PostgresBinaries


def _program(path: Path, says: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


async def test_extensions_are_those_whose_control_files_are_there(tmp_path: Path) -> None:
    programs, kept = tmp_path / "bin", tmp_path / "share with a space" / "extension"
    programs.mkdir()
    kept.mkdir(parents=True)
    _program(programs / "postgres", "postgres (PostgreSQL) 16.14")
    binaries = PostgresBinaries({16: programs})
    assert await binaries.extensions(16) is None, "nothing says where they are"
    _program(programs / "pg_config", str(kept.parent))
    for name in ("plpgsql.control", "sky_map.control", "sky_map--1.0.sql"):
        (kept / name).touch()
    assert await binaries.extensions(16) == {"plpgsql", "sky_map"}
    _program(programs / "pg_config", str(tmp_path / "moved away"))
    assert await binaries.extensions(16) is None
