"""What boto3 raised, as one of our errors and in words without credentials."""

from __future__ import annotations

from collections.abc import Sequence

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
    SSLError,
)
from urllib3.exceptions import HTTPError

from recovery.errors import BadInput, Contended, NotFound, RecoveryError, Refused, Unreachable

UNKNOWN_OUTCOME = (Unreachable,)
"""Errors after which a write may have happened or not."""

FAILURES = (BotoCoreError, ClientError, HTTPError, OSError)
"""What boto3 raises that is not a programmer's mistake."""

_MISSING = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
_CONDITION = {"PreconditionFailed", "ConditionalRequestConflict", "409", "412"}
_LATER = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests"}
DAMAGED_ON_ITS_WAY = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
_TRANSPORT = (ConnectionError, HTTPClientError, IncompleteReadError, ResponseStreamingError, HTTPError, OSError)
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)


def explain(error: Exception, where: str, secrets: Sequence[str]) -> RecoveryError:
    """The error to raise instead of one of ``FAILURES``.

    Args:
        where: which location, for the message.
        secrets: texts that must not appear in it.
    """
    if isinstance(error, ClientError):
        return _from_answer(error, where, secrets)
    if isinstance(error, _NO_CREDENTIALS):
        return Refused(f"{where}: no usable credentials; name them in the configuration or give the machine a role")
    if isinstance(error, SSLError):
        words = _clean(str(error), secrets)
        return Unreachable(f"{where}: {words} (ca_file names the authorities to trust)")
    if isinstance(error, _TRANSPORT):
        return Unreachable(f"{where}: {_clean(str(error), secrets)}")
    return BadInput(f"{where}: {_clean(str(error), secrets)}")


def _from_answer(error: ClientError, where: str, secrets: Sequence[str]) -> RecoveryError:
    answer = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    words = _clean(str(answer.get("Error", {}).get("Message", "")), secrets)
    message = f"{where}: {error.operation_name} answered {code or status}" + (f" ({words})" if words else "")
    if code in _MISSING or status == 404:
        return NotFound(message)
    if code in _CONDITION or status in (409, 412):
        return Contended(message)
    if code in _LATER | DAMAGED_ON_ITS_WAY or status >= 500 or status == 429:
        return Unreachable(message)
    return Refused(message)


def _clean(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text[:300]
