"""What a process can do to be harder to stop by accident."""

from __future__ import annotations

import gc

import structlog

from recovery.guard import companion

log = structlog.get_logger("recovery.guard")


def harden() -> None:
    """Last for the kernel's out-of-memory killer, first for a processor, each as far as this user may; and everything
    that was loaded so far is out of the garbage collector's way."""
    companion.harden()
    gc.collect()
    gc.freeze()
