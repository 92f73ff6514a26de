"""When a standby may receive from the owner, and when it has to stop: rules for the guard of its region. Pure."""

from __future__ import annotations

from recovery.domain.guarding import GuardOrder
from recovery.domain.ownership import OwnershipRecord


def against_stopping(record: OwnershipRecord, order: GuardOrder, region: str) -> str | None:
    """None when a standby of ``region`` may be told to receive nothing more for this order's fence; else why not.

    What stopped must not receive again while the record carries that request: ``against_following`` sees to it.
    """
    if record.region == region:
        return f"{region} owns {record.group}: it receives from nobody"
    asked = record.fencing
    if asked is None or (asked.run, asked.target, asked.epoch) != (order.run, order.target, order.epoch):
        return f"the run {order.run} does not ask for the fence of {record.group} in epoch {order.epoch}"
    if order.epoch != record.epoch:
        return f"{record.group} is at epoch {record.epoch}, the order is for epoch {order.epoch}"
    return None


def against_following(record: OwnershipRecord, region: str) -> str | None:
    """None when a standby of ``region`` may begin to follow the owner now; else why not."""
    if record.region == region:
        return f"{region} owns {record.group}: its stores follow nobody"
    if record.fencing is not None:
        return f"the run {record.fencing.run} asks for the fence of {record.region}: nobody begins to follow it"
    return None
