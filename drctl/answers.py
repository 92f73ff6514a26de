"""``drctl approve | decline | pause | resume | retry | skip | accept-loss | ungraceful | abort``: said to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drctl.options import Actor, Reason
from drctl.output import ConfigFile, Confirmed, Form, Output, confirm_group, examples, print_json
from drctl.session import load_config, operator, run, session
from drctl.tables import console
from recovery.domain.report import RunReport
from recovery.errors import BadInput

RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Workflow id, run id, or a group's name (the run that changes it).")
]
StepName = Annotated[str | None, typer.Option("--step", help="Which step, where several wait.")]

app = typer.Typer(rich_markup_mode="rich")


@app.command(epilog=examples("drctl approve shop --reason 'region-a is lost for good'"))
def approve(
    run_name: RunName,
    reason: Reason,
    step: StepName = None,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Consent to the step that waits for an approval."""
    _answer("approve", run_name, reason, step, actor, config, output)


@app.command(epilog=examples("drctl decline shop --reason 'region-a is coming back'"))
def decline(
    run_name: RunName,
    reason: Reason,
    step: StepName = None,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Refuse the step that waits for an approval; what was done is undone."""
    _answer("decline", run_name, reason, step, actor, config, output)


@app.command(epilog=examples("drctl pause recovery/shop --reason 'waiting for the network team'"))
def pause(
    run_name: RunName,
    reason: Reason,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Start no further step of a run; those that are running finish."""
    _answer("pause", run_name, reason, None, actor, config, output)


@app.command(epilog=examples("drctl resume recovery/shop --reason 'the network is back'"))
def resume(
    run_name: RunName,
    reason: Reason,
    step: StepName = None,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """End a pause, or go on after a hold that offers it."""
    _answer("resume", run_name, reason, step, actor, config, output)


@app.command(
    epilog=examples("drctl retry shop --reason 'disk space was made'", "drctl retry shop --step switch-dns -r ok")
)
def retry(
    run_name: RunName,
    reason: Reason,
    step: StepName = None,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Try the held step again, with its whole budget."""
    _answer("retry", run_name, reason, step, actor, config, output)


@app.command(epilog=examples("drctl skip shop --step confirm-service --reason 'confirmed by hand'"))
def skip(
    run_name: RunName,
    reason: Reason,
    step: StepName = None,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Go on without the held step."""
    _answer("skip", run_name, reason, step, actor, config, output)


@app.command(
    "accept-loss",
    epilog=examples("drctl accept-loss shop --reason 'region-a burnt down: 40 seconds of orders are lost'"),
)
def accept_loss(
    run_name: RunName,
    reason: Reason,
    yes: Confirmed = False,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Take a target that is behind, at the cost that the held run names."""
    _answer("accept-loss", run_name, reason, None, actor, config, output, yes=yes)


@app.command(epilog=examples("drctl ungraceful shop --reason 'region-a hangs and does not hand over'"))
def ungraceful(
    run_name: RunName,
    reason: Reason,
    yes: Confirmed = False,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Go on with a switchover without the old side's help: what it does not hand over any more is lost."""
    _answer("ungraceful", run_name, reason, None, actor, config, output, yes=yes)


@app.command(epilog=examples("drctl abort shop --reason 'wrong group'", "drctl abort recovery/shop -r 'drill' --yes"))
def abort(
    run_name: RunName,
    reason: Reason,
    yes: Confirmed = False,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """End a run. Before its point of no return everything is undone; after it nothing is, and you are asked first."""
    _answer("abort", run_name, reason, None, actor, config, output, yes=yes)


def _answer(
    action: str,
    run_name: str,
    reason: str,
    step: str | None,
    actor: str | None,
    config: Path | None,
    output: Output,
    *,
    yes: bool = False,
) -> None:
    if not reason.strip():
        raise BadInput('--reason: expected why, for example --reason "checked by hand"')
    loaded = load_config(config)

    async def work() -> dict[str, str]:
        from workers import operations

        async with session(loaded) as ours:
            handle = await operations.find(ours.client, run_name, to_answer=True)
            if action == "abort":
                _confirm_after_pivot(await operations.report(handle), yes, output)
            if action in ("accept-loss", "ungraceful"):
                _confirm_loss(await operations.report(handle), yes, output)
            said = await operations.act(handle, action, operator(actor), reason, step)
            return {"workflow_id": handle.id, "run_id": handle.run_id or "", "action": action, "answer": said}

    answered = run(work())
    if output is Output.JSON:
        print_json(answered)
    else:
        out = console()
        out.print(f"{answered['workflow_id']}: {answered['answer']}", soft_wrap=True)
        out.print(f"Follow it: drctl status {answered['workflow_id']} --watch", soft_wrap=True)


def _confirm_after_pivot(report: RunReport, yes: bool, output: Output) -> None:
    pivots = [step for step in report.steps if step.pivot and step.started_at is not None]
    if not pivots:
        return
    confirm_group(
        report.group,
        f"{report.plan} of {report.group} is past its point of no return ({pivots[0].name}): an abort undoes nothing "
        "and leaves both regions as they are.",
        yes=yes,
        output=output,
    )


def _confirm_loss(report: RunReport, yes: bool, output: Output) -> None:
    costs = "; ".join(f"{each.region}: {each.cost}" for each in report.candidates if each.only_lag)
    held = report.hold_choices[0] if report.hold_choices else f"{report.plan} of {report.group}"
    words = costs or held
    confirm_group(report.group, f"This may lose acknowledged data ({words}).", yes=yes, output=output)
