"""What a health endpoint has to answer: the same for who watches a region and for who verifies a recovery."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from recovery.domain.base import Model

LARGEST_BODY = 64 * 1024
"""Bytes that are read of an answer."""


class Expected(Protocol):
    def wrong(self, status: int, body: bytes, seconds: float) -> str:
        """What is wrong with an answer that took so long; empty when nothing is."""
        ...


@dataclass(frozen=True)
class ExpectedAnswer:
    """``body``: words that the answer must contain; ``latency``: seconds above which an answer counts as a failure."""

    status: int = 200
    body: str | None = None
    latency: float | None = None

    def wrong(self, status: int, body: bytes, seconds: float) -> str:
        """See ``Expected``."""
        if status != self.status:
            return f"HTTP {status}, expected {self.status}"
        if self.body is not None and self.body.encode() not in body:
            return f"HTTP {status}, but the answer does not contain {self.body!r}"
        if self.latency is not None and seconds > self.latency:
            return f"HTTP {status} after {seconds:.2f} s, and {self.latency:g} s are the most"
        return ""


class ExpectedCapacity(Model):
    """``field``: names joined by dots, of a number in a JSON answer, or of a list whose entries count."""

    field: str
    at_least: float

    def wrong(self, status: int, body: bytes, seconds: float) -> str:
        """See ``Expected``."""
        if status != 200:
            return f"HTTP {status}, expected 200"
        try:
            found = json.loads(body)
        except ValueError:
            return "the answer is no JSON"
        for name in self.field.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, list):
            found = len(found)
        if not isinstance(found, int | float) or isinstance(found, bool):
            return f"the answer has no number {self.field!r}"
        return "" if found >= self.at_least else f"{self.field} is {found:g}, and {self.at_least:g} is the least"
