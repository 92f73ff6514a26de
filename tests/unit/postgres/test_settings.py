"""Configuration of a restored server: ours, safe everywhere, with what recovery needs."""

from __future__ import annotations

from pathlib import Path

from recovery.adapters.postgres.canary import lsn_number
from recovery.adapters.postgres.connection import literal, quoted
from recovery.adapters.postgres.settings import (
    end_recovery,
    settings_for,
    socket_folder,
    write_configuration,
    write_read_only,
)
from recovery.domain.recovery_point import PostgresSource

SOURCE = PostgresSource(
    system_identifier="1",
    server_version="16.14",
    major=16,
    timeline=1,
    settings={"DateStyle": "ISO, DMY", "archive_mode": "on"},
)
CONTROL = {"max_connections setting": "500", "max_prepared_xacts setting": "7", "Latest checkpoint location": "0/1"}


def test_what_must_not_be_smaller_is_kept_and_the_archive_stays_off() -> None:
    found = settings_for(SOURCE, CONTROL, ["pg_stat_statements"], False, {"port": "5433", "max_connections": "600"})
    assert found["max_prepared_transactions"] == "7"
    assert found["max_connections"] == "600", "the operator's wish wins"
    assert found["DateStyle"] == "ISO, DMY"
    assert found["archive_mode"] == "off", "never the source's"
    assert found["shared_preload_libraries"] == "pg_stat_statements"
    assert found["ssl"] == "off"


def test_files_of_the_source_are_kept_aside_and_recovery_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "postgresql.conf").write_text("include '/etc/missing.conf'\n")
    (tmp_path / "postgresql.auto.conf").write_text("primary_conninfo = 'host=old'\n")
    (tmp_path / "pg_hba.conf").write_text("# theirs\n")
    (tmp_path / "standby.signal").touch()
    write_configuration(tmp_path, {"a": "it's \\ here"}, read_only=True, user=None)
    text = (tmp_path / "postgresql.conf").read_text()
    assert "a = 'it''s \\\\ here'" in text
    assert "missing.conf" not in text
    assert (tmp_path / "postgresql.conf.source").read_text() == "include '/etc/missing.conf'\n"
    assert (tmp_path / "postgresql.auto.conf").read_text() == ""
    assert (tmp_path / "pg_hba.conf").read_text() == "# theirs\n"
    assert not (tmp_path / "standby.signal").exists(), "a copy of a standby must not become one"
    assert (tmp_path / "recovery.signal").exists()
    recovery = tmp_path / "recovery-plans.recovery.conf"
    assert "recovery_target = 'immediate'" in recovery.read_text()
    assert "recovery_init_sync_method = 'syncfs'" in recovery.read_text(), "not file by file once more"
    end_recovery(tmp_path, None)
    assert recovery.read_text() == ""
    read_only = tmp_path / "recovery-plans.read-only.conf"
    assert "default_transaction_read_only = on" in read_only.read_text()
    write_read_only(tmp_path, False, None)
    assert read_only.read_text() == ""


def test_a_source_with_its_access_rules_elsewhere_gets_none_without_passwords(tmp_path: Path) -> None:
    write_configuration(tmp_path, {}, read_only=False, user=None)
    assert "trust" not in (tmp_path / "pg_hba.conf").read_text()


def test_a_path_that_is_too_long_for_a_socket_gets_none() -> None:
    assert socket_folder(Path("/data")) == "/data"
    assert socket_folder(Path("/data/" + "x" * 100)) == ""


def test_positions_are_compared_as_numbers() -> None:
    assert lsn_number("1/0") > lsn_number("0/FFFFFFFF")
    assert lsn_number("A/10") > lsn_number("9/FFFFFFFF")


def test_names_and_texts_are_quoted() -> None:
    assert quoted('a"b') == '"a""b"'
    assert literal("it's") == "'it''s'"
    assert literal("a\\b'") == " E'a\\\\b'''"
