"""``drctl failover | switchover | reprotect | failback``: which region serves a group, and who follows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drctl.options import Actor, Approve, OutageBegan, Reason, Wait
from drctl.output import ConfigFile, Confirmed, Form, GroupName, Output, confirm_group, examples
from drctl.session import chosen_group, load_config, operator
from drctl.starting import run_plan
from recovery.domain.plan import PlanRequest
from recovery.errors import BadInput

if TYPE_CHECKING:
    from recovery.config import Config

To = Annotated[str | None, typer.Option("--to", metavar="REGION", help="This region; else the best one.")]
Second = Annotated[
    str, typer.Option("--second-person", metavar="NAME", help="Who else consents to a loss, where two have to.")
]
AcceptLoss = Annotated[
    bool,
    typer.Option(
        "--accept-data-loss", help="Take a standby that is beyond its lag limit, or cannot show its position."
    ),
]
NothingIsLost = Annotated[
    bool,
    typer.Option(
        "--accept-data-loss", help="Changes nothing here: what only the returned region holds is saved in any case."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Go on although prechecks fail.")]
ConfirmFence = Annotated[
    bool,
    typer.Option("--confirm-fence", help="Without guards: you looked, the old primary is off and stays off."),
]

app = typer.Typer(rich_markup_mode="rich")


@app.command(
    epilog=examples(
        "drctl failover --group shop --reason 'region-a is dark'",
        "drctl failover --group shop --to region-c --approve --yes --outage-began 3m",
        "drctl failover --group shop --accept-data-loss --reason 'region-a burnt down'",
    )
)
def failover(
    group: GroupName = None,
    to: To = None,
    reason: Reason = "",
    approve: Approve = False,
    accept_data_loss: AcceptLoss = False,
    force: Force = False,
    confirm_fence: ConfirmFence = False,
    outage_began: OutageBegan = None,
    second_person: Second = "",
    yes: Confirmed = False,
    wait: Wait = True,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Move a group to its most advanced standby, because its primary is lost.

    The old primary is fenced first, with proof: nothing is promoted without it. What the standby had not received is
    lost; the report says how much. While both sides are healthy, a switchover loses nothing.
    """
    request = PlanRequest(
        region=to,
        reason=reason,
        approve=approve,
        accept_data_loss=accept_data_loss,
        force=force,
        confirm_fence=confirm_fence,
        outage_began_at=outage_began,
        second_person=second_person,
    )
    _start("Failover", request, group, actor, config, output, yes=yes, wait=wait, asks=_failover_question)


@app.command(
    epilog=examples(
        "drctl switchover --group shop --reason 'maintenance in region-a'",
        "drctl switchover --group shop --to region-b --approve --yes",
    )
)
def switchover(
    group: GroupName = None,
    to: To = None,
    reason: Reason = "asked for",
    approve: Approve = False,
    accept_data_loss: AcceptLoss = False,
    force: Force = False,
    confirm_fence: ConfirmFence = False,
    second_person: Second = "",
    yes: Confirmed = False,
    wait: Wait = True,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Move a healthy group to another region without losing a write.

    Writes pause for some seconds while both sides' final positions are compared. What fails before the promotion is
    undone, and writes go on where they were.
    """
    request = PlanRequest(
        region=to,
        reason=reason,
        approve=approve,
        accept_data_loss=accept_data_loss,
        force=force,
        confirm_fence=confirm_fence,
        second_person=second_person,
    )
    _start("Switchover", request, group, actor, config, output, yes=yes, wait=wait, asks=_switchover_question)


@app.command(epilog=examples("drctl reprotect --group shop", "drctl reprotect --group shop --to region-a --no-wait"))
def reprotect(
    group: GroupName = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="REGION", help="The region that returned; else the only one.")
    ] = None,
    reason: Reason = "asked for",
    approve: Approve = False,
    accept_data_loss: NothingIsLost = False,
    yes: Confirmed = False,
    wait: Wait = True,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Make a returned old primary a standby of the region that owns the group now.

    What it acknowledged and the owner does not have is saved and listed first; then it is rewound, or cloned anew.
    """
    _start(
        "Reprotect",
        PlanRequest(region=to, reason=reason, approve=approve, accept_data_loss=accept_data_loss),
        group,
        actor,
        config,
        output,
        yes=yes,
        wait=wait,
        asks=_reprotect_question,
    )


@app.command(
    epilog=examples(
        "drctl failback --group shop --reason 'region-a is repaired'",
        "drctl failback --group shop --to region-a --approve --yes",
    )
)
def failback(
    group: GroupName = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="REGION", help="The group's home, which is meant without it, too.")
    ] = None,
    reason: Reason = "asked for",
    approve: Approve = False,
    accept_data_loss: AcceptLoss = False,
    second_person: Second = "",
    yes: Confirmed = False,
    wait: Wait = True,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Reprotect a group's home region, wait until it has caught up, and switch the group over to it."""
    request = PlanRequest(
        region=to, reason=reason, approve=approve, accept_data_loss=accept_data_loss, second_person=second_person
    )
    _start("Failback", request, group, actor, config, output, yes=yes, wait=wait, asks=_failback_question)


def _start(
    plan: str,
    request: PlanRequest,
    group: str | None,
    actor: str | None,
    config: Path | None,
    output: Output,
    *,
    yes: bool,
    wait: bool,
    asks: Callable[[Config, PlanRequest], str],
) -> None:
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    request = request.model_copy(update={"group": name, "requested_by": operator(actor)})
    _demand_reason(request)
    confirm_group(name, asks(loaded, request), yes=yes, output=output)
    run_plan(loaded, plan, request, wait=wait, output=output)


def _demand_reason(request: PlanRequest) -> None:
    given_up = [
        option
        for option, asked in (
            ("--accept-data-loss", request.accept_data_loss),
            ("--force", request.force),
            ("--confirm-fence", request.confirm_fence),
        )
        if asked
    ]
    if given_up and request.reason.strip() in ("", "asked for"):
        raise BadInput(f"{', '.join(given_up)}: expected --reason, which the report keeps")


def _where(request: PlanRequest) -> str:
    return request.region or "its best standby"


def _failover_question(config: Config, request: PlanRequest) -> str:
    loss = " A standby beyond its lag limit is taken." if request.accept_data_loss else ""
    return (
        f"This fences the primary of {request.group} and moves the group to {_where(request)}: what that had not "
        f"received is lost.{loss}"
    )


def _switchover_question(config: Config, request: PlanRequest) -> str:
    return f"This moves {request.group} to {_where(request)}: its writes pause for some seconds."


def _reprotect_question(config: Config, request: PlanRequest) -> str:
    where = request.region or "the returned region"
    return f"This rewinds or replaces the data of {request.group} in {where}, after what only it holds was saved."


def _failback_question(config: Config, request: PlanRequest) -> str:
    home = config.group(request.group).home
    if request.region not in (None, home):
        raise BadInput(
            f"--to {request.region}: a failback goes to the home of {request.group}, which is {home}. "
            f"To move the group elsewhere: drctl switchover --group {request.group} --to {request.region}"
        )
    return (
        f"This rewinds or replaces the data of {request.group} in {home}, after what only it holds was saved, and "
        f"moves the group back to it: its writes pause for some seconds."
    )
