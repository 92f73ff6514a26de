"""The rows of the mutation tests name text that stands in the source: a guard that is rewritten takes its row along."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.mutation import Mutation
from tests.integration.test_mutations import FURTHER, MUTATIONS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutation", [*MUTATIONS, *FURTHER], ids=lambda mutation: mutation.name)
def test_what_is_switched_off_stands_in_the_source_once(mutation: Mutation) -> None:
    source = (ROOT / f"{mutation.module.replace('.', '/')}.py").read_text()
    assert source.count(mutation.old) == 1, f"{mutation.module}: {mutation.old!r}"
    module, _, function = mutation.test.partition("::")
    tests = (ROOT / module).read_text()
    for name in re.findall(r"^from (tests\.\S+) import", tests, re.MULTILINE):  # where its class may have it from
        tests += (ROOT / f"{name.replace('.', '/')}.py").read_text()
    assert f"def {function.split('::')[-1].partition('[')[0]}(" in tests, mutation.test
