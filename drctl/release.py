"""``drctl release``: frees a group whose run has ended without releasing it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from drctl.options import Actor
from drctl.output import ConfigFile, Confirmed, Form, Output, confirm_group, examples, print_json
from drctl.session import chosen_group, load_config, operator, run, session, stores
from drctl.tables import console
from recovery.domain.ownership import OwnershipRecord, Phase
from recovery.errors import BadInput, Contended, Refused

if TYPE_CHECKING:
    from recovery.config import Config
    from recovery.ports.ownership import OwnershipStore

app = typer.Typer(rich_markup_mode="rich")


@app.command(epilog=examples("drctl release shop --reason 'looked at both regions: region-b serves, region-a is off'"))
def release(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="The group whose ownership record is stuck.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="What you found; kept in the record.")],
    yes: Confirmed = False,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Free a group whose run has ended (terminated, timed out) without releasing it, even past its point of no return.

    Look at the real state of both regions first: nothing else keeps two plans from changing the group at once. It is
    refused while the run goes on in Temporal. The region that owns the group stays the owner.
    """
    if not reason.strip():
        raise BadInput('--reason: expected what you found, for example --reason "region-b serves, region-a is off"')
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    released = run(_release(loaded, name, f"released by {operator(actor)}: {reason}", yes, output))
    if output is Output.JSON:
        record = released.model_dump(mode="json") if released is not None else None
        print_json({"group": name, "released": released is not None, "record": record})
    elif released is None:
        console().print(f"{name} is free already: no run holds it")
    else:
        console().print(f"{name} is free: {released.region} owns it, epoch {released.epoch}")


async def _release(config: Config, group: str, reason: str, yes: bool, output: Output) -> OwnershipRecord | None:
    """The record as it was written; None where no run held the group."""
    from workers.operations import is_running

    async with stores(config) as wiring, session(config) as ours:
        witness = await wiring.witness()
        found = await witness.read(group)
        if found is None or (found[0].run is None and found[0].phase is Phase.STEADY):
            return None
        record, version = found
        if record.run and record.workflow_id and await is_running(ours.client, record.workflow_id, record.run):
            raise Refused(
                f"{record.plan} {record.workflow_id} (run {record.run}) of {group} goes on in Temporal: end it with "
                f"drctl abort {record.workflow_id} --reason ..."
            )
        confirm_group(group, _question(record), yes=yes, output=output)
        return await _write(witness, record, version, reason)


def _question(record: OwnershipRecord) -> str:
    past = " past its point of no return" if record.phase is Phase.PIVOTED else ""
    return (
        f"{record.group} is held by run {record.run} ({record.plan}){past}, which has ended. Once it is free, another "
        "plan may change it: look at both regions first."
    )


async def _write(witness: OwnershipStore, record: OwnershipRecord, version: str, reason: str) -> OwnershipRecord:
    from activities.ownership import taken_back

    freed = record.model_copy(
        update={
            "run": None,
            "workflow_id": None,
            "plan": None,
            "pivot": None,
            "phase": Phase.STEADY,
            "reason": reason,
            "changed_at": datetime.now(UTC),
            **taken_back(record),
        }
    )
    try:
        await witness.write(freed, version=version)
    except Contended as error:
        raise Refused(f"the record of {record.group} was changed by somebody else just now: look again") from error
    return freed
