"""Marks of what a restore makes in a running store, until it is completed: ``<id of the restore>/<attempt>``.

Two attempts of one restore can be at work at a time: one that was taken for dead, and is not, goes on beside its
successor, and must undo its own work only.
"""

from __future__ import annotations

from uuid import uuid4


def new_attempt() -> str:
    return uuid4().hex[:12]


def attempt_mark(restore_id: str, attempt: str) -> str:
    return f"{restore_id}/{attempt}"


def restore_of(mark: str | None) -> str | None:
    """The id of the restore whose attempt's mark it is; an id is its own."""
    return None if mark is None else mark.partition("/")[0]
