"""Resolves references to secrets. Values stay in the worker that asked: never in histories, logs, errors, reports."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from botocore.config import Config as ClientConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from recovery.adapters.aws import code_of, make_client, words_of
from recovery.domain.secret import SecretRef, SecretScheme
from recovery.errors import BadInput, NotFound, RecoveryError, Refused, Unreachable
from recovery.telemetry.redaction import REDACTOR

LARGEST = 64 * 1024  # bytes of one secret: AWS's own limit
_THREADS = 4

_MISSING = frozenset({"ResourceNotFoundException"})
_DENIED = frozenset(
    {
        "AccessDeniedException",
        "AccessDenied",
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "DecryptionFailure",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "MissingAuthenticationTokenException",
    }
)
_GONE = "InvalidRequestException"  # among others, of a secret that somebody deleted: it is kept for some days
_WRONG = frozenset({"InvalidParameterException", "ValidationException"})


class SecretsManagerClient(Protocol):
    """The one call of boto3's ``secretsmanager`` client that is needed."""

    def get_secret_value(self, *, SecretId: str) -> Mapping[str, Any]: ...  # noqa: N803


class Secrets:
    """Reads secrets afresh each time, so that a rotated one counts at the next attempt. Close it after use."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        client: SecretsManagerClient | None = None,
        region: str | None = None,
        timeout: float = 10.0,
        handed_out: Callable[[str], None] = REDACTOR.register,
    ) -> None:
        """``client`` and ``environment`` replace AWS and the process's own; ``timeout`` bounds one call, in seconds.

        ``handed_out`` hears of every value before it is returned, so that logs mask it.
        """
        self._environment = os.environ if environment is None else environment
        self._client = client
        self._clients: dict[str | None, SecretsManagerClient] = {}
        self._region = region
        self._timeout = timeout
        self._handed_out = handed_out
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="secrets")

    async def resolve(self, reference: SecretRef) -> str:
        """The secret as text, without a newline at its end. Errors name the reference and never the value.

        Raises:
            NotFound: the variable, file, secret or JSON key does not exist.
            Refused: access is denied.
            Unreachable: AWS did not answer; another attempt may help.
            BadInput: what was found is empty, too large, no text, or no JSON where a key is asked for.
        """
        value = await self._read(reference)
        self._handed_out(value)
        return value

    async def _read(self, reference: SecretRef) -> str:
        if reference.scheme is SecretScheme.ENV:
            return _checked(reference, self._environment.get(reference.name), "set the environment variable")
        read = self._file if reference.scheme is SecretScheme.FILE else self._aws
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                return await loop.run_in_executor(self._threads, read, reference)
        except TimeoutError:
            raise Unreachable(
                f"{reference} was not read within {self._timeout:g} s: is its source reachable?"
            ) from None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _file(self, reference: SecretRef) -> str:
        try:
            with Path(reference.name).open("rb") as stream:
                raw = stream.read(LARGEST + 1)
        except FileNotFoundError:
            raise NotFound(
                f"{reference} does not exist: put the secret into this file, readable for the worker"
            ) from None
        except PermissionError:
            raise Refused(f"{reference} may not be read by this user: change its owner or mode") from None
        except OSError as error:
            raise BadInput(f"{reference} cannot be read: {error.strerror}") from None
        return _checked(reference, _text(reference, raw), "write the secret into the file")

    def _aws(self, reference: SecretRef) -> str:
        failure: RecoveryError | None = None
        answer: Mapping[str, Any] = {}
        try:
            answer = self._connected(reference.name).get_secret_value(SecretId=reference.name)
        except ClientError as error:
            failure = _explained(reference, code_of(error), words_of(error))
        except (NoCredentialsError, PartialCredentialsError):
            failure = Refused(
                f"{reference} may not be read: this machine has no AWS credentials. Give it a role that may "
                "secretsmanager:GetSecretValue"
            )
        except NoRegionError:
            failure = BadInput(
                f"{reference}: no AWS region is known here: set AWS_DEFAULT_REGION in the worker's environment to "
                "that of the secret, or name the secret by its ARN"
            )
        except BotoCoreError as error:
            failure = Unreachable(f"{reference}: AWS Secrets Manager was not reached ({type(error).__name__})")
        if failure is not None:
            raise failure
        value = answer.get("SecretString")
        if value is None and isinstance(binary := answer.get("SecretBinary"), bytes):
            value = _text(reference, binary)
        text = _checked(reference, value, "store a value in the secret")
        return text if reference.json_key is None else _from_json(reference, text)

    def _connected(self, name: str) -> SecretsManagerClient:
        """In the region that the secret's ARN names: no other one knows it."""
        if self._client is not None:
            return self._client
        region = name.split(":")[3] if name.startswith("arn:") and name.count(":") >= 6 else self._region
        if region not in self._clients:
            limits = ClientConfig(
                connect_timeout=self._timeout / 3, read_timeout=self._timeout / 3, retries={"total_max_attempts": 2}
            )
            self._clients[region] = make_client("secretsmanager", region_name=region, config=limits)
        return self._clients[region]


def _text(reference: SecretRef, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # Not chained: the decoding error holds the bytes.
        pass
    raise BadInput(f"{reference} is no UTF-8 text: store the secret as text (base64 for keys)")


def _checked(reference: SecretRef, value: str | None, remedy: str) -> str:
    if value is None:
        raise NotFound(f"{reference} is not set: {remedy}")
    text = value.rstrip("\r\n")
    if not text:
        raise BadInput(f"{reference} is empty: {remedy}")
    if len(value.encode()) > LARGEST:
        raise BadInput(f"{reference} is larger than {LARGEST // 1024} KiB: is it the right one?")
    return text


def _explained(reference: SecretRef, code: str, words: str) -> RecoveryError:
    """``words`` are of Secrets Manager and name no value."""
    if code in _MISSING:
        return NotFound(f"{reference} does not exist in AWS Secrets Manager: create it, or mend its name")
    if code in _DENIED:
        return Refused(f"{reference} may not be read ({code}): allow secretsmanager:GetSecretValue for this worker")
    if code == _GONE:
        return NotFound(
            f"{reference} cannot be read ({words}): restore the secret where it was deleted, or give it a value"
        )
    if code in _WRONG:
        return BadInput(f"{reference} is no name that AWS Secrets Manager takes ({words})")
    return Unreachable(f"{reference} was not read: AWS Secrets Manager answered {code}")


def _from_json(reference: SecretRef, text: str) -> str:
    try:
        fields: Any = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise BadInput(f"{reference} asks for a key, and the secret is no JSON object: leave out #{reference.json_key}")
    value = fields.get(str(reference.json_key))
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise NotFound(
            f"{reference}: the secret's JSON object has no text under this key: it has {', '.join(sorted(fields))}"
        )
    return _checked(reference, str(value), "store a value under this key")
