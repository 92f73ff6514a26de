"""What a guard's process does to stay quick."""

from __future__ import annotations

import contextlib
import gc
import resource

DESCRIPTORS = 16_384


def settle() -> None:
    """Everything that was loaded so far is out of the garbage collector's way.

    Priority and the out-of-memory killer's patience are left as they are: PostgreSQL inherits them when the guard
    starts it. The companion, which starts nothing, asks for both.
    """
    gc.collect()
    gc.freeze()
    _allow_descriptors()


def _allow_descriptors() -> None:
    """As many as the hard limit permits, up to a point: strangers that connect must not cut the way to the witness."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
