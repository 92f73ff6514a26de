"""Options that name a moment after a recovery point, which archived WAL leads to."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from drctl.times import moment_or_span_ago
from recovery.domain.recovery_target import RecoveryTarget
from recovery.domain.timelines import lsn_order
from recovery.errors import BadInput

ToTime = Annotated[
    datetime | None,
    typer.Option(
        "--to-time",
        parser=moment_or_span_ago,
        metavar="TIME",
        help="With archived WAL: every commit until then, by the server's clock (2026-11-22T10:15:00Z, or 12m ago).",
    ),
]
ToLsn = Annotated[
    str | None, typer.Option("--to-lsn", metavar="LSN", help="With archived WAL: all of it before this position.")
]
ToXid = Annotated[
    int | None, typer.Option("--to-xid", min=3, help="With archived WAL: to the commit of this transaction.")
]
ToName = Annotated[
    str | None,
    typer.Option("--to-name", metavar="NAME", help="With archived WAL: to what pg_create_restore_point named."),
]
Latest = Annotated[bool, typer.Option("--latest", help="With archived WAL: to its end.")]
Timeline = Annotated[
    int | None,
    typer.Option("--timeline", min=1, help="The timeline by its number; else the only one that leads there."),
]


def target_of(
    time: datetime | None, lsn: str | None, xid: int | None, name: str | None, latest: bool, timeline: int | None
) -> RecoveryTarget | None:
    """The moment that was asked for; None: the recovery point's own end. Raises BadInput."""
    given = [time is not None, lsn is not None, xid is not None, name is not None, latest]
    if not any(given):
        if timeline is not None:
            raise BadInput("--timeline goes with --to-time, --to-lsn, --to-xid, --to-name or --latest")
        return None
    if sum(given) > 1:
        raise BadInput("expected one of --to-time, --to-lsn, --to-xid, --to-name and --latest, and not several")
    if lsn is not None:
        lsn_order(lsn)
    return RecoveryTarget(time=time, lsn=lsn, xid=xid, name=name, latest=latest, timeline=timeline)
