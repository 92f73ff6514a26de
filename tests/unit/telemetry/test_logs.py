"""Log lines: valid JSON, bound to the run, and without secrets wherever they hide."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from recovery.telemetry.logs import configure_logs, get_logger
from recovery.telemetry.redaction import Redactor

SECRET = "s3cr3t-Value-91"

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def redactor() -> Redactor:
    redactor = Redactor()
    redactor.register(SECRET)
    return redactor


@pytest.fixture
def stream(redactor: Redactor) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logs("json", "INFO", stream=stream, redactor=redactor)
    yield stream
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def lines(stream: io.StringIO) -> Lines:
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line_has_time_level_logger_and_fields(lines: Lines) -> None:
    get_logger("recovery.backup").info("backup finished", seconds=1.5, objects=3)
    [line] = lines()
    assert line["message"] == "backup finished"
    assert (line["level"], line["logger"]) == ("info", "recovery.backup")
    assert (line["seconds"], line["objects"]) == (1.5, 3)
    assert line["time"].endswith("Z")


def test_standard_library_loggers_go_the_same_way(lines: Lines) -> None:
    logging.getLogger("temporalio.worker").warning("queue %s of %d", "region-a", 2, extra={"temporal": {"attempt": 3}})
    [line] = lines()
    assert line["message"] == "queue region-a of 2"
    assert line["logger"] == "temporalio.worker"
    assert line["temporal"] == {"attempt": 3}


async def test_run_identity_is_bound_to_its_own_task_only(lines: Lines) -> None:
    async def one_run(group: str) -> None:
        with structlog.contextvars.bound_contextvars(group=group, run_id=f"run-{group}", step="restore"):
            await asyncio.sleep(0)
            get_logger("x").info(group)
            logging.getLogger("botocore.client").warning(group)

    await asyncio.gather(one_run("shop"), one_run("billing"))
    get_logger("x").info("outside")
    for line in lines():
        if line["message"] == "outside":
            assert "group" not in line
        else:
            assert line["group"] == line["message"]
            assert line["run_id"] == f"run-{line['message']}"
            assert line["step"] == "restore"


def test_secrets_never_reach_the_line(stream: io.StringIO) -> None:
    log = get_logger("x")
    log.info(f"dsn postgresql://u:{SECRET}@h/d", nested={"list": [f"x{SECRET}", {"deep": SECRET}]}, db_password="short")
    logging.getLogger("y").error("arg %s", SECRET, extra={"body": SECRET.encode(), SECRET: 1})
    assert SECRET not in stream.getvalue()
    assert "short" not in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_in_exceptions_are_masked(stream: io.StringIO, redactor: Redactor, form: Any) -> None:
    configure_logs(form, "INFO", stream=stream, redactor=redactor)
    try:
        try:
            raise ValueError(f"inner {SECRET}")
        except ValueError as inner:
            raise OSError("cannot reach redis://:0ther-Secret@127.0.0.1:1") from inner
    except OSError:
        get_logger("x").exception("it broke")
        logging.getLogger("y").exception("it broke too")
    text = stream.getvalue()
    assert text.count("it broke") >= 2
    assert text.count("ValueError") >= 2
    assert SECRET not in text
    assert "0ther-Secret" not in text


def test_configuring_twice_does_not_double_the_lines(stream: io.StringIO, redactor: Redactor, lines: Lines) -> None:
    configure_logs("json", "INFO", stream=stream, redactor=redactor)
    get_logger("x").info("once")
    assert len(lines()) == 1


def test_console_form_has_no_colours_without_a_terminal(stream: io.StringIO, redactor: Redactor) -> None:
    configure_logs("console", "INFO", stream=stream, redactor=redactor)
    get_logger("x").warning("disk is full", free="3 MiB")
    assert "\x1b[" not in stream.getvalue()
    assert "disk is full" in stream.getvalue()


def test_unknown_level_says_the_known_ones() -> None:
    with pytest.raises(ValueError, match="use DEBUG, INFO, WARNING or ERROR"):
        configure_logs("json", "LOUD")
