"""The checks: a manifest's promises held against what a restored server was seen to hold. Pure functions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from recovery.adapters.postgres.connection import quoted
from recovery.adapters.postgres.observation import Observation
from recovery.domain.recovery_point import BackupKind, CheckResult, Manifest, TableFingerprint

NOT_AVAILABLE = "not available"  # such a check passes, says so, and is named in the verdict's reason
NAMED = 5  # how many findings a sentence names
LOGGED_AHEAD = 33  # after a crash a sequence may stand up to 32 steps, and one, past its last value

_HOW = {
    "same-snapshot": "taken in the dump's own snapshot",
    "unchanged-tables": "of tables that did not change while the backup ran",
}


def judge(manifest: Manifest, seen: Observation, critical_tables: Sequence[str]) -> list[CheckResult]:
    """One result per check, all of them, in a fixed order."""
    physical = manifest.kind is BackupKind.PHYSICAL
    results = [
        check_readable(seen),
        check_critical(manifest, seen, critical_tables),
        check_fingerprints(manifest, seen),
        check_sequences(manifest, seen),
        check_large_objects(manifest, seen),
        check_roles(manifest, seen),
        check_extensions(manifest, seen),
    ]
    if physical:  # a logical restore builds its indexes anew
        results += [check_indexes(manifest, seen), check_collations(manifest, seen), check_canary(manifest, seen)]
    return [result.model_copy(update={"seconds": seen.seconds.get(result.name, 0.0)}) for result in results]


def check_readable(seen: Observation) -> CheckResult:
    """Every table was read to its last row."""
    rows = sum(content.rows for content in seen.contents.values())
    detail = f"{len(seen.contents)} tables with {rows} rows were read to the end"
    if seen.catalogue_tables:
        detail += f", and {seen.catalogue_tables} of the system catalogue"
    if seen.unreadable:
        detail = _named("not readable", [f"{name} ({words})" for name, words in sorted(seen.unreadable.items())])
    return CheckResult(name="tables-readable", passed=not seen.unreadable, detail=detail)


def check_critical(manifest: Manifest, seen: Observation, critical_tables: Sequence[str]) -> CheckResult:
    """Named tables exist, and are empty only where the source's were.

    A name may be ``table``, ``schema.table`` or ``database.schema.table``.
    """
    recorded = {entry.table: entry.rows for entry in manifest.postgres.tables}
    bad: list[str] = []
    for name in critical_tables:
        keys = [key for key in sorted(seen.tables) if matches(key, name)]
        if not keys:
            bad.append(f"{name} is missing")
        for key in keys:
            content = seen.contents.get(key)
            if content is not None and content.rows == 0 and recorded.get(key) != 0:
                bad.append(
                    f"{key} is empty" + ("" if key not in recorded else f", the source's had {recorded[key]} rows")
                )
    detail = _named("critical tables", bad) if bad else f"all {len(critical_tables)} are there"
    if not critical_tables:
        detail = "none are named in the configuration"
    return CheckResult(name="critical-tables", passed=not bad, detail=detail)


def matches(key: str, name: str) -> bool:
    """Whether ``name`` (table, schema.table or database.schema.table) means the table ``key``."""
    return key == name or key.endswith(f".{name}")


def check_fingerprints(manifest: Manifest, seen: Observation) -> CheckResult:
    """Rows and checksums are exactly those recorded, for every table that has a record and was read."""
    bad: list[str] = []
    compared = 0
    for entry in manifest.postgres.tables:
        if entry.table not in seen.tables:
            bad.append(f"{entry.table} is missing")
        elif entry.table in seen.contents:
            compared += 1
            bad += _difference(entry, seen)
    how = _HOW.get(manifest.postgres.fingerprints_taken or "", "")
    total = manifest.postgres.table_count or len(seen.tables)
    detail = f"{compared} of {total} tables are equal in rows and checksum to records {how}".strip()
    if bad:
        detail = _named("differ from the source", bad)
    return CheckResult(name="fingerprints", passed=not bad, detail=detail)


def _difference(entry: TableFingerprint, seen: Observation) -> list[str]:
    content = seen.contents[entry.table]
    if content.rows != entry.rows:
        return [f"{entry.table} has {content.rows} rows instead of {entry.rows}"]
    sums = ((entry.checksum, content.checksum), (entry.hashes, content.values))
    if any(recorded is not None and found != recorded for recorded, found in sums):
        return [f"{entry.table} has {entry.rows} rows, and their content differs"]
    return []


def check_sequences(manifest: Manifest, seen: Observation) -> CheckResult:
    """Each sequence stands between its values before and after the backup."""
    source = manifest.postgres
    bad: list[str] = []
    compared = 0
    for key, before in sorted(source.sequences.items()):
        after = source.sequences_after.get(key)
        if after is None:
            continue  # dropped or made to wrap around while the backup ran
        if key not in seen.sequences:
            bad.append(f"{key} is missing")
            continue
        compared += 1
        value, step = seen.sequences[key]
        ahead = LOGGED_AHEAD * step if manifest.kind is BackupKind.PHYSICAL else 0
        low, high = sorted((before, after))
        low, high = low + min(ahead, 0), high + max(ahead, 0)
        if not low <= value <= high:
            bad.append(f"{key} stands at {value}, and must be between {low} and {high}")
    detail = _named("wrong", bad) if bad else f"{compared} sequences stand where they stood during the backup"
    return CheckResult(name="sequences", passed=not bad, detail=detail)


def check_large_objects(manifest: Manifest, seen: Observation) -> CheckResult:
    """As many as were recorded, with the same content, wherever that is known."""
    source = manifest.postgres
    bad: list[str] = []
    for database, checksum in sorted(source.large_object_checksums.items()):
        found = seen.large_objects.get(database)
        if found is not None and found.checksum != checksum:
            bad.append(f"those of {database} differ")
    found_count = sum(found.count for found in seen.large_objects.values())
    exact = manifest.kind is BackupKind.LOGICAL and set(seen.large_objects) >= set(source.databases)
    if exact and found_count != source.large_objects:
        bad.append(f"{found_count} instead of {source.large_objects}")
    known = len(set(source.large_object_checksums) & set(seen.large_objects))
    detail = f"{found_count} are there, and their content is equal in {known} of {len(source.databases)} databases"
    if bad:
        detail = _named("large objects", bad)
    elif not seen.large_objects:
        detail = "not read here"
    return CheckResult(name="large-objects", passed=not bad, detail=detail)


def check_roles(manifest: Manifest, seen: Observation) -> CheckResult:
    """Every role of the source exists."""
    missing = [role for role in manifest.postgres.roles if role not in seen.roles]
    detail = _named("missing", missing) if missing else f"all {len(manifest.postgres.roles)} roles are there"
    return CheckResult(name="roles", passed=not missing, detail=detail)


def check_extensions(manifest: Manifest, seen: Observation) -> CheckResult:
    """Every extension is installed; in a physical point in the same version."""
    exact = manifest.kind is BackupKind.PHYSICAL

    def shown(entries: Sequence[str]) -> set[str]:
        return set(entries) if exact else {entry.rpartition(" ")[0] for entry in entries}

    missing = sorted(shown(manifest.postgres.extensions) - shown(seen.extensions))
    count = len(manifest.postgres.extensions)
    detail = _named("missing", missing) if missing else f"all {count} extensions are there"
    return CheckResult(name="extensions", passed=not missing, detail=detail)


def check_indexes(manifest: Manifest, seen: Observation) -> CheckResult:
    """B-tree indexes agree with their tables, where PostgreSQL's amcheck is at hand; it is said where it is not.

    One whose collation sorts differently here must disagree, however good the point is: ``check_collations`` tells it.
    """
    unordered = _unordered(manifest, seen)
    damaged = {name: words for name, words in seen.broken_indexes.items() if name not in unordered}
    if damaged:
        detail = _named("damaged", [f"{name} ({words})" for name, words in sorted(damaged.items())])
    elif seen.indexes_checked is None:
        detail = f"{NOT_AVAILABLE}: {seen.indexes_why_not}"
    elif unordered:
        sound = seen.indexes_checked - len(unordered)
        detail = f"amcheck found nothing wrong in {sound} B-tree indexes; " + _named("not judged", unordered)
    else:
        detail = f"amcheck found nothing wrong in {seen.indexes_checked} B-tree indexes"
    return CheckResult(name="indexes", passed=not damaged, detail=detail)


def check_collations(manifest: Manifest, seen: Observation) -> CheckResult:
    """Whether this server sorts text as the source's did, since its indexes came along.

    Where it does not, the point is as good as before: another server must rebuild indexes. So it passes, with a
    warning, unless amcheck found each index in the order of this server.
    """
    recorded = manifest.postgres.collation_versions
    changed = _changed_collations(manifest, seen)
    if not changed:
        return CheckResult(name="collations", passed=True, detail=f"{len(recorded)} have the versions of the source")
    named = [f"{name} ({recorded[name]} there, {seen.collations[name] or 'none'} here)" for name in changed]
    detail = _named("other versions than at the source", named)
    if seen.indexes_checked is not None and not seen.broken_indexes:
        detail += f"; amcheck found each of {seen.indexes_checked} B-tree indexes in the order of this server"
        return CheckResult(name="collations", passed=True, detail=detail)
    broken = _named("; not in the order of this server", unordered) if (unordered := _unordered(manifest, seen)) else ""
    warning = (
        f"text sorts differently here ({detail}{broken}): rebuild the indexes on this server before it is relied on, "
        f"or searches miss rows that are there: {'; '.join(_rebuild(manifest, changed))}"
    )
    return CheckResult(name="collations", passed=True, detail=detail + broken, warning=warning)


def _changed_collations(manifest: Manifest, seen: Observation) -> list[str]:
    recorded = manifest.postgres.collation_versions
    return sorted(name for name, version in seen.collations.items() if recorded.get(name, version) != version)


def _unordered(manifest: Manifest, seen: Observation) -> list[str]:
    """Indexes that amcheck does not find in order, by collations that have another version here."""
    changed = set(_changed_collations(manifest, seen))
    return sorted(name for name in seen.broken_indexes if changed & seen.sorted_by.get(name, set()))


def _rebuild(manifest: Manifest, changed: Sequence[str]) -> list[str]:
    """The command for each database."""
    commands = []
    for database in manifest.postgres.databases:
        statements = [f"ALTER DATABASE {quoted(database)} REFRESH COLLATION VERSION"] if database in changed else []
        others = [name.removeprefix(f"{database}.") for name in changed if name.startswith(f"{database}.")]
        statements += [f"ALTER COLLATION {quoted(name)} REFRESH VERSION" for name in others]
        if statements:
            statements.insert(0, f"REINDEX DATABASE {quoted(database)}")
            commands.append(
                shlex.join(["psql", "-d", database, *(part for each in statements for part in ("-c", each))])
            )
    return commands


def check_canary(manifest: Manifest, seen: Observation) -> CheckResult:
    """The row that was written before the stop LSN is there. A point without one says why."""
    value = manifest.postgres.canary
    if value is None:
        why = "; ".join(note for note in manifest.postgres.notes if "canary" in note) or "the source gave no reason"
        return CheckResult(name="canary", passed=True, detail=f"{NOT_AVAILABLE}: {why}")
    there = value in seen.canaries
    detail = f"{value!r} is there" if there else f"{value!r}, written before the backup ended, is not there"
    return CheckResult(name="canary", passed=there, detail=detail)


def _named(what: str, findings: Sequence[str]) -> str:
    more = f" and {len(findings) - NAMED} more" if len(findings) > NAMED else ""
    return f"{what}: {', '.join(findings[:NAMED])}{more}"
