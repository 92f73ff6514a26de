"""Options that several commands have, each with one name, one short form and one help text."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from drctl.times import moment_or_span_ago
from recovery.domain.recovery_point import DataStore

Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the report.")]
Actor = Annotated[str | None, typer.Option("--actor", help="Who; else your login name.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", "--watch", help="Follow it to its end.")]
Approve = Annotated[
    bool, typer.Option("--approve", help="Consent beforehand, so that the plan does not wait for an approval.")
]
OfStore = Annotated[
    DataStore | None, typer.Option("--store", "-s", help="Only recovery points of this store of the group.")
]
OutageBegan = Annotated[
    datetime | None,
    typer.Option(
        "--outage-began",
        parser=moment_or_span_ago,
        metavar="TIME",
        help="What RTO and RPO are measured from: 2026-11-22T10:15:00Z (UTC), or how long ago: 12m. Else now.",
    ),
]
PointOption = Annotated[
    str | None, typer.Option("--point", metavar="ID", help="This recovery point; else the newest validated one.")
]
