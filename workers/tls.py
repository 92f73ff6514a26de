"""TLS towards a store, from its section of the configuration."""

from __future__ import annotations

import os
import ssl

from recovery.adapters.secrets import Secrets
from recovery.config.installation import Tls
from recovery.errors import BadInput


async def tls_context(tls: Tls | None, secrets: Secrets, where: str) -> ssl.SSLContext | None:
    """None is plain text. The private key never lies in a file system: the standard library takes files only, so it
    gets one that exists in memory.

    Raises:
        BadInput: a file or the key is not what it should be; ``where`` names the section.
    """
    if tls is None or not tls.enabled:
        return None
    try:
        context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
        if tls.certificate_file is not None and tls.key is not None:
            key = (await secrets.resolve(tls.key)).encode()
            memory = os.memfd_create("key")
            try:
                os.write(memory, key)
                context.load_cert_chain(str(tls.certificate_file), f"/proc/self/fd/{memory}")
            finally:
                os.close(memory)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(
            f"{where}: the certificates cannot be used ({error}): expected PEM files, and the key of the certificate"
        ) from None
    return context
