"""``drctl validate | recover``: recovery points proven, or restored in the service's place."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from drctl.moments import Latest, Timeline, ToLsn, ToName, ToTime, ToXid, target_of
from drctl.options import Actor, Approve, OutageBegan, PointOption, Reason, Wait
from drctl.output import ConfigFile, Confirmed, Form, GroupName, Output, confirm_group, examples
from drctl.session import chosen_group, load_config, operator
from drctl.starting import known_point, known_set, run_plan
from drctl.times import span
from recovery.domain.plan import PlanRequest
from recovery.errors import BadInput

if TYPE_CHECKING:
    pass

app = typer.Typer(rich_markup_mode="rich")


@app.command(
    epilog=examples(
        "drctl validate", "drctl validate 20261122T101500Z-physical-1a2b3c4d", "drctl validate --group shop --since 7d"
    )
)
def validate(
    point: Annotated[
        str | None, typer.Argument(metavar="[POINT]", help="Only this recovery point.", show_default=False)
    ] = None,
    since: Annotated[
        timedelta | None,
        typer.Option("--since", parser=span, metavar="SPAN", help="All points of this last while; else of 24h."),
    ] = None,
    group: GroupName = None,
    wait: Wait = True,
    reason: Reason = "asked for",
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Restore recovery points into a scratch server, check them, and store the signed verdicts.

    Exit code 1 when any of them is not VALID.
    """
    if point is not None and since is not None:
        raise BadInput("expected a recovery point or --since, and not both")
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    request = PlanRequest(group=name, point_id=point, since=since, reason=reason, requested_by=operator(actor))
    run_plan(
        loaded, "BackupValidation", request, wait=wait, output=output, prepare=known_point(loaded, name, point, output)
    )


@app.command(
    epilog=examples(
        "drctl recover --group shop --reason 'region-a burnt down' --outage-began 12m",
        "drctl recover --to region-b --latest --approve --yes",
        "drctl recover --to-time 2026-11-22T10:14:30Z --reason 'orders were deleted at 10:15'",
        "drctl recover --point 20261122T101500Z-physical-1a2b3c4d --outage-began 2026-11-22T10:15:00Z",
        "drctl recover --set 20261122T101500Z-set-1a2b3c4d",
    )
)
def recover(
    group: GroupName = None,
    to: Annotated[
        str | None, typer.Option("--to", help="The region that takes over; else the one of highest priority.")
    ] = None,
    point: PointOption = None,
    recovery_set: Annotated[
        str | None,
        typer.Option(
            "--set", metavar="ID", help="This recovery set, all of it: see drctl backup sets.", show_default=False
        ),
    ] = None,
    to_time: ToTime = None,
    to_lsn: ToLsn = None,
    to_xid: ToXid = None,
    to_name: ToName = None,
    latest: Latest = False,
    timeline: Timeline = None,
    reason: Reason = "asked for",
    approve: Approve = False,
    outage_began: OutageBegan = None,
    yes: Confirmed = False,
    wait: Wait = True,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Recover a group in another region from its newest validated recovery point, because its own region is lost.

    What was committed after that point is lost; where the group's WAL is archived, a later moment may be chosen. The
    other stores of the group come back beside PostgreSQL, from the newest recovery set all of whose points are
    validated; the report says what each of them lost, and how far apart they stand. The plan restores, verifies, takes
    ownership, switches DNS and lets clients in; until clients are let in, a failure or an abort undoes everything.
    """
    if point is not None and recovery_set is not None:
        raise BadInput("expected --point or --set, and not both")
    target = target_of(to_time, to_lsn, to_xid, to_name, latest, timeline)
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    request = PlanRequest(
        group=name,
        region=to,
        point_id=point,
        set_id=recovery_set,
        reason=reason,
        requested_by=operator(actor),
        approve=approve,
        outage_began_at=outage_began,
        target=target,
    )
    where = f"in {to}" if to is not None else "in another region"
    begins = f"recovery set {recovery_set}" if recovery_set is not None else "a recovery point"
    until = begins if target is None else f"{begins} and archived WAL, to {target}"
    confirm_group(
        name,
        f"This recovers {name} {where} from {until}: what was committed after it is lost.",
        yes=yes,
        output=output,
    )
    prepare = known_point(loaded, name, point, output) or known_set(loaded, name, recovery_set, output)
    run_plan(loaded, "FullRecovery", request, wait=wait, output=output, prepare=prepare)
