"""Finds the activities of an object: every method that was made one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def activities_of(*instances: object) -> list[Callable[..., Any]]:
    """The bound activity methods of each object, in the order of their names."""
    found: list[Callable[..., Any]] = []
    for instance in instances:
        for name in sorted(dir(type(instance))):
            method = getattr(instance, name)
            if callable(method) and hasattr(method, "__temporal_activity_definition"):
                found.append(method)
    return found
