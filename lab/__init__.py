"""Two (or more) regions of real servers on this machine: PostgreSQL, NATS, Redis, S3, DNS and Temporal.

    lab = await Lab.start()
    ...
    await lab.stop()

The lab is for tests, the demo and benchmarks; nothing in production imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.errors import LabError
    from lab.lab import Lab

__all__ = ["Lab", "LabError"]


def __getattr__(name: str) -> object:
    # Loaded on first use: the lab's small server processes are modules of this package and must start quickly.
    if name == "Lab":
        from lab.lab import Lab

        return Lab
    if name == "LabError":
        from lab.errors import LabError

        return LabError
    raise AttributeError(f"module 'lab' has no attribute {name!r}")
