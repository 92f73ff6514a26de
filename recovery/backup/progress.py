"""Progress with words."""

from __future__ import annotations

from collections.abc import Callable

from recovery.ports.recovery_points import Progress


def noting(progress: Progress, what: str) -> Callable[[int, int], None]:
    """The same progress with a word on what is being done."""
    return lambda done, expected: progress(done, expected, what)
