"""Structured logs: one JSON object a line (or coloured lines for a person), with the run's identity, no secrets.

Standard library loggers (temporalio, botocore, asyncio ...) go through the same chain. Everything is masked last,
after exceptions have become text, so that a password in a driver's error does not reach a disk either.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

import structlog

from recovery.telemetry.redaction import MASK, REDACTOR, Redactor

DEEPEST = 6  # levels of nested values that are shown

# Chatty at INFO, or (urllib3 at DEBUG) full of addresses that nobody needs.
_QUIET = {
    "botocore": logging.WARNING,
    "boto3": logging.WARNING,
    "s3transfer": logging.WARNING,
    "urllib3": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
}


def configure_logs(
    form: Literal["json", "console"] = "json",
    level: str = "INFO",
    *,
    stream: TextIO | None = None,
    redactor: Redactor = REDACTOR,
) -> None:
    """Sets up structlog and the root logger of the standard library. May be called again: the last call counts.

    Args:
        form: ``json`` for machines, ``console`` for a person; colours only on a terminal.
        level: ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``.
        stream: standard error unless given.

    Raises:
        ValueError: the level is unknown.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r} is unknown: use DEBUG, INFO, WARNING or ERROR")
    target = stream or sys.stderr
    shared = _shared_processors()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *_rendering(form, target, redactor),
        ],
    )
    output = logging.StreamHandler(target)
    output.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        if getattr(old, "_recovery_plans", False):
            root.removeHandler(old)
    output._recovery_plans = True  # type: ignore[attr-defined]
    root.addHandler(output)
    root.setLevel(number)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, number))


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def _shared_processors() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.UnicodeDecoder(),
    ]


def _rendering(form: str, target: TextIO, redactor: Redactor) -> list[structlog.typing.Processor]:
    # Exceptions become text before masking, in both forms.
    chain: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, _masking(redactor)]
    if form == "json":
        return [*chain, structlog.processors.EventRenamer("message"), structlog.processors.JSONRenderer(default=str)]
    colours = target.isatty()
    return [*chain, structlog.dev.ConsoleRenderer(colors=colours, timestamp_key="time")]


def _masking(redactor: Redactor) -> structlog.typing.Processor:
    def mask_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {redactor.mask(key): _masked(redactor, key, value, DEEPEST) for key, value in event.items()}

    return mask_event


def _masked(redactor: Redactor, key: str, value: Any, depth: int) -> Any:
    """The value as plain data without secrets; an object of any other kind becomes its masked text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if key and redactor.names_a_secret(key):
        return MASK
    if isinstance(value, str):
        return redactor.mask(value)
    if isinstance(value, dict) and depth:
        return {redactor.mask(str(k)): _masked(redactor, str(k), v, depth - 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth:
        return [_masked(redactor, "", item, depth - 1) for item in value]
    return redactor.mask(str(value))
