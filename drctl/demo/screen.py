"""What the demo shows: scenes, live tables, figures. It degrades to plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from drctl.demo.contents import Comparison
from drctl.following import follow_run
from drctl.regions import region_table
from drctl.tables import checks_table, objectives_table, points_table, stores_table
from lab.two_writers import Verdict
from lab.workload import LossReport
from recovery.domain.recovery_point import CheckResult, RecoveryPoint
from recovery.domain.report import RunReport
from recovery.domain.words import duration, plural
from workers.operations import Handle
from workers.regions import RegionLine

TITLE = "recovery-plans: a backup is proven, a region is lost, and the service goes on"


class Screen:
    def __init__(self, console: Console) -> None:
        self.console = console
        self._scenes = 0

    def title(self) -> None:
        self.console.print()
        self.console.print(Text(TITLE, style="bold"))

    def scene(self, name: str, words: str) -> None:
        self._scenes += 1
        self.console.print()
        self.console.rule(Text(f"{self._scenes}. {name}", style="bold cyan"), align="left", characters="─")
        self.console.print(Padding(words, (0, 0, 1, 3), expand=False))

    def story(self, words: str) -> None:
        """The headline of a story, where more than one is told."""
        self.console.print()
        self.console.rule(Text(words, style="bold"), align="left", characters="═")

    def starting(self, line: str) -> None:
        self.console.print(Text(f"   {line}", style="dim"))

    def note(self, line: str) -> None:
        self.console.print(Text.assemble(("   ✓ ", "green"), line))

    def aside(self, line: str) -> None:
        self.console.print(Text(f"   {line}", style="dim"))

    def alarm(self, line: str) -> None:
        self.console.print(Text.assemble(("   ✗ ", "bold red"), (line, "bold")))

    async def follow(self, handle: Handle) -> RunReport:
        """A live table of the run until it ends."""
        report = await follow_run(self.console, handle)
        self.console.print()
        return report

    def points(self, points: list[RecoveryPoint]) -> None:
        self._table(points_table(points))

    def checks(self, checks: list[CheckResult]) -> None:
        self._table(checks_table(briefly(checks)))

    def objectives(self, report: RunReport) -> None:
        self._table(objectives_table(report))

    def stores(self, report: RunReport) -> None:
        """What each store of a recovered group lost, and how far apart they stand."""
        if report.recovered_set is not None:
            self._table(stores_table(report.recovered_set))

    def contents(self, comparisons: list[Comparison]) -> None:
        """What was counted in the stores before the loss, beside what is there now."""
        table = Table(title="Counted in the stores beside the database", title_justify="left")
        table.add_column("store", no_wrap=True)
        table.add_column("what")
        table.add_column("before the loss", justify="right")
        table.add_column("recovered", justify="right")
        for each in comparisons:
            style = "" if each.is_equal else "bold red"
            after = "missing" if each.after is None else each.after
            table.add_row(each.count.store, each.count.what, each.count.value, Text(after, style))
        self._table(table)
        differing = [each for each in comparisons if not each.is_equal]
        if differing:
            self.alarm(f"{len(differing)} of {len(comparisons)} figures are not what they were")
        else:
            self.note(f"all {len(comparisons)} figures are what they were before the loss")

    def told(self, titles: list[str]) -> None:
        """What people were told meanwhile, as their channel received it."""
        self.console.print(Text(f"   {len(titles)} notifications reached the webhook:", style="dim"))
        for title in titles:
            self.console.print(Text(f"     {title}", style="dim"))

    def loss(self, loss: LossReport, lost_commits_after: timedelta, silence: timedelta) -> None:
        """What the workload's own file says: counted, not estimated."""
        table = Table(title="Counted from the client's own file", title_justify="left", show_header=False)
        table.add_column("what")
        table.add_column("value", justify="right")
        table.add_row("transactions acknowledged in all", f"{loss.acknowledged:,}")
        table.add_row("found in the recovered database", f"{loss.present:,}")
        table.add_row("lost", Text(f"{loss.lost:,}", style="bold"))
        table.add_row("their span (counted RPO)", duration(lost_commits_after))
        table.add_row("the client could not buy for (its RTO)", duration(silence))
        self._table(table)

    def regions(self, lines: list[RegionLine]) -> None:
        """Who owns what, as ``drctl regions`` shows it."""
        self._table(region_table(lines))

    def planned(self, *, lost: int, pause: timedelta) -> None:
        """What a planned change of the region cost, counted from the client's own file."""
        table = Table(title="The way home, counted from the client's own file", title_justify="left", show_header=False)
        table.add_column("what")
        table.add_column("value", justify="right")
        table.add_row("acknowledged transactions lost", Text(f"{lost:,}", style="bold"))
        table.add_row("longest pause of the client (its RTO)", duration(pause))
        self._table(table)

    def writers(self, verdict: Verdict) -> None:
        """What the checker saw that tries to write to both sides all the time."""
        table = Table(title="Who accepted writes, asked of both sides all the time", title_justify="left")
        table.add_column("region")
        table.add_column("writes accepted", justify="right")
        table.add_column("of these after it had lost the group", justify="right")
        for region, count in verdict.counts.items():
            table.add_row(region, f"{count:,}", str(verdict.unowned.get(region, 0)))
        self._table(table)
        if verdict.two_writers:
            self.alarm(f"two regions accepted writes at once, for {verdict.overlap_seconds:.1f} s")
        else:
            self.note("never did two regions accept writes at the same time")

    def undo(self, report: RunReport) -> None:
        """The compensations in the order in which they ran."""
        table = Table(title="Undone, in reverse order", title_justify="left")
        table.add_column("#", justify="right")
        table.add_column("step")
        table.add_column("what its undo did")
        steps = {step.name: step for step in report.steps}
        for number, name in enumerate(report.undo_order, 1):
            step = steps[name]
            table.add_row(str(number), name, step.undo_error or step.undo_summary)
        self._table(table)

    def end(self, report_files: list[Path], took: timedelta) -> None:
        self.console.print()
        self.console.rule(Text("The end", style="bold cyan"), align="left", characters="─")
        one = len(report_files) == 1
        told = "story took" if one else f"{len(report_files)} stories took"
        what = "report of the recovery, as a page" if one else "reports of the recoveries, as pages"
        self.console.print(f"   The {told} {duration(took)}. The {what}:")
        for file in report_files:
            self.console.print(Text(f"   {file}", style="bold"), soft_wrap=True)

    def keep(self, ui_address: str, config_file: Path) -> None:
        self.console.print()
        self.console.print(f"   Everything stays up until Ctrl-C. Temporal: {ui_address}", soft_wrap=True)
        self.console.print(f"   Try: drctl --config {config_file} status", soft_wrap=True)

    def _table(self, table: Table) -> None:
        self.console.print(Padding(table, (1, 0, 0, 3), expand=False))


def briefly(checks: Iterable[CheckResult]) -> list[CheckResult]:
    """Of a location's sound objects one line, where each file has one of its own."""
    brief: list[CheckResult] = []
    files: dict[str, list[CheckResult]] = {}
    for check in checks:
        location, found, _ = check.name.partition(": objects ")
        if not found or not check.passed:
            brief.append(check)
            continue
        if location not in files:
            brief.append(check.model_copy(update={"name": f"{location}: objects"}))
        files.setdefault(location, []).append(check)
    return [_of_all(files.get(check.name.removesuffix(": objects"), []), check) for check in brief]


def _of_all(files: list[CheckResult], line: CheckResult) -> CheckResult:
    if not files:
        return line
    said = f"{plural(len(files), 'file')}: sizes and SHA-256 are those of the manifest"
    return line.model_copy(update={"detail": said, "seconds": sum(file.seconds for file in files)})
