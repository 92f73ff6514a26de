"""``drctl restore --from-folder``: streams from folders of the ``nats`` command, put back from this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from rich.table import Table

from drctl.output import Output, confirm_group, note, print_json
from drctl.session import run, stores
from drctl.tables import console
from recovery.domain.words import listed, plural, size
from recovery.errors import BadInput, Unreachable
from recovery.ports.jetstream import RestoredStream, StreamRestoreOptions

if TYPE_CHECKING:
    from recovery.adapters.nats.folder import StreamFolder
    from recovery.config import Config


def restore_folder(
    config: Config,
    group: str,
    folder: Path,
    *,
    streams: list[str],
    region: str | None,
    target_stream: str | None,
    replicas: int | None,
    replace: bool,
    yes: bool,
    output: Output,
) -> None:
    """The command's work: without Temporal, by this machine's own connection to the region's NATS.

    Raises:
        BadInput, NotFound, Refused, Corrupt: of the folder or the target, before anything there is touched.
    """
    from recovery.adapters.nats.folder import read_folders

    where = _region(config, group, region)
    try:
        found = run(read_folders(folder, streams))
    except OSError as error:
        raise BadInput(f"{folder} cannot be read: {error}") from error
    names = [each.stream for each in found]
    if replace:
        lost = f"the {plural(len(names), 'stream')} {listed(names)}"
        confirm_group(group, f"This deletes in {where} {lost}, as it is now, for good.", yes=yes, output=output)
    options = StreamRestoreOptions(f"folder-{uuid4().hex}", replace=replace, stream=target_stream, replicas=replicas)

    def interrupted() -> str:
        return "interrupted: the stream that was being restored was deleted again; those before it are there"

    done = run(_restored(config, group, where, found, options, output), interrupted)
    if output is Output.JSON:
        print_json({"group": group, "region": where, "folder": str(folder), "streams": [asdict(each) for each in done]})
    else:
        _show(done, where)


def _region(config: Config, group: str, given: str | None) -> str:
    """Raises BadInput: who owns the group is not asked here, so it is said which region takes the streams."""
    known = [region.name for region in config.snapshot(group).regions if region.nats is not None]
    if given is not None and given in known:
        return given
    if given is not None or not known:
        there = f"it has one in {listed(known)}" if known else f"set groups.{group}.nats in the configuration"
        raise BadInput(f"group {group} has no NATS{f' in {given}' if given else ''}: {there}")
    if len(known) > 1:
        raise BadInput(f"--from-folder needs --to-region: {listed(known, 'or')}")
    return known[0]


async def _restored(
    config: Config, group: str, region: str, folders: list[StreamFolder], options: StreamRestoreOptions, output: Output
) -> list[RestoredStream]:
    from recovery.adapters.nats.folder import restore_folders

    def begun(folder: StreamFolder) -> None:
        note(f"restoring {folder.stream}: {size(folder.archive_bytes)} from {folder.path}", output, style="dim")

    async with stores(config) as wiring:
        recovery = await wiring.streams(group, region)
        try:
            return await restore_folders(recovery, folders, options, begun)
        except TimeoutError as error:
            raise Unreachable(f"NATS in {region} does not answer: {error or 'no answer in time'}") from error


def _show(done: list[RestoredStream], region: str) -> None:
    table = Table("Stream", "Messages", "Sequences", "Durable consumers", "Remarks", box=None, pad_edge=False)
    for each in done:
        consumers = ", ".join(each.consumers) or "none"
        table.add_row(
            each.stream, f"{each.messages:,}", f"{each.first_seq} to {each.last_seq}", consumers, "; ".join(each.notes)
        )
    console().print(f"Restored into {region}:")
    console().print(table)
