"""``drctl status | report``: what runs, what ran, who owns which group."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drctl import words
from drctl.following import progress_words, questions
from drctl.monitor import health_words
from drctl.output import DONE, FAILED, ConfigFile, Form, Output, examples, note, print_json
from drctl.session import Session, load_config, run, session, stores
from drctl.starting import follow, going_on, without_objectives
from drctl.tables import console, plan_table, run_summary
from recovery.domain.ownership import OwnershipRecord
from recovery.domain.report import RunReport, RunState
from recovery.domain.report_text import is_finished, markdown_table
from recovery.errors import BadInput, NotFound, RecoveryError, Unreachable

if TYPE_CHECKING:
    from recovery.config import Config
    from workers.operations import RunLine

OWNERSHIP_SECONDS = 5.0

app = typer.Typer(rich_markup_mode="rich")

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Workflow id, run id, or a group's name (its newest run).")]


class ReportFormat(StrEnum):
    HTML = "html"
    JSON = "json"
    TEXT = "text"


@dataclass
class Overview:
    """``owners`` has no entry for a group that was never claimed; ``silent`` says why owners are not known."""

    runs: list[RunLine]
    owners: dict[str, OwnershipRecord] = field(default_factory=dict)
    silent: str = ""
    health: dict[str, str] = field(default_factory=dict)  # what vantage points agree on, of groups that have them


@dataclass
class Seen:
    """A run as it stands; ``progress`` says in words how far its long steps are."""

    report: RunReport
    progress: list[str] = field(default_factory=list)


@app.command(
    epilog=examples(
        "drctl status", "drctl status shop", "drctl status recovery/shop --watch", "drctl status --limit 50 -o json"
    )
)
def status(
    run_name: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Workflow id, run id, or a group's name.", show_default=False),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the run to its end.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="So many runs in the list.")] = 15,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Show the newest runs and who owns each group, or one run step by step.

    With --watch the exit code is the run's: 0 completed, 1 anything else. Ctrl-C ends the watching, not the run.
    """
    loaded = load_config(config)
    if run_name is None:
        if watch:
            raise BadInput("--watch needs a run: drctl status RUN --watch")
        _show_overview(loaded, run(_overview(loaded, limit)), output)
        return
    if not watch:
        _show_run(run(_look(loaded, run_name, output)), output)
        return
    watched: list[str] = []
    report = run(_watch(loaded, run_name, output, watched), lambda: going_on(watched[0]) if watched else "interrupted")
    code = DONE if report.state is RunState.COMPLETED else FAILED
    if output is Output.JSON:
        print_json(_run_document(report, code))
    else:
        console().print(run_summary(without_objectives(report)))
    raise typer.Exit(code)


@app.command(
    epilog=examples(
        "drctl report shop --output-file report.html",
        "drctl report recovery/shop --format html",
        "drctl report RUN --format json",
    )
)
def report(
    run_name: RunName,
    form: Annotated[
        ReportFormat | None, typer.Option("--format", "-f", help="Else by the file's name; else text.")
    ] = None,
    output_file: Annotated[
        Path | None, typer.Option("--output-file", help="Write here; - is standard output.", dir_okay=False)
    ] = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Write the report of a run: steps with times, RTO and RPO, checks, undo, who approved what.

    HTML goes into one self-contained file. A run that Temporal no longer knows is read from the stored reports.
    """
    loaded = load_config(config)
    chosen = form or _format_of(output_file, output)
    found = run(_look(loaded, run_name, output)).report
    text = _rendered(found, chosen)
    target = output_file
    if target is None and chosen is ReportFormat.HTML:
        target = Path(f"{found.plan}-{found.group}-{found.run_id[:8]}.html".lower())
    if target is None or str(target) == "-":
        typer.echo(text)
        return
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{target} cannot be written ({error.strerror}): name another file with --output-file") from None
    if output is Output.JSON:
        print_json({"file": str(target.resolve()), "format": chosen.value, "run_id": found.run_id})
    else:
        console().print(f"{target.resolve()}", soft_wrap=True)


def _format_of(file: Path | None, output: Output) -> ReportFormat:
    if file is not None and file.suffix.lower() in (".html", ".htm"):
        return ReportFormat.HTML
    if output is Output.JSON or (file is not None and file.suffix.lower() == ".json"):
        return ReportFormat.JSON
    return ReportFormat.TEXT


def _rendered(found: RunReport, form: ReportFormat) -> str:
    if form is ReportFormat.JSON:
        return found.model_dump_json(indent=2)
    if form is ReportFormat.HTML:
        from drctl.report import render_report

        return render_report(found)
    return markdown_table(found, datetime.now(UTC))


# One run.


async def _look(config: Config, name: str, output: Output) -> Seen:
    """From Temporal; what Temporal or its workers cannot say any more, from the stored reports."""
    try:
        async with session(config) as ours:
            return await _asked(ours, name)
    except (NotFound, Unreachable) as error:
        stored = await _stored(config, name)
        if stored is None:
            raise
        note(f"from the stored reports: {error}", output)
        return Seen(stored)


async def _asked(ours: Session, name: str) -> Seen:
    from workers import operations

    handle = await operations.find(ours.client, name)
    found = await operations.latest(handle)
    if is_finished(found):
        return Seen(found)
    progress = await operations.progress_of(handle)
    names = {step.activity: step.name for step in found.steps}
    return Seen(
        found, [f"{names.get(activity, activity)}: {progress_words(far)}" for activity, far in progress.items()]
    )


async def _stored(config: Config, name: str) -> RunReport | None:
    """By run id, or the newest of a group or workflow id; None where there is none or nobody answers."""
    try:
        async with stores(config) as wiring:
            reports = await wiring.reports()
            for group in config.groups:
                for found in await reports.recent(group, 200):
                    if name in (found.run_id, found.workflow_id, found.group):
                        return found
    except RecoveryError:
        return None
    return None


async def _watch(config: Config, name: str, output: Output, watched: list[str]) -> RunReport:
    from workers import operations

    async with session(config) as ours:
        handle = await operations.find(ours.client, name)
        watched.append(handle.id)
        return await follow(handle, output)


def _show_run(seen: Seen, output: Output) -> None:
    found = seen.report
    if output is Output.JSON:
        print_json(_run_document(found, DONE))
        return
    out = console()
    out.print(plan_table(found, datetime.now(UTC), width=out.width))
    for line in [*seen.progress, *questions(found)]:
        out.print(line, soft_wrap=True)
    if is_finished(found):
        out.print(run_summary(without_objectives(found)))


def _run_document(found: RunReport, code: int) -> dict[str, Any]:
    return {
        "plan": found.plan,
        "group": found.group,
        "workflow_id": found.workflow_id,
        "run_id": found.run_id,
        "state": found.state.value,
        "waits_for": questions(found),
        "exit": code,
        "report": found.model_dump(mode="json"),
    }


# All runs.


async def _overview(config: Config, limit: int) -> Overview:
    from workers import operations

    owners = asyncio.create_task(_owners(config))
    try:
        async with session(config) as ours:
            lines = [line async for line in operations.runs(ours.client, limit=limit)]
            health = await health_words(ours)
        records, silent = await owners
        return Overview(lines, records, silent, health)
    finally:
        owners.cancel()


async def _owners(config: Config) -> tuple[dict[str, OwnershipRecord], str]:
    try:
        async with asyncio.timeout(OWNERSHIP_SECONDS), stores(config) as wiring:
            witness = await wiring.witness()
            found = await asyncio.gather(*(witness.read(group) for group in config.groups))
    except RecoveryError as error:
        return {}, str(error)
    except TimeoutError:
        return {}, f"the witness did not answer within {OWNERSHIP_SECONDS:.0f} s"
    return {record.group: record for record, _ in (entry for entry in found if entry is not None)}, ""


def _show_overview(config: Config, overview: Overview, output: Output) -> None:
    if output is Output.JSON:
        print_json(
            {
                "groups": {
                    name: overview.owners[name].model_dump(mode="json") if name in overview.owners else None
                    for name in config.groups
                },
                "groups_unknown": overview.silent or None,
                "health": overview.health,
                "runs": [asdict(line) for line in overview.runs],
            }
        )
        return
    out = console()
    _print_owners(out, config, overview)
    out.print()
    _print_runs(out, overview.runs)
    if overview.silent:
        note(f"who owns the groups is not known: {overview.silent}", output)


def _print_owners(out: Console, config: Config, overview: Overview) -> None:
    table = Table("Group", "Owned by", "Epoch", "Since", "Changed by", box=None, pad_edge=False)
    if overview.health:
        table.add_column("Health")
    for name, group in config.groups.items():
        record = overview.owners.get(name)
        if record is None:
            owned = "not known" if overview.silent else f"{group.home} (home, never claimed)"
            table.add_row(name, owned, words.NOTHING, words.NOTHING, "", overview.health.get(name, ""))
            continue
        busy = f"{record.plan} {record.workflow_id}, {record.phase.value}" if record.run else ""
        since, health = words.moment(record.changed_at), overview.health.get(name, "")
        table.add_row(name, record.region, str(record.epoch), since, busy, health)
    out.print(table)


def _print_runs(out: Console, lines: list[RunLine]) -> None:
    if not lines:
        out.print("No plan has run yet. drctl backup run starts the first one.")
        return
    table = Table("Run", "Plan", "Group", "State", "Started", "Took", box=None, pad_edge=False)
    styles = {"running": "bold cyan", "completed": "green", "failed": "bold red", "terminated": "bold red"}
    for line in lines:
        took = (line.ended_at or datetime.now(UTC)) - line.started_at
        table.add_row(
            line.workflow_id,
            line.plan,
            line.group or words.NOTHING,
            Text(line.status, styles.get(line.status, "yellow")),
            words.moment(line.started_at),
            words.duration(took),
        )
    out.print(table)
