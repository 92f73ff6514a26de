"""A group that is moved."""

from __future__ import annotations

import pytest

from tests.unit.activities.moved import Site


@pytest.fixture
def site() -> Site:
    return Site()
