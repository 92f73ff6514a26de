"""Whose certificates HTTPS believes where the configuration names no authority."""

from __future__ import annotations

import functools
import ssl
from pathlib import Path

import certifi


@functools.cache
def trusted() -> ssl.SSLContext:
    """The machine's authorities, as OpenSSL finds them: a company's own ones are installed there, or named by
    ``SSL_CERT_FILE`` or ``SSL_CERT_DIR``. Where a machine has none, those that certifi carries.

    One for the whole process: reading them takes tens of milliseconds.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and (paths.capath is None or not any(Path(paths.capath).iterdir())):
        context.load_verify_locations(certifi.where())
    return context
