"""``drctl database-failover``: a managed database (RDS) replaced by its read replica, or from a snapshot."""

from __future__ import annotations

from typing import Annotated

import typer

from drctl.options import Actor, OutageBegan, Reason, Wait
from drctl.output import ConfigFile, Confirmed, Form, GroupName, Output, confirm_group, examples
from drctl.session import chosen_group, load_config, operator
from drctl.starting import run_plan
from recovery.domain.plan import PlanRequest
from recovery.errors import BadInput

app = typer.Typer(rich_markup_mode="rich")


@app.command(
    name="database-failover",
    epilog=examples(
        "drctl database-failover --group shop --reason 'storage failed'",
        "drctl database-failover --group shop --snapshot shop-production-daily --yes",
        "drctl database-failover --group shop --confirm-fence --reason 'eu-central-1 is dark, the instance is off'",
    ),
)
def database_failover(
    group: GroupName = None,
    to: Annotated[str | None, typer.Option("--to", metavar="REGION", help="Only in this region.")] = None,
    snapshot: Annotated[
        str | None, typer.Option("--snapshot", metavar="NAME", help="Restore this one; promote no replica.")
    ] = None,
    reason: Reason = "",
    approve: Annotated[bool, typer.Option("--approve", help="Consent beforehand to closing the old instance.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Although RDS says that the instance is available.")] = False,
    confirm_fence: Annotated[
        bool,
        typer.Option(
            "--confirm-fence", help="Where RDS cannot fence it: you looked, the old one is off and stays off."
        ),
    ] = False,
    outage_began: OutageBegan = None,
    yes: Confirmed = False,
    wait: Wait = True,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Replace a group's managed database: promote its read replica, or restore the newest snapshot.

    The old instance is closed by Amazon's means where that is possible; otherwise a person has to say that it is off.
    What the replica had not received, or what was written after the snapshot, is lost.
    """
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    if loaded.group(name).rds is None:
        raise BadInput(f"group {name} has no managed database (groups.{name}.rds): expected drctl failover for it")
    if (force or confirm_fence) and not reason.strip():
        raise BadInput("--force and --confirm-fence: expected --reason, which the report keeps")
    request = PlanRequest(
        group=name,
        region=to,
        point_id=snapshot,
        reason=reason,
        requested_by=operator(actor),
        approve=approve,
        force=force,
        confirm_fence=confirm_fence,
        outage_began_at=outage_began,
    )
    how = f"snapshot {snapshot}" if snapshot else "its read replica or the newest snapshot"
    confirm_group(
        name, f"This replaces the database of {name} by {how}: what that lacks is lost.", yes=yes, output=output
    )
    run_plan(loaded, "DatabaseFailover", request, wait=wait, output=output)
