"""No key is documented and silently ignored: either some code reads it, or it is said that it does not count yet."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from drctl.config import key_lines
from recovery.config import Config
from recovery.config.later import LATER, is_later
from tests.unit.config.conftest import ROOT


def _keys() -> list[str]:
    return [line.split("  ")[0] for line in key_lines(Config.schema_document())]


def _code() -> str:
    names = ("config.py", "snapshot.py", "installation.py", "locations.py", "warnings.py", "endpoints.py")
    files = [ROOT / "recovery" / "config" / name for name in names]
    files.append(ROOT / "recovery" / "telemetry" / "alert_rules.py")
    for folder in ("workers", "drctl"):
        files += [file for file in (ROOT / folder).rglob("*.py") if not file.name.startswith("config")]
    return "\n".join(file.read_text() for file in files)


def _leaf(path: str) -> str:
    return path.rpartition(".")[2].removesuffix("[]")


def _has_keys_below(path: str, keys: list[str]) -> bool:
    return any(other.startswith((f"{path}.", f"{path}[")) for other in keys)


def test_every_key_is_read_by_some_code_or_marked() -> None:
    keys, code = _keys(), _code()
    unread = [
        path
        for path in keys
        if not is_later(path)
        and not _has_keys_below(path, keys)
        and not re.search(rf"\.{re.escape(_leaf(path))}\b", code)
    ]
    # The short form becomes `policy`; descriptions are for people alone.
    assert [path for path in unread if _leaf(path) not in ("automatic", "description", "enabled")] == []


def test_every_mark_names_a_key() -> None:
    keys = _keys()
    for entry in LATER:
        assert {entry, f"defaults.{entry}", f"groups.<name>.{entry}"} & set(keys), entry


def test_whoever_sets_such_a_key_is_told(minimal: str, spoiled: Callable[..., str]) -> None:
    assert Config.parse(minimal).set_for_later() == []
    text = spoiled(
        ("groups:\n", "defaults:\n  replication: {hot_standby: true}\ngroups:\n"),
        ("backup:\n", "testing: {enabled: true}\n    backup:\n      chunk_size: 16MiB\n"),
    )
    assert Config.parse(text).set_for_later() == ["replication.hot_standby", "testing"]


def test_the_documentation_marks_them() -> None:
    rows = [
        line
        for line in (Path(ROOT) / "docs" / "configuration.md").read_text().splitlines()
        if "| `availability` |" in line
    ]
    assert len(rows) == 1
    assert "Not acted on by this version yet" in rows[0]
