"""What a health endpoint has to answer: the same for who watches a region and for who verifies a recovery."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_BODY = 64 * 1024
"""Bytes that are read of an answer."""


@dataclass(frozen=True)
class ExpectedAnswer:
    """``body``: words that the answer must contain; ``latency``: seconds above which an answer counts as a failure."""

    status: int = 200
    body: str | None = None
    latency: float | None = None

    def wrong(self, status: int, body: bytes, seconds: float) -> str:
        """What is wrong with an answer that took so long; empty when nothing is."""
        if status != self.status:
            return f"HTTP {status}, expected {self.status}"
        if self.body is not None and self.body.encode() not in body:
            return f"HTTP {status}, but the answer does not contain {self.body!r}"
        if self.latency is not None and seconds > self.latency:
            return f"HTTP {status} after {seconds:.2f} s, and {self.latency:g} s are the most"
        return ""
