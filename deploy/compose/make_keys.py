"""Makes the keys of the compose stack, and its configuration with them: deploy/compose/keys, which git ignores.

Keep escrow.agekey in other hands and remove it here: it opens everything when operator.agekey is lost.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from recovery.backup.sealing import generate_age_key
from recovery.backup.signing import generate_signing_key

HERE = Path(__file__).resolve().parent
OPERATOR = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
ESCROW = "age17m9q6u4uxyh2afmzjuu9892cfe8wqwv6at856sf6wj52tvjrdgkqqfj0f4"
SIGNER = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


def make_keys(folder: Path) -> None:
    """Writes keys and configuration into a folder that must not exist yet: keys in use are never overwritten."""
    folder.mkdir(mode=0o700)
    text = (HERE / "recovery.yaml").read_text()
    for name, example in (("operator", OPERATOR), ("escrow", ESCROW)):
        key = generate_age_key()
        _write(folder / f"{name}.agekey", f"{key.secret}\n")
        text = text.replace(example, key.public)
    signing = generate_signing_key()
    _write(folder / "signing.key", f"{signing.secret}\n")
    _write(folder / "recovery.yaml", text.replace(SIGNER, signing.public))


def _write(path: Path, text: str) -> None:
    # Readable for all inside a folder that only its owner can enter: the containers' user is another one, and
    # compose mounts each file by itself.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as stream:
        stream.write(text)
    path.chmod(0o644)


if __name__ == "__main__":
    target = HERE / "keys"
    try:
        make_keys(target)
    except FileExistsError:
        sys.exit(f"{target} exists already: its keys may be in use. Move it away to make new ones.")
    sys.stdout.write(f"{target}: keys and recovery.yaml. Move escrow.agekey to another place.\n")
