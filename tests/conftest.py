"""What `make test` leaves out: the whole fault matrix, and what needs Debian packages."""

from __future__ import annotations

import pytest

ON_REQUEST = ("system",)
"""Markers whose tests run only when they are asked for: ``-m system``. The matrix decides for itself (tests/chaos)."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = str(config.option.markexpr)
    left_out = [
        item for item in items if any(item.get_closest_marker(name) and name not in wanted for name in ON_REQUEST)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
