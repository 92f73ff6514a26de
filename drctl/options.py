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
Index = Annotated[
    list[str] | None,
    typer.Option(
        "--index", metavar="PATTERN", help="Search: only these indices and data streams; may be given several times."
    ),
]
RenamePattern = Annotated[
    str | None,
    typer.Option("--rename-pattern", metavar="REGEX", help="Search: what of an index's name is replaced (Java's)."),
]
RenameReplacement = Annotated[
    str | None, typer.Option("--rename-replacement", metavar="TEXT", help="Search: by what; $1 is the first group.")
]
Aliases = Annotated[
    bool, typer.Option("--aliases/--no-aliases", help="Search: move the aliases to the restored indices at the end.")
]
GlobalState = Annotated[
    bool,
    typer.Option("--global-state", help="Search: templates, persistent settings and pipelines, too. Stays if undone."),
]
Repository = Annotated[
    str | None,
    typer.Option("--repository", metavar="NAME", help="Search: the point's repository as the target's cluster has it."),
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
