"""What `make test` leaves out: the whole fault matrix, and what needs Debian packages. And who runs the rest."""

from __future__ import annotations

import gc
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.chaos.stage")  # judges for many modules: a failure there shows what was compared

if TYPE_CHECKING:
    from xdist.remote import Producer

    from tests.lanes import Lanes

# How long an example takes says something about the machine, and nothing about what is tested.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay to the end: looking through them for garbage, again and again, costs and finds nothing."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes | None:
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.lanes import Lanes

    return Lanes(config, log)
