"""The least configuration that works, and ways to spoil it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recovery.config import Config, ConfigurationInvalid, Mistake

MINIMAL = Path(__file__).with_name("minimal.yaml")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def minimal() -> str:
    return MINIMAL.read_text()


@pytest.fixture(scope="session")
def example() -> str:
    return (ROOT / "recovery.example.yaml").read_text()


@pytest.fixture
def spoiled(minimal: str) -> Callable[..., str]:
    """The minimal configuration with one passage replaced; the passage must be there."""

    def replace(*passages: tuple[str, str]) -> str:
        text = minimal
        for old, new in passages:
            assert old in text, f"{old!r} is not in minimal.yaml"
            text = text.replace(old, new, 1)
        return text

    return replace


@pytest.fixture
def mistakes_of() -> Callable[[str], list[Mistake]]:
    """All mistakes of a text that must have some."""

    def find(text: str) -> list[Mistake]:
        with pytest.raises(ConfigurationInvalid) as caught:
            Config.parse(text, "recovery.yaml")
        return caught.value.mistakes

    return find
