"""How a story ended, as the exit code of ``drctl demo``."""

from __future__ import annotations

from enum import IntEnum

from lab.two_writers import Verdict


class Outcome(IntEnum):
    """What went wrong, worst last."""

    WELL = 0
    NOT_AS_TOLD = 1  # a scene did not end as it should
    TWO_WRITERS = 4  # two regions accepted writes at once, or one that did not own the group: nothing excuses that


def outcome(*, well: bool, verdict: Verdict | None = None) -> Outcome:
    """``well``: every scene ended as it should; ``verdict``: of who wrote, where that was watched."""
    if verdict is not None and (verdict.two_writers or verdict.unowned):
        return Outcome.TWO_WRITERS
    return Outcome.WELL if well else Outcome.NOT_AS_TOLD
