"""What the tests of commands share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from drctl import backup, recoveries, restores, retention
from recovery.config import Config
from recovery.domain.plan import PlanRequest
from tests.unit.drctl.rig import MINIMAL


@pytest.fixture(autouse=True)
def logs_restored() -> Iterator[None]:
    """The command sets up logs for its process, which here is the tests'."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, PlanRequest, dict[str, Any]]]:
    """What would have been started: plan, request, options."""
    calls: list[tuple[str, PlanRequest, dict[str, Any]]] = []

    def run_plan(config: Config, plan: str, request: PlanRequest, **options: Any) -> None:
        calls.append((plan, request, options))

    for module in (backup, recoveries, restores, retention):
        monkeypatch.setattr(module, "run_plan", run_plan)
    return calls


@pytest.fixture
def two_groups(tmp_path: Path) -> Path:
    """The minimal configuration with its group twice."""
    text = MINIMAL.read_text()
    start, end = text.index("  shop:\n"), text.index("\nnotifications:")
    file = tmp_path / "two.yaml"
    file.write_text(text[:end] + text[start:end].replace("  shop:\n", "  books:\n", 1) + text[end:])
    return file
