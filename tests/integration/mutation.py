"""One row of the mutation tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """``old`` in the source of ``module`` becomes ``new``; ``test`` must fail then."""

    name: str
    module: str
    old: str
    new: str
    test: str


def row(name: str, module: str, old: str, new: str, test: str) -> Mutation:
    return Mutation(name, module, old, new, test)
