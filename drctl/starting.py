"""Starts a plan from the command line, follows it, and says what became of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from drctl.following import follow_run, follow_silently
from drctl.output import DONE, FAILED, Output, note, print_json
from drctl.session import Session, check_point, check_set, run, session
from drctl.tables import console as table_console
from drctl.tables import run_summary
from recovery.domain.plan import PlanRequest
from recovery.domain.report import Achieved, RunReport, RunState

if TYPE_CHECKING:
    from recovery.config import Config
    from workers.operations import Handle

Afterwards = Callable[[Session, RunReport], Awaitable[list["Handle"]]]
"""Further runs to follow once the first one is completed."""


@dataclass
class Ended:
    """A run that was started or attached to, and its final report, where somebody waited for it."""

    handle: Handle
    attached: bool
    report: RunReport | None = None
    further: list[RunReport] = field(default_factory=list)
    ui_address: str | None = None

    @property
    def exit_code(self) -> int:
        reports = [self.report, *self.further]
        return DONE if all(report is None or report.state is RunState.COMPLETED for report in reports) else FAILED


def run_plan(
    config: Config,
    plan: str,
    request: PlanRequest,
    *,
    wait: bool,
    output: Output,
    afterwards: Afterwards | None = None,
    prepare: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Starts the plan, or attaches to the same one that runs already, and ends the command with its exit code.

    Args:
        wait: follow it to its end.
        prepare: asked once Temporal answers and before anything is started; it may refuse.
    """
    started: list[Handle] = []

    async def work() -> Ended:
        from workers import operations

        async with session(config) as ours:
            if prepare is not None:
                await prepare()
            handle, is_new = await operations.start(ours.client, ours.config, plan, request)
            started.append(handle)
            ended = Ended(handle, not is_new, ui_address=ours.ui_address(handle.id, _run_id(handle)))
            if output is Output.TEXT:
                _announce(table_console(), plan, request, ended)
            if wait:
                await _follow(ours, ended, output, afterwards)
            return ended

    ended = run(work(), lambda: going_on(started[-1].id) if started else "interrupted: nothing was started")
    show_end(ended, plan, request.group, output)
    raise typer.Exit(ended.exit_code)


async def _follow(ours: Session, ended: Ended, output: Output, afterwards: Afterwards | None) -> None:
    ended.report = await follow(ended.handle, output)
    if afterwards is None or ended.report.state is not RunState.COMPLETED:
        return
    for handle in await afterwards(ours, ended.report):
        ended.further.append(await follow(handle, output))


async def follow(handle: Handle, output: Output) -> RunReport:
    """To the end: shown to people, silently for programs."""
    return await (follow_silently(handle) if output is Output.JSON else follow_run(table_console(), handle))


def going_on(workflow_id: str) -> str:
    """What Ctrl-C does not end."""
    return (
        f"no longer followed: {workflow_id} goes on. Follow it with drctl status {workflow_id} --watch, or end it "
        f"with drctl abort {workflow_id} --reason ..."
    )


def show_end(ended: Ended, plan: str, group: str, output: Output) -> None:
    if output is Output.JSON:
        print_json(_document(ended, plan, group))
        return
    out = table_console()
    for report in [ended.report, *ended.further]:
        if report is not None:
            out.print(run_summary(without_objectives(report)))
    for line in _next_steps(ended):
        out.print(Text(line, "dim"), soft_wrap=True)


def without_objectives(report: RunReport) -> RunReport:
    """The report without RTO and RPO where the plan recovers nothing: two empty rows would only puzzle."""
    from workflows.plans import PLANS

    recovers = report.plan not in PLANS or PLANS[report.plan].locks_group
    return report if recovers else report.model_copy(update={"achieved": Achieved()})


def _announce(out: Console, plan: str, request: PlanRequest, ended: Ended) -> None:
    words = "runs already; this follows it" if ended.attached else "started"
    out.print(f"{plan} of {request.group} {words}: {ended.handle.id}", soft_wrap=True)
    if ended.ui_address:
        out.print(ended.ui_address, soft_wrap=True)


def _document(ended: Ended, plan: str, group: str) -> dict[str, Any]:
    report = ended.report
    document: dict[str, Any] = {
        "plan": plan,
        "group": group,
        "workflow_id": ended.handle.id,
        "run_id": report.run_id if report is not None else _run_id(ended.handle),
        "attached": ended.attached,
        "state": report.state.value if report is not None else RunState.RUNNING.value,
        "exit": ended.exit_code,
    }
    if report is not None:
        document["report"] = report.model_dump(mode="json")
    if ended.further:
        document["further"] = [further.model_dump(mode="json") for further in ended.further]
    return document


def _next_steps(ended: Ended) -> list[str]:
    """Where to look next."""
    report = ended.report
    if report is None:
        return [f"Follow it: drctl status {ended.handle.id} --watch"]
    lines = []
    if report.plan == "Backup":
        lines += [f"Recovery point: drctl backup show {point} --group {report.group}" for point in report.point_ids]
        if not ended.further:
            lines += [
                f"Its validation: drctl status validate/{report.group}/{point} --watch" for point in report.point_ids
            ]
    lines.append(f"Report: drctl report {report.run_id} --format html")
    return lines


def _run_id(handle: Handle) -> str:
    return handle.run_id or handle.first_execution_run_id or ""


def known_set(config: Config, group: str, wanted: str | None, output: Output) -> Callable[[], Awaitable[None]] | None:
    """The same of a named recovery set."""
    if wanted is None:
        return None

    async def look() -> None:
        unknown = await check_set(config, group, wanted)
        if unknown is not None:
            note(f"the recovery set could not be looked up from here, the plan will: {unknown}", output)

    return look


def known_point(config: Config, group: str, point: str | None, output: Output) -> Callable[[], Awaitable[None]] | None:
    """Looks a named point up first: a misspelt one is refused before a plan begins."""
    if point is None:
        return None

    async def look() -> None:
        unknown = await check_point(config, group, point)
        if unknown is not None:
            note(f"the recovery point could not be looked up from here, the plan will: {unknown}", output)

    return look
