"""What a worker frees goes back to the machine, although small objects lie in between."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import sys
from pathlib import Path
from workers.heap import return_large_buffers

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

if sys.argv[1] == "fixed":
    return_large_buffers()
before, small = resident(), []
for _ in range(4):
    large = []
    for _ in range(20):
        large.append(b"x" * (8 << 20))
        small.append(b"y" * 100_000)
    del large
print(resident() - before - sum(map(len, small)) / 1e6)
"""


def kept(how: str) -> float:
    """Megabytes that a process still has after it freed 160 MB four times."""
    # Another test's worker may have set it in this process already, for all of its children.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, env=clean)
    return float(done.stdout)


def test_freed_buffers_go_back_to_the_machine() -> None:
    assert kept("fixed") < 20
    assert kept("left alone") > 40, "without the setting there is nothing to prove: is this another C library?"
