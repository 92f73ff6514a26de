"""The configuration as plain data again: for people, and for the hash."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

from recovery.config.base import Section
from recovery.config.names import Own
from recovery.domain.secret import SecretRef

_LEFT_OUT = object()


def plain(value: Any, *, references: bool) -> Any:
    """JSON data that loads again to an equal value.

    Without ``references`` it is what all processes have to agree on: neither references to secrets are in it, nor what
    each process may say in its own way (``Own``).

    A key that is empty by default and empty here is left out.
    """
    shown = _plain(value, references)
    return None if shown is _LEFT_OUT else shown


def _plain(value: Any, references: bool) -> Any:
    if isinstance(value, SecretRef):
        return str(value) if references else _LEFT_OUT
    if isinstance(value, Section):
        return _section(value, references)
    if isinstance(value, dict):
        entries = {str(key): _plain(entry, references) for key, entry in value.items()}
        return {key: entry for key, entry in entries.items() if entry is not _LEFT_OUT}
    if isinstance(value, (list, tuple)):
        return [shown for entry in value if (shown := _plain(entry, references)) is not _LEFT_OUT]
    return value


def _section(value: Section, references: bool) -> dict[str, Any]:
    dumped = value.model_dump(mode="json")  # durations and sizes as people write them
    found: dict[str, Any] = {}
    for key, field in type(value).model_fields.items():
        entry = getattr(value, key)
        if (entry is None and field.default is None) or (not references and key in _own_keys(type(value))):
            continue
        shown = _plain(entry, references) if _is_nested(entry) else dumped[key]
        if shown is not _LEFT_OUT:
            found[key] = shown
    return found


@cache
def _own_keys(section: type[Section]) -> frozenset[str]:
    fields = section.model_fields.items()
    return frozenset(key for key, field in fields if Own in field.metadata or _says_own(field.annotation))


def _says_own(annotation: Any) -> bool:
    """Whether the mark stands anywhere in a type such as ``list[WebAddress] | None``."""
    return Own in getattr(annotation, "__metadata__", ()) or any(_says_own(part) for part in get_args(annotation))


def _is_nested(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_nested(entry) for entry in value.values())
    if isinstance(value, (list, tuple)):
        return any(_is_nested(entry) for entry in value)
    return isinstance(value, (Section, SecretRef))
