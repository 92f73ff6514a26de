"""``drctl keys generate``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from drctl.output import Form, Output, examples, print_json
from drctl.tables import console
from recovery.errors import BadInput, Refused

app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Make the keys that recovery points are sealed and signed with.",
)

IDENTITY, SIGNING = "operator.agekey", "signing.key"


@app.callback()
def keys() -> None:
    """Make the keys that recovery points are sealed and signed with."""


@app.command(
    epilog=examples("drctl keys generate --directory /etc/recovery-plans/keys", "drctl keys generate -d keys -o json")
)
def generate(
    directory: Annotated[
        Path, typer.Option("--directory", "-d", file_okay=False, help="Where the private keys are put.")
    ] = Path("keys"),
    output: Form = Output.TEXT,
) -> None:
    """Make an age key pair and a signing key pair, and say what belongs into the configuration.

    The private keys go into files that only you can read (mode 600); nothing that exists is overwritten. Whoever
    holds operator.agekey can open every recovery point: keep it off the machines that only take backups, and make a
    second pair for escrow, in other hands.
    """
    from recovery.backup.sealing import generate_age_key
    from recovery.backup.signing import generate_signing_key

    folder = directory.resolve()
    age, signing = generate_age_key(), generate_signing_key()
    header = f"# created by drctl on {datetime.now(UTC):%Y-%m-%d}\n# public key: {age.public}\n"
    files = {folder / IDENTITY: f"{header}{age.secret}\n", folder / SIGNING: f"{signing.secret}\n"}
    _write(folder, files)
    document: dict[str, str | list[str]] = {
        "recipients": [age.public],
        "identities": [f"file:{folder / IDENTITY}"],
        "signing_key": f"file:{folder / SIGNING}",
        "trusted_signers": [signing.public],
    }
    if output is Output.JSON:
        print_json({"files": [str(file) for file in files], "keys": document})
        return
    out = console()
    out.print(f"Written, for your eyes only: {', '.join(str(file) for file in files)}", soft_wrap=True)
    out.print("Put this into recovery.yaml:\n")
    out.print(_yaml(document), soft_wrap=True)


def _write(folder: Path, files: dict[Path, str]) -> None:
    existing = [str(file) for file in files if file.exists()]
    if existing:
        raise Refused(
            f"{', '.join(existing)} exists, and recovery points may need it: name another folder with --directory"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file, text in files.items():
            # Made with its mode and not changed to it afterwards: nobody can open it in between.
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
    except OSError as error:
        raise BadInput(f"{folder} cannot be written ({error.strerror}): name another folder with --directory") from None


def _yaml(document: dict[str, str | list[str]]) -> str:
    lines = ["keys:"]
    for key, value in document.items():
        shown = "[" + ", ".join(f'"{entry}"' for entry in value) + "]" if isinstance(value, list) else value
        lines.append(f"  {key}: {shown}")
    return "\n".join(lines)
