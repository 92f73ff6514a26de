"""What a guard's process does to stay quick."""

from __future__ import annotations

import gc


def settle() -> None:
    """Everything that was loaded so far is out of the garbage collector's way.

    Priority and the out-of-memory killer's patience are left as they are: PostgreSQL inherits them when the guard
    starts it. The companion, which starts nothing, asks for both.
    """
    gc.collect()
    gc.freeze()
