"""The faults of `drctl lab`: kill, freeze, cut off, slow down and corrupt what it started, and mend it again."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from drctl.lab_output import FolderOption, act, attached, done, fail, name_of, run
from drctl.output import Form, Output, examples
from lab.errors import LabError
from lab.state import OUTSIDE

faults = typer.Typer(rich_markup_mode="rich")

RegionArgument = Annotated[str, typer.Argument(help="A region (region-a), witness, or a lone server (temporal, dns).")]
ServiceArgument = Annotated[
    str | None,
    typer.Argument(
        help="postgres, nats, redis, s3 or app; where guards run: guard, companion, worker, monitor. Without it: the "
        "whole region."
    ),
]


class Damage(StrEnum):
    """What can be corrupted."""

    POSTGRES_PAGE = "postgres-page"
    S3_OBJECT = "s3-object"


@faults.command(
    epilog=examples(
        "drctl lab kill region-a --with-disks", "drctl lab kill region-a postgres", "drctl lab kill temporal"
    )
)
def kill(
    region: RegionArgument,
    service: ServiceArgument = None,
    with_disks: Annotated[bool, typer.Option("--with-disks", help="Remove the data too.")] = False,
    folder: FolderOption = None,
    output: Form = Output.TEXT,
) -> None:
    """Kill a service or a whole region at once, as a power cut would."""
    disks = " with its disks" if with_disks else ""
    said = f"Killed {name_of(region, service)}{disks}."
    act(
        lambda lab: lab.kill(region, service, with_disks=with_disks),
        folder,
        output,
        said,
        region=region,
        service=service,
    )


@faults.command(epilog=examples("drctl lab freeze region-a postgres"))
def freeze(
    region: RegionArgument,
    service: ServiceArgument = None,
    folder: FolderOption = None,
    output: Form = Output.TEXT,
) -> None:
    """Freeze a service or a region: connections stay open and nothing answers."""
    said = f"Froze {name_of(region, service)}."
    act(lambda lab: lab.freeze(region, service), folder, output, said, region=region, service=service)


@faults.command(epilog=examples("drctl lab thaw region-a"))
def thaw(
    region: RegionArgument,
    service: ServiceArgument = None,
    folder: FolderOption = None,
    output: Form = Output.TEXT,
) -> None:
    """Let what was frozen go on."""
    said = f"Thawed {name_of(region, service)}."
    act(lambda lab: lab.thaw(region, service), folder, output, said, region=region, service=service)


@faults.command(epilog=examples("drctl lab restart region-a redis", "drctl lab restart temporal"))
def restart(
    region: RegionArgument,
    service: ServiceArgument = None,
    folder: FolderOption = None,
    output: Form = Output.TEXT,
) -> None:
    """Start a service again on its data, ending it first if it runs."""
    said = f"Restarted {name_of(region, service)}."
    act(lambda lab: lab.restart(region, service), folder, output, said, region=region, service=service)


@faults.command(
    epilog=examples("drctl lab partition region-a region-b", "drctl lab partition region-a region-b --one-way")
)
def partition(
    one: Annotated[str, typer.Argument(help="A region, witness, control or outside.")],
    other: Annotated[str, typer.Argument(help="The place that it shall hear nothing of.")] = OUTSIDE,
    one_way: Annotated[
        bool, typer.Option("--one-way", help="Only what the first sends to the second is lost.")
    ] = False,
    folder: FolderOption = None,
    output: Form = Output.TEXT,
) -> None:
    """Cut the network between two places, without closing a connection."""
    said = f"{other} does not hear {one}." if one_way else f"{one} and {other} cannot hear each other."
    act(
        lambda lab: lab.partition(one, other, one_way=one_way),
        folder,
        output,
        said,
        one=one,
        other=other,
        one_way=one_way,
    )


@faults.command(epilog=examples("drctl lab isolate region-a", "drctl lab isolate region-a --keep witness"))
def isolate(
    place: Annotated[str, typer.Argument(help="A region, witness, control, outside or clients.")],
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="A place that it still hears; may be repeated.")
    ] = None,
    folder: FolderOption = None,
    output: Form = Output.TEXT,
) -> None:
    """Cut a place off from all others: a region that is lost without a word."""
    left = f" but {', '.join(keep)}" if keep else ""
    said = f"{place} hears nobody{left}, and nobody hears it."
    act(lambda lab: lab.isolate(place, keep=keep or ()), folder, output, said, place=place, keep=keep or [])


@faults.command(
    epilog=examples("drctl lab slow region-a postgres --seconds 3", "drctl lab slow region-a postgres --seconds 0")
)
def slow(
    place: Annotated[str, typer.Argument(help="A region, witness, control, outside or clients.")],
    service: Annotated[str | None, typer.Argument(help="One service of it; without it all that it sends.")] = None,
    seconds: Annotated[
        float, typer.Option(help="How many seconds late everything arrives, each way; 0 ends it.")
    ] = 1.0,
    folder: FolderOption = None,
    output: Form = Output.TEXT,
) -> None:
    """Let what a place or a service sends and gets arrive late."""
    said = f"{name_of(place, service)} is {seconds:g} s late each way." if seconds else "It is as fast as before."
    act(
        lambda lab: lab.slow(place, service, seconds=seconds),
        folder,
        output,
        said,
        place=place,
        service=service,
        seconds=seconds,
    )


@faults.command(epilog=examples("drctl lab heal"))
def heal(folder: FolderOption = None, output: Form = Output.TEXT) -> None:
    """End every partition and every delay."""
    act(lambda lab: lab.heal(), folder, output, "The network is whole.")


@faults.command(
    epilog=examples(
        "drctl lab corrupt region-a postgres-page --table orders", "drctl lab corrupt region-b s3-object --key KEY"
    )
)
def corrupt(
    region: Annotated[str, typer.Argument(help="A region, or witness for its S3 store.")],
    what: Annotated[Damage, typer.Argument(help="postgres-page or s3-object.")],
    table: Annotated[str | None, typer.Option(help="The table (default: orders).")] = None,
    block: Annotated[int | None, typer.Option(help="The table's block (default: 0).")] = None,
    key: Annotated[str | None, typer.Option(help="The object (default: the largest).")] = None,
    offset: Annotated[int | None, typer.Option(help="The byte in the page or object (default: the middle).")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Leave the object's byte out, not flip a bit.")] = False,
    folder: FolderOption = None,
    output: Form = Output.TEXT,
) -> None:
    """Damage one bit of what is stored, without telling anybody."""
    page, stored = {"table": table, "block": block}, {"key": key, "missing": missing or None}
    wrong = stored if what is Damage.POSTGRES_PAGE else page
    if any(value is not None for value in wrong.values()):
        given = ", ".join(f"--{name}" for name, value in wrong.items() if value is not None)
        fail(LabError(f"{given} does not go with {what.value}: see drctl lab corrupt --help"))
    choice = {**(page if what is Damage.POSTGRES_PAGE else stored), "offset": offset}

    async def work() -> str:
        chosen = {name: value for name, value in choice.items() if value is not None}
        return await attached(folder).corrupt(region, what.value, **chosen)

    done(output, done=run(work()), region=region, what=what.value)
