"""Positions in a store's stream of changes, in the store's own words, as numbers that can be compared."""

from __future__ import annotations

import re

from recovery.domain.timelines import lsn_order


def position_number(position: str | None) -> int | None:
    """LSN, offset, or ``stream=sequence`` pairs (their sum) as one number that grows; None where it is not one."""
    if not position:
        return None
    text = position.strip()
    if re.fullmatch(r"[0-9A-Fa-f]+/[0-9A-Fa-f]+", text):
        return lsn_order(text)
    if text.isdigit():
        return int(text)
    pairs = re.findall(r"[^=:,\s]+\s*[=:]\s*(\d+)", text)
    return sum(int(number) for number in pairs) if pairs else None
