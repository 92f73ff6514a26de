"""How the command line says durations, sizes and states. The words are the library's; the signs fit the terminal."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from recovery.domain.recovery_point import VerdictState
from recovery.domain.report import RunState, StepState
from recovery.domain.report_text import SYMBOLS, run_words, state_words
from recovery.domain.words import NOTHING, clock, duration, listed, moment, plural, printable, rate, size

__all__ = [
    "NOTHING",
    "RUN_STYLES",
    "STATE_STYLES",
    "VERDICT_STYLES",
    "clock",
    "duration",
    "is_unicode",
    "listed",
    "moment",
    "plain",
    "plural",
    "rate",
    "run_words",
    "size",
    "state_words",
    "symbol",
]

STATE_STYLES: dict[StepState, str] = {
    StepState.PENDING: "dim",
    StepState.RUNNING: "bold cyan",
    StepState.WAITING: "bold yellow",
    StepState.HELD: "bold red",
    StepState.DONE: "green",
    StepState.WARNED: "yellow",
    StepState.SKIPPED: "dim",
    StepState.FAILED: "bold red",
    StepState.CANCELLED: "yellow",
    StepState.UNDOING: "magenta",
    StepState.UNDONE: "magenta",
    StepState.UNDO_FAILED: "bold red",
    StepState.UNDO_REFUSED: "bold red",
}
RUN_STYLES: dict[RunState, str] = {
    RunState.RUNNING: "bold cyan",
    RunState.PAUSED: "bold yellow",
    RunState.HELD: "bold red",
    RunState.WAITING: "bold yellow",
    RunState.ROLLING_BACK: "bold magenta",
    RunState.COMPLETED: "bold green",
    RunState.ROLLED_BACK: "bold yellow",
    RunState.ROLLBACK_INCOMPLETE: "bold red",
    RunState.STOPPED: "bold red",
}
VERDICT_STYLES: dict[VerdictState, str] = {
    VerdictState.VALID: "bold green",
    VerdictState.CORRUPT: "bold red",
    VerdictState.RESTORE_FAILED: "bold red",
    VerdictState.FAILED: "bold red",
}

_ASCII_SYMBOLS: dict[StepState, str] = {
    StepState.PENDING: ".",
    StepState.RUNNING: ">",
    StepState.WAITING: "?",
    StepState.HELD: "!",
    StepState.DONE: "+",
    StepState.WARNED: "~",
    StepState.SKIPPED: "-",
    StepState.FAILED: "x",
    StepState.CANCELLED: "/",
    StepState.UNDOING: "<",
    StepState.UNDONE: "<",
    StepState.UNDO_FAILED: "X",
    StepState.UNDO_REFUSED: "X",
}
_ASCII = str.maketrans(
    {
        "–": "-",
        "—": "-",
        "…": "~",
        "→": ">",
        "✓": "+",
        "✗": "x",
        "·": ".",
        "“": '"',
        "”": '"',
        "‘": "'",
        "’": "'",
        "█": "#",
        "░": ".",
    }
)


def is_unicode(stream: TextIO | None = None) -> bool:
    """Whether the stream's encoding holds our signs. ``DRCTL_ASCII=1`` says no for terminals whose font does not."""
    if os.environ.get("DRCTL_ASCII"):
        return False
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        "✓→…█".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def symbol(state: StepState, unicode: bool) -> str:
    """One sign for the state, distinct without any colour."""
    return (SYMBOLS if unicode else _ASCII_SYMBOLS)[state]


def plain(text: str, unicode: bool) -> str:
    """The text without control characters; in ASCII where the terminal cannot show more."""
    text = printable(text)
    return text if unicode else text.translate(_ASCII).encode("ascii", "replace").decode()
