"""RESTORE-BY-HAND.md: its commands name what is there. They are run as they stand in tests/system."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from recovery.backup import wal_by_hand
from recovery.backup.by_hand import by_hand
from recovery.domain.jetstream import JetStreamSource, StreamPart
from recovery.domain.managed import SnapshotCopy, SnapshotSource
from recovery.domain.recovery_point import Artefact, BackupKind, Manifest, RecoveryPoint, StoredObject
from recovery.domain.recovery_set import set_of
from recovery.domain.search import SearchIndex, SearchProduct, SearchServer, SearchSource
from tests.fakes.points import NOW, pg_source
from tests.fakes.redis import redis_source


def _artefact(point_id: str, store: str, name: str) -> Artefact:
    keys = [f"shop/{store}/{point_id}/attempt-1-0a1b2c3d/{name}.{index:06d}.zst.age" for index in range(2)]
    return Artefact(name=name, objects=[StoredObject(key=k, size=1, sha256="0" * 64, plain_size=1) for k in keys])


def _point(kind: BackupKind, names: list[str], **fields: object) -> RecoveryPoint:
    point_id = f"20261122T101500Z-{kind.value}-1a2b3c4d"
    manifest = Manifest.model_validate(
        {
            "point_id": point_id, "group": "shop", "kind": kind, "store": kind.store.value, "started_at": NOW,
            "finished_at": NOW + timedelta(seconds=9), "source_region": "region-a",
            "recipients": ["age1one", "age1two"],
            "run_id": "run-1", "artefacts": [_artefact(point_id, kind.store.value, name) for name in names], **fields,
        }
    )  # fmt: skip
    return RecoveryPoint(manifest=manifest, locations=["a"], manifest_sha256="digest")


PHYSICAL = _point(
    BackupKind.PHYSICAL,
    ["base.tar", "16401.tar", "backup_manifest"],
    source=pg_source(start_lsn="0/2000028", tablespaces={"16401": "/srv/fast disk"}),
)
LOGICAL = _point(BackupKind.LOGICAL, ["globals.sql", "shop.dump"], source=pg_source(databases=["shop"]))
PART = StreamPart(
    stream="orders", storage="file", replicas=1, retention="limits", archive_format=1, server_version="2.12.0",
    messages=1, at_least=1, bytes=1, archive_bytes=1, first_seq=1, first_seq_after=1, last_seq=1, began_at=NOW,
    finished_at=NOW,
)  # fmt: skip
STREAMS = _point(
    BackupKind.STREAMS, ["orders/backup.json", "orders/stream.tar.s2"],
    source=JetStreamSource(server_version="2.12.0", api_level=1, streams=[PART]),
)  # fmt: skip
RDB = _point(BackupKind.RDB, ["dump.rdb"], source=redis_source())
SEARCH = _point(
    BackupKind.SEARCH, [],
    source=SearchSource(
        server=SearchServer(
            product=SearchProduct.OPENSEARCH, version="2.19.1", cluster="shop's", cluster_uuid="0a1b2c3d"
        ),
        repository="recovery", repository_type="s3",
        repository_settings={"bucket": "snapshots", "base_path": "recovery/region-a", "client": "default"},
        snapshot="recovery-20261122t101500z-search-1a2b3c4d", snapshot_uuid="uuid-1", patterns=["*"],
        global_state=False, shards=3, bytes=1, new_bytes=1, began_at=NOW, finished_at=NOW,
        indices=[
            SearchIndex(index=name, uuid="u", shards=1, docs=7) for name in ("orders", ".ds-logs-000001", ".internal")
        ],
        data_streams={"logs": [".ds-logs-000001"]},
    ),
)  # fmt: skip
SNAPSHOT = _point(
    BackupKind.SNAPSHOT, [],
    source=pg_source(
        stop_lsn=None,
        snapshot=SnapshotSource(
            name="recovery-20261122t101500z-snapshot-1a2b3c4d", instance="shop-production",
            instance_class="db.r6g.large", began_at=NOW, taken_at=NOW,
            copies={
                "frankfurt": SnapshotCopy(arn="arn:aws:rds:eu-central-1:1:snapshot:s"),
                "ireland": SnapshotCopy(arn="arn:aws:rds:eu-west-1:1:snapshot:s"),
            },
        ),
    ),
)  # fmt: skip
EVERY = (PHYSICAL, LOGICAL, STREAMS, RDB, SEARCH, SNAPSHOT)


def _page(*points: RecoveryPoint) -> str:
    found = set_of(points, set_id="20261122T101500Z-set", run_id="run-1")
    return by_hand(found, [point.manifest for point in points])


def test_every_member_has_its_commands() -> None:
    page = _page(*EVERY)
    assert {point.manifest.kind for point in EVERY} == set(BackupKind), "a kind without commands"
    for point in (point for point in EVERY if point.manifest.artefacts):
        assert f"check {point.point_id}\n" in page
        assert f'"$LOCATION/shop/{point.manifest.store}/{point.point_id}"' in page
    assert f"open_all {PHYSICAL.point_id}/attempt-1-0a1b2c3d/base.tar | tar -x -C data\n" in page
    assert "mkdir -p '/srv/fast disk' && open_all" in page
    assert "pg_verifybackup" not in page, "it knows nothing of tablespaces that were put elsewhere"
    assert f"open_all {LOGICAL.point_id}/attempt-1-0a1b2c3d/shop.dump | pg_restore --create -d postgres\n" in page
    assert "nats stream restore ./streams/orders\n" in page
    assert f"open_all {RDB.point_id}/attempt-1-0a1b2c3d/dump.rdb > dump.rdb\nredis-check-rdb dump.rdb\n" in page
    assert "restore-db-instance-from-db-snapshot --region eu-west-1 --db-snapshot-identifier recovery-20261122t" in page
    assert page.count("- `age1") == 2


def test_what_is_shell_is_valid_shell() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", _page(*EVERY), re.DOTALL)
    assert len(blocks) == 14
    checked = subprocess.run(["bash", "-n"], input="\n".join(blocks), text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_a_point_without_tablespaces_is_verified() -> None:
    page = _page(_point(BackupKind.PHYSICAL, ["base.tar", "backup_manifest"], source=pg_source()))
    assert "pg_verifybackup data\n" in page
    assert "wal.py" not in page, "where it began is not known"


def test_a_copy_is_kept_apart_from_the_old_servers_and_may_go_on_with_their_wal() -> None:
    page = _page(PHYSICAL)
    apart = page[page.index("rm -f data/standby.signal") : page.index("pg_ctl -D data")]
    assert "archive_mode = off\nprimary_conninfo = ''\nsynchronous_standby_names = ''\n" in apart
    assert '"$LOCATION/shop/postgres-wal/7300000000000000001" wal-archive\n' in apart
    assert 'python3 wal.py wal-archive wal 1 0/2000028 0/3000100 ${UNTIL:+--until "$UNTIL"}' in apart
    printed = apart.partition("cat > wal.py <<'END'\n")[2].partition("\nEND\n")[0]
    assert printed + "\n" == Path(wal_by_hand.__file__).read_text()
    (settings,) = re.findall(r"^cat >> data/postgresql.auto.conf <<END\n.*?\nEND\n", page, re.DOTALL | re.MULTILINE)
    for moment in ("2026-11-22 10:14:30+00", ""):
        said = subprocess.run(
            ["bash", "-ec", settings.replace(">> data/postgresql.auto.conf ", "")],
            env={"PATH": "/usr/bin:/bin", "TIME": moment}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert said.endswith(f"recovery_target_time = '{moment}'\n" if moment else "'promote'\n\n")
        assert """cp "../wal/%f" "%p" || exit 126'""" in said


def test_an_incremental_backup_is_combined_with_all_that_it_builds_on() -> None:
    full = _point(BackupKind.PHYSICAL, ["base.tar", "backup_manifest"], source=pg_source())
    full_id = full.point_id.replace("1a2b3c4d", "00000000")
    own = _artefact(full_id, "postgres", "backup_manifest")
    key = own.objects[0].key.removesuffix(".age")
    readable = Artefact(name=own.name, objects=[own.objects[0].model_copy(update={"key": key})], sealed=False)
    base = full.manifest.model_copy(
        update={"point_id": full_id, "artefacts": [_artefact(full_id, "postgres", "base.tar"), readable]}
    )
    last = _point(BackupKind.PHYSICAL, ["base.tar", "backup_manifest"], source=pg_source(bases=[full_id]))
    page = by_hand(set_of([last], set_id="20261122T101500Z-set", run_id="run-1"), [base, last.manifest])
    assert page.count(f"check {full_id}\n") == page.count(f"check {last.point_id}\n") == 1
    assert f"open_all {full_id}/attempt-1-0a1b2c3d/backup_manifest > {full_id}.data/backup_manifest\n" in page
    assert f"pg_combinebackup --output=data {full_id}.data {last.point_id}.data\npg_verifybackup data\n" in page
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    checked = subprocess.run(["bash", "-n"], input="\n".join(blocks), text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_objects_are_opened_whether_or_not_they_are_encrypted(tmp_path: Path) -> None:
    """With programs that only say that they ran."""
    page = _page(PHYSICAL)
    definition = page[page.index("open_all()") : page.index("# are they whole")]
    for name in ("base.tar.000000.zst.age", "base.tar.000001.zst.age", "own.000000.zst"):
        (tmp_path / name).write_text(f"{name}\n")
    programs = 'age() { echo "opened $(cat "${@: -1}")"; }; zstd() { cat; }\n'
    done = subprocess.run(
        ["bash", "-c", f"{programs}{definition}\nopen_all base.tar; open_all own"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "opened base.tar.000000.zst.age", "opened base.tar.000001.zst.age", "own.000000.zst",
    ]  # fmt: skip


def test_an_object_that_cannot_be_opened_ends_its_line(tmp_path: Path) -> None:
    """And of two databases, one of which is called like the other's dump, none gets the other's objects."""
    page = _page(LOGICAL)
    definition = page[page.index("set -o pipefail") : page.index("# are they whole")]
    names = (
        "shop.dump.000000.zst",
        "shop.dump.000001.zst.age",
        "shop.dump.000002.zst",
        "shop.dump.old.dump.000000.zst",
    )
    for name in names:
        (tmp_path / name).write_text(f"{name}\n")

    def opened(age: str) -> subprocess.CompletedProcess[str]:
        programs = f"age() {{ {age}; }}; zstd() {{ cat; }}\n"
        command = f"{programs}{definition}\nopen_all shop.dump | cat"
        return subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)

    whole, damaged = opened('cat "${@: -1}"'), opened("return 1")
    assert (whole.returncode, whole.stdout.split()) == (0, list(names[:3]))
    assert (damaged.returncode, damaged.stdout.split()) == (1, [names[0]]), "nothing follows what is missing"


def test_names_are_only_names_to_the_shell(tmp_path: Path) -> None:
    """Of streams, databases and folders, which their owners choose."""
    odd = "-p 'a' \"b\" $(touch bad) `touch bad`;touch bad&"
    part = PART.model_copy(update={"stream": odd.replace(" ", "_")})
    streams = _point(
        BackupKind.STREAMS, [quote(f"{part.stream}/{name}", safe="") for name in ("backup.json", "stream.tar.s2")],
        source=JetStreamSource(server_version="2.12.0", api_level=1, streams=[part]),
    )  # fmt: skip
    logical = _point(
        BackupKind.LOGICAL, ["globals.sql", quote(f"{odd}.dump", safe="")], source=pg_source(databases=[odd])
    )
    physical = _point(
        BackupKind.PHYSICAL, ["base.tar", "16401.tar", "backup_manifest"],
        source=pg_source(tablespaces={"16401": f"{tmp_path}/{odd}"}),
    )  # fmt: skip
    points = [physical, logical, _named(streams, part), _named(logical, None, odd)]
    page = _page(points[0], points[3], points[2])
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    programs = "aws() { :; }; sha256sum() { :; }; python3() { :; }; open_all() { :; }; tar() { :; }; psql() { cat; }\n"
    programs += 'pg_restore() { cat; }; pg_verifybackup() { :; }; pg_ctl() { :; }; nats() { echo "$3"; }\n'
    commands = re.sub(r"open_all\(\) \{.*?done; \}\n", "", commands, flags=re.DOTALL)
    commands = re.sub(r"check\(\) \{.*?--quiet; \}\n", "check() { :; }\n", commands, flags=re.DOTALL)
    done = subprocess.run(
        ["bash", "-e", "-c", programs + commands], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"./streams/{part.stream}\n"
    assert not list(tmp_path.rglob("bad"))
    assert (tmp_path / odd).is_dir() and (tmp_path / "streams" / part.stream / "backup.json").exists()


def _named(point: RecoveryPoint, part: StreamPart | None, database: str = "") -> RecoveryPoint:
    """With artefacts that are called as their stream or database is: only their keys are quoted."""
    own = (
        [f"{part.stream}/backup.json", f"{part.stream}/stream.tar.s2"] if part else ["globals.sql", f"{database}.dump"]
    )
    pairs = zip(point.manifest.artefacts, own, strict=True)
    artefacts = [artefact.model_copy(update={"name": name}) for artefact, name in pairs]
    return replace_manifest(point, artefacts)


def replace_manifest(point: RecoveryPoint, artefacts: list[Artefact]) -> RecoveryPoint:
    return point.model_copy(update={"manifest": point.manifest.model_copy(update={"artefacts": artefacts})})


def test_a_snapshot_is_restored_by_the_engines_own_api(tmp_path: Path) -> None:
    """The page's commands as they stand, with a curl that notes what it is asked."""
    (block,) = re.findall(r"```sh\n(SEARCH=.*?)```", _page(SEARCH), re.DOTALL)
    note = 'import json, sys; print(json.dumps(sys.argv[sys.argv.index("-H") + 2:]))'
    (tmp_path / "curl").write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-c", note])} "$@"\n')
    (tmp_path / "curl").chmod(0o700)
    said = subprocess.run(
        ["bash", "-e"],
        input=block,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        text=True,
        capture_output=True,
        check=True,
    )
    register, look, restore, _ = (json.loads(line) for line in said.stdout.splitlines() if line)
    place, name = "https://localhost:9200/_snapshot/by-hand", "recovery-20261122t101500z-search-1a2b3c4d"
    assert register[:3] == ["-X", "PUT", place]
    settings = {"bucket": "snapshots", "base_path": "recovery/region-a", "client": "default", "readonly": "true"}
    assert json.loads(register[4]) == {"type": "s3", "settings": settings}
    assert look == [f"{place}/{name}"]
    assert restore[:3] == ["-X", "POST", f"{place}/{name}/_restore?wait_for_completion=true"]
    assert json.loads(restore[4])["indices"] == "orders,logs"
    assert f'aws s3 cp --recursive "$LOCATION/shop/search/{SEARCH.point_id}' not in _page(SEARCH)
