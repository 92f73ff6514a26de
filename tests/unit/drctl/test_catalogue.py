"""``drctl catalogue`` with a folder of objects, a public key, and nothing else."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from recovery.backup.documents import sign_manifest, sign_verdict
from recovery.backup.layout import manifest_key, verdict_key
from recovery.domain.recovery_point import BackupKind, Manifest, VerdictState
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import SIGNING, point, signer, verdict_on
from tests.unit.drctl.rig import MINIMAL, drctl

POINT = "20261122T101500Z-physical-1a2b3c4d"


def manifest_of(point_id: str) -> Manifest:
    manifest = point(kind=BackupKind.PHYSICAL).manifest
    stored = manifest.artefacts[0].objects[0]
    key = stored.key.replace("point-1", point_id)
    artefact = manifest.artefacts[0].model_copy(update={"objects": [stored.model_copy(update={"key": key})]})
    return manifest.model_copy(update={"point_id": point_id, "artefacts": [artefact]})


async def _fill(store: MemoryStore, state: VerdictState | None) -> None:
    signed = sign_manifest(manifest_of(POINT), signer())
    await store.put(signed.manifest.artefacts[0].objects[0].key, b"x")
    await store.put(manifest_key("shop", POINT), signed.body)
    if state is not None:
        verdict = verdict_on(signed.manifest, signed.digest, state=state)
        await store.put(verdict_key(verdict), sign_verdict(verdict, signer()))


def folder(root: Path, state: VerdictState | None = VerdictState.VALID) -> Path:
    """A location with one recovery point."""
    store = MemoryStore()
    asyncio.run(_fill(store, state))
    for key, body in store.objects.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(body)
    return root


@pytest.fixture
def near(tmp_path: Path) -> Path:
    return folder(tmp_path / "near")


def bare(tmp_path: Path, *places: Path) -> Path:
    """A file with nothing but where to look and whom to believe."""
    lines = [f"  {place.name}: {{url: 'file://{place}'}}" for place in places]
    file = tmp_path / "recovery.yaml"
    file.write_text(f"keys: {{trusted_signers: ['{SIGNING.public}']}}\nlocations:\n" + "\n".join(lines) + "\n")
    return file


def test_a_folder_and_a_public_key_are_enough(near: Path) -> None:
    said = drctl("catalogue", f"file://{near}", "--signer", SIGNING.public, config=None)
    assert said.exit_code == 0, said.output
    assert f"drctl recover --group shop --point {POINT}" in said.stdout
    assert "as of 2026-11-22 10:15:00 UTC" in " ".join(said.stdout.split())
    assert "To be looked at" not in said.stdout
    assert "write a recovery.yaml" in said.stdout
    answer = json.loads(
        drctl("catalogue", f"file://{near}", "--signer", SIGNING.public, "-o", "json", config=None).stdout
    )
    (group,) = answer["groups"]
    assert (group["group"], [each["point_id"] for each in group["points"]]) == ("shop", [POINT])
    assert [(each["subject"], each["proven"]) for each in group["recover"]] == [(POINT, True)]
    assert answer["locations"] == {f"file://{near}": {"url": f"file://{near}", "error": ""}}


def test_a_file_with_mistakes_elsewhere_is_enough(tmp_path: Path, near: Path) -> None:
    file = bare(tmp_path, near, folder(tmp_path / "far"))
    said = drctl("catalogue", config=file)
    assert said.exit_code == 0, said.output
    assert "only its locations and signers are used: recovery.yaml, " in said.stderr
    assert "near" in said.stdout and "far" in said.stdout
    file.write_text(file.read_text().replace("file:", "ftp:"))
    wrong = drctl("catalogue", config=file)
    assert (wrong.exit_code, "locations.near.url" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("state", [VerdictState.CORRUPT, None], ids=str)
def test_what_was_never_proven_ends_with_1(tmp_path: Path, state: VerdictState | None) -> None:
    said = drctl("catalogue", config=bare(tmp_path, folder(tmp_path / "near", state)))
    assert said.exit_code == 1, said.output
    assert ("damaged: " in said.stdout) is (state is not None)
    assert ("not validated" in said.stdout) is (state is None)
    assert "not recoverable: " in said.stdout


def test_who_is_not_trusted_is_named_and_not_believed(near: Path) -> None:
    stranger = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    said = drctl("catalogue", f"file://{near}", "--signer", stranger, config=None)
    assert said.exit_code == 1
    assert f"not believed: shop/postgres/{POINT}/manifest.json" in said.stdout
    assert "it is signed by the unknown key" in said.stdout
    assert "drctl recover" not in said.stdout


def test_names_of_others_cannot_write_to_the_terminal(near: Path) -> None:
    (near / "shop" / "postgres" / "x\x1b[2J").mkdir()
    (near / "y\x1b[2J").mkdir()
    said = drctl("catalogue", f"file://{near}", "--signer", SIGNING.public, config=None)
    assert said.stdout.count("[2J") == 2
    assert "\x1b" not in said.stdout


def test_a_location_that_cannot_be_read_ends_with_3_and_hides_nothing(tmp_path: Path, near: Path) -> None:
    said = drctl("catalogue", config=bare(tmp_path, tmp_path / "gone", near))
    assert said.exit_code == 3
    assert "is no folder on this machine" in " ".join(said.stdout.split())  # a long path makes it two lines
    assert POINT in said.stdout and not (tmp_path / "gone").exists()
    nothing = drctl("catalogue", "-o", "json", config=bare(tmp_path, tmp_path / "gone"))
    assert (nothing.exit_code, json.loads(nothing.stdout)["kind"]) == (3, "Unreachable")
    no_secrets = drctl("catalogue", config=MINIMAL)
    assert (no_secrets.exit_code, "STORE_A_ACCESS_KEY_ID" in no_secrets.stderr) == (3, True)


def test_a_folder_that_never_answers_hides_nothing(tmp_path: Path, near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted, is_dir, given_up = tmp_path / "mounted", Path.is_dir, threading.Event()

    def hangs(path: Path) -> bool:
        if path == mounted:
            assert given_up.wait(5), "somebody waits for a dead mount"
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", hangs)
    monkeypatch.setattr("recovery.backup.catalogue.REQUEST_SECONDS", 1.0)
    said = drctl("catalogue", "-o", "json", config=bare(tmp_path, mounted, near))
    given_up.set()
    answer = json.loads(said.stdout)
    assert (said.exit_code, answer["locations"]["mounted"]["error"]) == (3, f"{mounted}: no answer within 1 s")
    assert [each["point_id"] for each in answer["groups"][0]["points"]] == [POINT]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["file:///srv/x"], "--signer: expected the public key"),
        (["file:///srv/x", "--signer", "ed25519:abc"], "--signer: expected an Ed25519 public key"),
        (["ftp://x", "--signer", SIGNING.public], "URL: expected s3://bucket/prefix or file:///folder"),
        (["s3://backups/x", "--endpoint", "here", "--signer", SIGNING.public], "--endpoint: expected an http"),
        (["--endpoint", "http://here"], "--endpoint: expected a URL, too"),
    ],
)
def test_mistakes_are_said(arguments: list[str], words: str) -> None:
    said = drctl("catalogue", *arguments)
    assert said.exit_code == 2
    assert words in said.stderr


def test_a_group_that_nobody_has_is_answered_with_the_known_ones(tmp_path: Path, near: Path) -> None:
    said = drctl("catalogue", "--group", "books", config=bare(tmp_path, near))
    assert (said.exit_code, "no location has anything of a group 'books'. There are shop" in said.stderr) == (2, True)
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = drctl("catalogue", config=bare(tmp_path, empty))
    assert (nothing.exit_code, "no recovery points at empty" in nothing.stdout) == (1, True)


def configured(tmp_path: Path, *places: Path) -> Path:
    """A whole configuration with these locations."""
    text = MINIMAL.read_text()
    start, end = text.index("locations:\n"), text.index("\nregions:")
    lines = "".join(f"  {place.name}: {{url: 'file://{place}'}}\n" for place in places)
    names = ", ".join(place.name for place in places)
    text = f"{text[:start]}locations:\n{lines}{text[end:]}".replace("[store-a, store-b]", f"[{names}]")
    file = tmp_path / "recovery.yaml"
    file.write_text(text.replace("ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", SIGNING.public))
    return file


def test_the_list_and_the_point_say_what_each_location_has(tmp_path: Path, near: Path) -> None:
    """``drctl backup list | show``."""
    part = f"shop/postgres/{POINT}/attempt-1-0/base.tar.0"
    (tmp_path / "far" / part).parent.mkdir(parents=True)
    (tmp_path / "far" / part).write_bytes(b"x")
    (tmp_path / "new").mkdir()
    file = configured(tmp_path, near, tmp_path / "far", tmp_path / "new")
    listed = drctl("backup", "list", config=file)
    assert "near, far (being filled), new (missing)" in listed.stdout, listed.output
    answer = json.loads(drctl("backup", "list", "-o", "json", config=file).stdout)
    (only,) = answer["points"]
    assert {name: copy["state"] for name, copy in only["copies"].items()} == {
        "near": "whole", "far": "being filled", "new": "missing"
    }  # fmt: skip
    assert answer["unfinished"] == {POINT: ["far"]}
    (near / part).unlink()
    shown = drctl("backup", "show", POINT, config=file).stdout
    assert "incomplete: 1 of 1 objects are missing or have another size" in shown
    (copy, *_) = json.loads(drctl("backup", "show", POINT, "-o", "json", config=file).stdout)["copies"].values()
    assert copy["state"] == "incomplete"
