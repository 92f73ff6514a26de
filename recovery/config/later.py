"""Keys that have their place already and that this version does not act on. Whoever sets one is told.

A key leaves this list together with the change that makes it count; a test compares the list with the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from recovery.config.base import Section

if TYPE_CHECKING:
    from recovery.config.config import Config

# As `drctl config schema --output text` writes them; an entry stands for everything below it. What groups inherit is
# named without `groups.<name>.` and `defaults.`.
LATER = (
    "replication.archive_command",
    "replication.archive_mode",
    "replication.hot_standby",
    "replication.max_wal_senders",
    "replication.wal_level",
    "testing",
    "groups.<name>.kubernetes",
    "groups.<name>.regions.<name>.kubernetes_context",
    "targets.availability",
    "targets.mttr",
)


def is_later(path: str) -> bool:
    """Whether the key (as in :data:`LATER`) is one of them or lies below one."""
    for prefix in ("groups.<name>.", "defaults."):
        short = path.removeprefix(prefix)
        if short != path and _below(short):
            return True
    return _below(path)


def _below(path: str) -> bool:
    return any(path == entry or path.startswith((f"{entry}.", f"{entry}[")) for entry in LATER)


def set_for_later(config: Config) -> list[str]:
    """Keys that somebody wrote down and that are not acted on yet, without what lies below them, each once."""
    found: dict[str, None] = {}
    for path in _written(config, ""):
        entry = path.replace("groups.<name>.", "", 1) if is_inherited(path) else path
        if is_later(path) and not any(entry.startswith((f"{above}.", f"{above}[")) for above in found):
            found[entry] = None
    return list(found)


def is_inherited(path: str) -> bool:
    return path.startswith("groups.<name>.") and _below(path.removeprefix("groups.<name>."))


def _written(value: Any, path: str) -> Iterator[str]:
    """Paths of the keys that were set, in their order; names and positions unified. Defaults are merged in groups."""
    if isinstance(value, Section):
        for name in type(value).model_fields:
            if name in value.model_fields_set and (path, name) != ("", "defaults"):
                below = f"{path}.{name}".removeprefix(".")
                yield below
                yield from _written(getattr(value, name), below)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _written(entry, f"{path}.<name>")
    elif isinstance(value, list):
        for entry in value:
            yield from _written(entry, f"{path}[]")
