"""Options of ``drctl restore``: what of a recovery point is put where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recovery.domain.redis import Way

ToRegion = Annotated[
    str | None, typer.Option("--to-region", help="The region whose worker restores; else the owner's.")
]
TargetDirectory = Annotated[
    Path | None,
    typer.Option(
        "--target-directory", help="Physical: an empty folder for the new server. Redis: a stopped server's folder."
    ),
]
TargetPort = Annotated[
    int | None, typer.Option("--target-port", min=1, max=65535, help="Physical: the new server's port.")
]
TargetDatabase = Annotated[str | None, typer.Option("--target-database", help="Logical: the name of the new database.")]
TargetInstance = Annotated[
    str | None, typer.Option("--target-instance", help="Snapshot: the name of the new RDS instance.")
]
FromFolder = Annotated[
    Path | None,
    typer.Option(
        "--from-folder",
        metavar="FOLDER",
        help="JetStream: a backup that the nats command made of a stream or an account, on this machine.",
    ),
]
Streams = Annotated[
    list[str] | None, typer.Option("--stream", help="JetStream: only this stream; may be given several times.")
]
TargetStream = Annotated[
    str | None, typer.Option("--target-stream", help="JetStream: the stream's name, which it must keep.")
]
Replicas = Annotated[
    int | None,
    typer.Option("--replicas", min=0, max=20, help="JetStream, search: so many; else as many as at the source."),
]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="JetStream, search: delete what exists under these names. Redis: delete what the server holds. "
        "Undoing brings nothing back.",
    ),
]
WayOption = Annotated[
    Way | None,
    typer.Option(
        "--way",
        help="Redis: let the server replicate from a scratch server, or give it key by key; else what fits.",
    ),
]
AppendOnly = Annotated[
    bool, typer.Option("--append-only", help="Redis: the server in --target-directory has an append-only file.")
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
