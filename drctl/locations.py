"""``drctl locations check``."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from drctl.output import DONE, FAILED, UNREACHABLE, ConfigFile, Form, GroupName, Output, examples, print_json
from drctl.session import load_config, run, stores
from drctl.tables import console
from recovery.errors import RecoveryError, Unreachable

if TYPE_CHECKING:
    from recovery.config import Config
    from recovery.ports.object_store import ObjectStore

PATIENCE_SECONDS = 20.0

app = typer.Typer(
    name="locations",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Check the places where recovery points are kept.",
)


@dataclass(frozen=True)
class Finding:
    """One location. ``error`` is empty where it answered."""

    location: str
    url: str
    answers: bool
    shortcomings: list[str]
    error: str = ""


@app.callback()
def locations() -> None:
    """Check the places where recovery points are kept."""


@app.command(epilog=examples("drctl locations check", "drctl locations check --group shop -o json"))
def check(group: GroupName = None, config: ConfigFile = None, output: Form = Output.TEXT) -> None:
    """Ask each location what it lacks against the configuration, such as versioning, and say what mends it.

    Nothing of yours is changed. Of a bucket, conditional writes and checksums are tried with one small object; where
    object_lock is configured, one more is locked for a minute. Replication and the key of the replicas are compared
    with the configuration.

    Exit code 0: nothing is lacking; 1: something is; 3: a location did not answer.
    """
    loaded = load_config(config)
    names = list(loaded.locations_of(group)) if group is not None else list(loaded.locations)
    findings = run(_check(loaded, names))
    if output is Output.JSON:
        print_json([asdict(finding) for finding in findings])
    else:
        _show(findings)
    if not all(finding.answers for finding in findings):
        raise typer.Exit(UNREACHABLE)
    raise typer.Exit(FAILED if any(finding.shortcomings or finding.error for finding in findings) else DONE)


async def _check(config: Config, names: list[str]) -> list[Finding]:
    async with stores(config) as wiring:

        async def one(name: str) -> Finding:
            url = config.location(name).url
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    store: ObjectStore = await wiring.location(name)
                    return Finding(name, url, True, list(await store.shortcomings()))
            except Unreachable as error:
                return Finding(name, url, False, [], str(error))
            except TimeoutError:
                return Finding(name, url, False, [], f"no answer within {PATIENCE_SECONDS:.0f} s")
            except RecoveryError as error:
                return Finding(name, url, True, [], str(error))

        return list(await asyncio.gather(*(one(name) for name in names)))


def _show(findings: list[Finding]) -> None:
    table = Table("Location", "Where", "State", "What it lacks", box=None, pad_edge=False)
    for finding in findings:
        lacking = [*finding.shortcomings, *([finding.error] if finding.error else [])]
        word, style = ("lacks", "yellow") if lacking else ("fine", "green")
        if not finding.answers:
            word, style = "silent", "bold red"
        table.add_row(finding.location, finding.url, Text(word, style), "\n".join(lacking))
    console().print(table)
