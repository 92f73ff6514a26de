"""Runs named tests against a program in which one guard is switched off.

    python -m tests.integration.mutant < mutations.json > outcomes.jsonl

Each mutation is ``{"name", "module", "old", "new", "tests"}``: in the source of ``module`` the text ``old`` (which must
occur exactly once) becomes ``new``, in memory only. Libraries are loaded once, then every mutation gets a fork of its
own, so that it costs little more than its tests.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import json
import os
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

LIBRARIES = (
    "asyncpg", "boto3", "cryptography.fernet", "dns.message", "httpx", "hypothesis", "nats.js", "psutil", "psycopg",
    "pydantic", "pyrage", "pytest_asyncio", "redis.asyncio", "ruamel.yaml", "starlette.applications", "structlog",
    "temporalio.client", "temporalio.contrib.pydantic", "temporalio.testing", "temporalio.worker", "uvicorn",
    "zstandard",
)  # fmt: skip
OURS = ("recovery", "activities", "workflows", "workers", "drctl", "lab")
PLUGINS = ("pytest_asyncio.plugin", "_hypothesis_pytestplugin", "pytest_timeout")
"""What the tests need. Every run would else look through all that is installed for them."""
AT_ONCE = 2
ROOT = Path(__file__).resolve().parent.parent.parent


class Outcomes:
    """A pytest plugin that keeps which tests ran and which of them failed in their body."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: list[str] = []
        self.broken: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            (self.passed if report.passed else self.failed).append(report.nodeid)
        elif report.failed:
            self.broken.append(f"{report.nodeid} at {report.when}: {str(report.longrepr)[-400:]}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.broken.append(f"{report.nodeid}: {str(report.longrepr)[-800:]}")


def mutate(module: str, old: str, new: str) -> None:
    """From now on ``module`` is loaded with the text changed.

    Raises:
        ValueError: the text does not occur exactly once: the guard was rewritten, and so must be its mutation.
    """
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None, module
    source = Path(found.origin).read_text()
    if source.count(old) != 1:
        raise ValueError(f"{module} has {source.count(old)} times, and not once: {old!r}")
    changed = source.replace(old, new)
    load = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> CodeType | None:
        if fullname == module:
            return compile(changed, self.path, "exec", dont_inherit=True)
        return load(self, fullname)

    setattr(SourceFileLoader, "get_code", get_code)  # noqa: B010 - mypy knows it as another class's method
    # Finding it has loaded the packages around it, and whatever those import: they hold the unchanged module.
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]


def run(mutation: dict[str, Any]) -> dict[str, Any]:
    """The mutation's outcome: which tests failed, passed, or could not run."""
    outcomes = Outcomes()
    output = io.StringIO()
    try:
        mutate(mutation["module"], mutation["old"], mutation["new"])
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            named = [part for plugin in PLUGINS for part in ("-p", plugin)]
            pytest.main(["-q", "-x", "-p", "no:cacheprovider", *named, *mutation["tests"]], plugins=[outcomes])
    except ValueError as error:
        outcomes.broken.append(str(error))
    if not (outcomes.passed or outcomes.failed or outcomes.broken):
        outcomes.broken.append(f"no test ran: {output.getvalue()[-800:]}")
    return {"name": mutation["name"], **vars(outcomes)}


def fork(mutation: dict[str, Any]) -> int:
    """Returns the pid of the child that runs the mutation and prints its outcome on one line."""
    pid = os.fork()
    if pid:
        return pid
    answer = os.dup(1)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
        line = json.dumps(run(mutation)) + "\n"
    os.write(answer, line.encode())  # one write: lines of two children do not mix
    os._exit(0)


def main() -> None:
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in LIBRARIES:
        importlib.import_module(name)
    # A collection writes to every object: each child would get a copy of all these libraries.
    gc.freeze()
    gc.disable()
    running: set[int] = set()
    for mutation in json.load(sys.stdin):
        while len(running) >= AT_ONCE:
            running.discard(os.wait()[0])
        running.add(fork(mutation))
    while running:
        running.discard(os.wait()[0])


if __name__ == "__main__":
    main()
