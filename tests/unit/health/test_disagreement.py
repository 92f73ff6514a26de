"""Which errors mean that two could speak to each other and did not agree on TLS."""

from __future__ import annotations

import ssl

import pytest

from recovery.adapters.probes.reach import disagrees

EXPIRED = ssl.SSLCertVerificationError(1, "certificate has expired")


def raised(by: str) -> BaseException:
    error = ConnectionError("it failed")
    error.__context__ = EXPIRED
    if by == "from":
        error.__cause__ = EXPIRED
    error.__suppress_context__ = by in ("from", "instead")  # raise ... from None
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EXPIRED, True),
        (ssl.SSLError(1, "tlsv13 alert certificate required"), True),
        (ConnectionError("PostgreSQL server at db rejected SSL upgrade"), True),
        (raised("from"), True),
        (raised("instead"), True),
        (raised("afterwards"), False),  # another connection was refused: the server went away
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), False),
        (ssl.SSLZeroReturnError(6, "closed"), False),
        (ConnectionResetError("reset by peer"), False),
        (TimeoutError(), False),
    ],
    ids=str,
)
def test_only_a_disagreement_is_one(error: BaseException, expected: bool) -> None:
    assert disagrees(error) is expected
