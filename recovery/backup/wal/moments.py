"""Up to which moment everything that was committed is archived."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta

KEPT = 2000
SPACING = timedelta(seconds=0.1)


class Moments:
    """Pairs of (end of the server's WAL, its clock then): whatever was committed by then stands before that position.

    Only the server's clock is used, so no two machines' clocks are compared. The pairs that are kept are bounded: when
    an archive falls far behind, every second one is forgotten, which only makes ``current_at`` older.
    """

    def __init__(self, server_end: int) -> None:
        self.server_end = server_end
        self._pairs: deque[tuple[int, datetime]] = deque()
        self._current: datetime | None = None

    def wal(self, server_end: int, moment: datetime) -> None:
        """WAL came, and said where the server's WAL ended when it was sent."""
        self.server_end = max(self.server_end, server_end)
        if not self._pairs or moment - self._pairs[-1][1] >= SPACING:
            self._pairs.append((server_end, moment))
            if len(self._pairs) > KEPT:
                self._pairs = deque(pair for index, pair in enumerate(self._pairs) if index % 2)

    def idle(self, sent: int, moment: datetime) -> None:
        """The server has sent everything up to ``sent``: news only when that was the end of its WAL."""
        if sent >= self.server_end:
            self.wal(sent, moment)

    def current_at(self, archived: int) -> datetime | None:
        """The newest moment up to which all is archived; None before the first."""
        while self._pairs and self._pairs[0][0] <= archived:
            self._current = self._pairs.popleft()[1]
        return self._current
