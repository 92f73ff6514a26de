"""What S3's failures are called."""

from __future__ import annotations

from botocore.exceptions import SSLError

from recovery.adapters.s3_errors import explain
from recovery.errors import Unreachable


def test_an_authority_that_is_not_trusted_is_told_with_what_mends_it() -> None:
    found = explain(
        SSLError(endpoint_url="https://s3.local", error=OSError("certificate verify failed")), "location a", []
    )
    assert isinstance(found, Unreachable)
    assert "certificate verify failed" in str(found) and "ca_file" in str(found)
