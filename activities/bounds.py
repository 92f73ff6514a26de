"""What a step may hand to its run: bounded, because Temporal refuses payloads of more than 2 MiB.

A refused result is tried again until the step's budget is used up, and a refused input jams the run for ever. What is
left out here stands in full in the logs, the manifests and the verdicts.
"""

from __future__ import annotations

from recovery.domain.handover import StoreDivergence
from recovery.domain.plan import StepOutcome
from recovery.domain.recovery_point import CheckResult, Verdict
from recovery.errors import BadInput

LONGEST_SENTENCE = 1_000  # characters
MOST_WARNINGS = 50
MOST_CHECKS = 200
MOST_FILES = 100  # of a divergence, and of the transactions that are named
LARGEST_OUTCOME = 512 * 1024  # bytes; it travels with every later step


def bounded(outcome: StepOutcome) -> StepOutcome:
    """The outcome, shortened where it is too long; checks that failed are kept before those that passed.

    Raises:
        BadInput: what the following steps need is larger than a payload may be.
    """
    facts, warnings = outcome.facts, list(outcome.warnings)
    if facts.verdicts is not None:
        facts = facts.model_copy(update={"verdicts": _verdicts(facts.verdicts)})
    if facts.divergences is not None:
        facts = facts.model_copy(update={"divergences": [_divergence(found) for found in facts.divergences]})
    if len(warnings) > MOST_WARNINGS:
        warnings[MOST_WARNINGS - 1 :] = [f"{len(warnings) - MOST_WARNINGS + 1} further warnings are in the log"]
    checks = _checks(outcome.checks, MOST_CHECKS)
    if len(checks) < len(outcome.checks):
        warnings.append(f"{len(outcome.checks) - len(checks)} of {len(outcome.checks)} checks are not listed here")
    result = outcome.model_copy(
        update={
            "summary": shortened(outcome.summary),
            "warnings": [shortened(warning) for warning in warnings],
            "checks": checks,
            "facts": facts,
        }
    )
    size = len(result.model_dump_json())
    if size > LARGEST_OUTCOME:
        raise BadInput(
            f"the outcome of this step has {size:,} bytes, and a run can carry {LARGEST_OUTCOME:,}: "
            "ask for less at once (a shorter --since, fewer tables)"
        )
    return result


def shortened(sentence: str) -> str:
    return sentence if len(sentence) <= LONGEST_SENTENCE else sentence[: LONGEST_SENTENCE - 1] + "…"


def _checks(checks: list[CheckResult], most: int) -> list[CheckResult]:
    if len(checks) > most:
        failed = [check for check in checks if not check.passed][:most]
        kept = {id(check) for check in [*failed, *[check for check in checks if check.passed][: most - len(failed)]]}
        checks = [check for check in checks if id(check) in kept]
    return [
        check.model_copy(update={name: shortened(getattr(check, name)) for name in ("name", "detail", "warning")})
        for check in checks
    ]


def _divergence(found: StoreDivergence) -> StoreDivergence:
    return found.model_copy(
        update={
            "files": found.files[:MOST_FILES],
            "listed": [shortened(line) for line in found.listed[:MOST_FILES]],
            "detail": shortened(found.detail),
        }
    )


def _verdicts(verdicts: list[Verdict]) -> list[Verdict]:
    most = MOST_CHECKS // max(len(verdicts), 1)
    return [
        verdict.model_copy(update={"reason": shortened(verdict.reason), "checks": _checks(verdict.checks, most)})
        for verdict in verdicts
    ]
