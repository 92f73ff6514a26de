"""Spans and moments as people write them on a command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import typer


def span(text: str) -> timedelta:
    """``24h``, ``90m``, ``7d``, ``1h30m``.

    Raises:
        BadParameter: it is none.
    """
    from pydantic_core import PydanticCustomError

    from recovery.config.values import duration

    try:
        return duration(text)
    except PydanticCustomError as error:
        raise typer.BadParameter(f"{error.message()}; got {text!r}") from None


def moment_or_span_ago(text: str) -> datetime:
    """``2026-11-22T10:15:00Z``, ``2026-11-22 10:15`` (UTC), or how long ago: ``12m``.

    Raises:
        BadParameter: it is neither, or it lies in the future.
    """
    try:
        found = datetime.fromisoformat(text)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except ValueError:
        try:
            found = datetime.now(UTC) - span(text)
        except typer.BadParameter:
            raise typer.BadParameter(
                f"expected a moment (2026-11-22T10:15:00Z; UTC without a zone) or how long ago (12m); got {text!r}"
            ) from None
    if found > datetime.now(UTC):
        raise typer.BadParameter(f"{text} lies in the future")
    return found
