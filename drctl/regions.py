"""``drctl regions``: who owns each group, since which epoch, and how the other regions stand to it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from drctl import words
from drctl.output import ConfigFile, Form, Output, examples, print_json
from drctl.session import load_config, run, stores
from drctl.tables import console

if TYPE_CHECKING:
    from recovery.config import Config
    from recovery.domain.guarding import StoreState
    from workers.regions import RegionLine

app = typer.Typer(rich_markup_mode="rich")


@app.command(epilog=examples("drctl regions", "drctl regions --group shop --output json"))
def regions(
    group: Annotated[str | None, typer.Option("--group", "-g", help="Only this group.")] = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Show who owns each group, since which epoch, each region's lease, lag and health.

    The ownership record says who owns; the guards say how their stores are. Temporal is not asked.
    """
    loaded = load_config(config)
    if group is not None:
        loaded.group(group)
    lines = run(_lines(loaded, [group] if group is not None else list(loaded.groups)))
    if output is Output.JSON:
        print_json([_document(line) for line in lines])
    else:
        console().print(region_table(lines))


async def _lines(config: Config, names: list[str]) -> list[RegionLine]:
    from workers.regions import region_lines

    async with stores(config) as wiring:
        return await region_lines(wiring, names)


def region_table(lines: list[RegionLine], *, unicode: bool | None = None) -> Table:
    """A row for each group and region. Colour is never the only sign."""
    unicode = words.is_unicode() if unicode is None else unicode
    columns = (
        "Group", "Region", Column("Priority", justify="right"), "Owner", Column("Lease", justify="right"),
        Column("Lag", justify="right"), Column("Health and stores", ratio=1),
    )  # fmt: skip
    table = Table(*columns, box=None, pad_edge=False, expand=True)
    table.title, table.title_justify, table.title_style = "Who owns what", "left", "bold"
    for line in lines:
        health = line.trouble or ("well" if line.stores else "unknown")
        changing = f"; {line.run} is changing it" if line.owns and line.run else ""
        state = Text(words.plain(health + changing, unicode), "bold red" if line.trouble else "green")
        for store in line.stores:
            state.append(f"\n{words.plain(_role(store), unicode)}", "default")
        table.add_row(
            line.group,
            line.region + (f" (at {line.site})" if line.site not in (None, line.region) else ""),
            str(line.priority),
            Text(_owner(line), "bold"),
            _lease(line),
            _seconds(line.lag_seconds) if not line.owns else "",
            state,
        )
    return table


def _owner(line: RegionLine) -> str:
    return "" if not line.owns else "owner" if line.epoch is None else f"epoch {line.epoch}"


def _role(state: StoreState) -> str:
    """``redis standby (guard)``: what keeps it from a second primary, where its guard says so."""
    return f"{state.store} {state.role.value}" + (f" ({state.strength.value})" if state.strength else "")


def _lease(line: RegionLine) -> str:
    age = _seconds(line.lease_age)
    return f"{age} old" if line.holds_lease else f"none ({age} old)" if line.lease_age is not None else words.NOTHING


def _seconds(value: float | None) -> str:
    return words.NOTHING if value is None else words.duration(timedelta(seconds=max(value, 0.0)))


def _document(line: RegionLine) -> dict[str, Any]:
    document = asdict(line)
    document["stores"] = [state.model_dump(mode="json") for state in line.stores]
    return {**document, "lag_seconds": line.lag_seconds}
