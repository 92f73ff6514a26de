"""What the owner's guard notes in the record beside who owns it: who acknowledges, whose data these are, how they are
fenced. Pure.

Not while a fence is asked for: whoever asked counts with what stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from recovery.domain.ownership import AcknowledgingSet, OwnershipRecord, Strength
from recovery.guard.decisions import Refusal, Settled, Write


def claim(
    record: OwnershipRecord, region: str, instance: str, acknowledging: AcknowledgingSet | None, at: datetime
) -> Write | Settled | Refusal:
    """Changes what the record says of acknowledged commits; see ``recovery.guard.synchronous`` for when.

    Not while a fence is asked for: from then on the set in the record is what the proof counts with.
    """
    if record.region != region or record.guard != instance:
        return Refusal(f"{record.group} is held by {record.guard} in {record.region}")
    if record.fencing is not None:
        return Refusal(f"the run {record.fencing.run} asked for the fence of epoch {record.epoch}")
    if record.acknowledging == acknowledging:
        return Settled(record)
    return Write(record.model_copy(update={"acknowledging": acknowledging, "changed_at": at}))


def standing(
    record: OwnershipRecord, region: str, instance: str, lineage: str | None, strengths: Mapping[str, Strength]
) -> Write | Settled | Refusal:
    """Notes whose data the owner has (None: not known now), for when it is silent a standby is held against this before
    it is promoted; and how strong the fences of its stores are, for the proof that they are fenced.

    Not while a fence is asked for: what the run chose its target by stays as it is.
    """
    if record.region != region or record.guard != instance:
        return Refusal(f"{record.group} is held by {record.guard} in {record.region}")
    if record.fencing is not None:
        return Refusal(f"the run {record.fencing.run} asked for the fence of epoch {record.epoch}")
    noted = {"lineage": lineage or record.lineage, "strengths": dict(strengths)}
    if (record.lineage, record.strengths) == tuple(noted.values()):
        return Settled(record)
    return Write(record.model_copy(update=noted))
