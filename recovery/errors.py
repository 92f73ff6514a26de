"""Every error that this library raises on purpose.

RecoveryError
├── Transient            worth another attempt within the step's budget
│   ├── Unreachable      a server or an object store did not answer
│   └── Contended        somebody else changed the same thing first
└── Permanent            another attempt cannot help; the message says what to do
    ├── BadInput         the operator's or the configuration's mistake
    ├── NotFound         the thing asked for does not exist; the known ones are named
    ├── Refused          a safety rule forbids it
    │   ├── DataLoss     it would cost data, and nobody has accepted that
    │   ├── SeveralTimelines  a moment exists on more than one, and nobody has said which
    │   └── NotOurs      what is there is not the work of this run: it was not touched
    ├── WrongKey         no key at hand opens or verifies this
    ├── Corrupt          bytes differ from what their signed manifest says
    ├── SourceFailed     the source's own words, e.g. PostgreSQL's
    ├── RestoreFailed    the restored server or its data are not right
    └── NoSpace          the target has less room than is needed
"""

from __future__ import annotations

from collections.abc import Sequence


class RecoveryError(Exception):
    """Base class. ``str(error)`` is one or two plain sentences: what was found, and what to do."""

    retryable = False

    @property
    def kind(self) -> str:
        """The class name: what a retry policy and a report know the error by."""
        return type(self).__name__


class Transient(RecoveryError):
    retryable = True


class Unreachable(Transient):
    pass


class Contended(Transient):
    pass


class Permanent(RecoveryError):
    pass


class BadInput(Permanent):
    pass


class NotFound(Permanent):
    pass


class Refused(Permanent):
    pass


class DataLoss(Refused):
    pass


class SeveralTimelines(Refused):
    """``timelines``: the numbers of those that could be meant."""

    def __init__(self, message: str, timelines: Sequence[int]) -> None:
        super().__init__(message)
        self.timelines = sorted(timelines)


class NotOurs(Refused):
    pass


class WrongKey(Permanent):
    pass


class Corrupt(Permanent):
    pass


class SourceFailed(Permanent):
    pass


class DamagedPages(SourceFailed):
    pass


class RestoreFailed(Permanent):
    pass


class NoSpace(Permanent):
    pass
