"""What was measured, as tables of Markdown: rows beside each other, and each limit with its verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.backups.measuring import Row

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Verdict:
    """One limit. ``least``: the figure must not be smaller, else not larger."""

    what: str
    figure: float
    limit: float
    unit: str = ""
    least: bool = False

    @property
    def reached(self) -> bool:
        return self.figure >= self.limit if self.least else self.figure <= self.limit


class Rows:
    """All contestants' rows, in the order in which they first ran."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def __getitem__(self, name: str) -> Row:
        return self._rows.setdefault(name, Row(name))

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def measured(self, *names: str) -> bool:
        """Whether each of these ran."""
        return all(name in self._rows and self._rows[name].costs for name in names)

    def ratio(self, what: str, ours: str, theirs: str, limit: float, *, inverse: bool = False) -> list[Verdict]:
        """The verdict of two medians; none where one of them is missing. ``inverse``: theirs against ours."""
        if not self.measured(ours, theirs):
            return []
        one, other = self[ours].seconds, self[theirs].seconds
        if inverse:
            return [Verdict(what, other / one, limit, " x", least=True)]
        return [Verdict(what, one / other, limit, " x")]


def rows_table(rows: Sequence[Row]) -> str:
    """Medians with their spread."""
    lines = [
        "| | seconds, median | least to most | processor seconds | stored, MB | runs |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        least, most = row.spread
        stored = "" if row.stored is None else f"{row.stored / MEGABYTE:.0f}"
        lines.append(
            f"| {row.name} | {row.seconds:.2f} | {least:.2f} to {most:.2f} | {row.processor:.1f} | {stored} "
            f"| {len(row.costs)} |"
        )
    return "\n".join(lines)


def verdicts_table(verdicts: Iterable[Verdict]) -> str:
    """Limit, figure, reached or not."""
    lines = ["| asked for | limit | measured | |", "|---|---|---|---|"]
    for verdict in verdicts:
        bound = "at least" if verdict.least else "at most"
        reached = "reached" if verdict.reached else "**not reached**"
        lines.append(
            f"| {verdict.what} | {bound} {verdict.limit:g}{verdict.unit} | {verdict.figure:.2f}{verdict.unit} "
            f"| {reached} |"
        )
    return "\n".join(lines)
