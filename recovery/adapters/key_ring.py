"""The keys that one process holds."""

from __future__ import annotations

from dataclasses import dataclass

from recovery.backup.sealing import Opener, Sealer
from recovery.backup.signing import Signer, Verifier
from recovery.errors import WrongKey


@dataclass
class KeyRing:
    """The keys that this worker holds. A backup worker has no ``opener``, a restoring one no ``signer``'s duty."""

    sealer: Sealer
    verifier: Verifier
    signer: Signer | None = None
    opener: Opener | None = None

    def signing(self) -> Signer:
        if self.signer is None:
            raise WrongKey("this worker has no signing key: set keys.signing_key in its configuration")
        return self.signer

    def opening(self) -> Opener:
        if self.opener is None:
            raise WrongKey(
                "this worker has no age identity, so it can neither validate nor restore: set keys.identities in its "
                "configuration, or run the plan on a worker that has one"
            )
        return self.opener
