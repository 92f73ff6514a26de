"""Calls of Amazon's APIs: in threads, with time limits of our own, tried again while they are throttled."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.loaders import Loader, create_loader

from recovery.errors import BadInput, RecoveryError, Refused, Unreachable

Client = TypeVar("Client")
Reply = TypeVar("Reply")

THROTTLED = {
    "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
    "RequestLimitExceeded", "TooManyRequestsException", "PriorRequestNotComplete", "SlowDown",
}  # fmt: skip
"""Nothing was done: the same call may be made again, whatever it is."""
_DENIED = {
    "AccessDenied", "AccessDeniedException", "AuthFailure", "ExpiredToken", "ExpiredTokenException",
    "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSignatureException", "MissingAuthenticationToken",
    "NotAuthorized", "OptInRequired", "SignatureDoesNotMatch", "UnauthorizedOperation", "UnrecognizedClientException",
}  # fmt: skip
_SERVERS_FAULT = 500
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 3.0  # seconds
THREADS = 4


@functools.cache
def _descriptions(data_path: str | None) -> Loader:
    """Of all APIs, kept for the process: to read one takes a tenth of a second."""
    return create_loader(data_path)


def make_client(service: Any, **settings: Any) -> Any:
    """boto3's client of a service, in a session of its own: credentials that hang hold nobody else up."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _descriptions(session.get_config_variable("data_path")))
    return boto3.session.Session(botocore_session=session).client(service, **settings)


@dataclass(frozen=True)
class AwsAccess:
    """Where an API is and as whom it is called; None leaves it to boto3's own chain (environment, profile, role)."""

    region: str = "us-east-1"
    endpoint_url: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    connect_timeout: float = 3.0  # seconds
    read_timeout: float = 10.0


class AwsCalls(Generic[Client]):
    """Calls of one API.

    Args:
        service: boto3's name of it, for example ``route53``.
        patience: how long a call is tried again while it is throttled, or fails in a way that passes.
    """

    def __init__(self, service: str, access: AwsAccess, patience: timedelta = timedelta(seconds=20)) -> None:
        self._service = service
        self._access = access
        self._patience = patience.total_seconds()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=service)
        self._making = threading.Lock()
        self._made: Client | None = None

    async def run(
        self,
        call: Callable[[Client], Reply],
        what: str,
        *,
        repeat: bool = True,
        leave: Iterable[str] = (),
    ) -> Reply:
        """Calls, and calls again while that may help.

        Args:
            what: completes "could not ...".
            repeat: whether a call whose outcome is unknown may be made again. A throttled one always may.
            leave: codes of errors that are raised as they are (``ClientError``), for the caller knows them better.

        Raises:
            Unreachable: no answer, or throttled for longer than our patience.
            Refused: the credentials are wrong, or do not permit it.
            BadInput: the API takes the request for nonsense.
        """
        left = frozenset(leave)
        deadline = time.monotonic() + self._patience
        pause = FIRST_PAUSE
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(self._client()))
            except ClientError as error:
                code = code_of(error)
                if code in left:
                    raise
                passes = code in THROTTLED or (repeat and _status(error) >= _SERVERS_FAULT)
                failure = self._explained(error, what)
            except BotoCoreError as error:
                failure = self._unanswered(error, what)
                passes = repeat and isinstance(failure, Unreachable)
            if not passes or time.monotonic() + pause > deadline:
                raise failure
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _client(self) -> Client:
        with self._making:
            if self._made is None:
                access = self._access
                self._made = make_client(
                    self._service,
                    region_name=access.region,
                    endpoint_url=access.endpoint_url,
                    aws_access_key_id=access.access_key,
                    aws_secret_access_key=access.secret_key,
                    config=Config(
                        connect_timeout=access.connect_timeout,
                        read_timeout=access.read_timeout,
                        retries={"total_max_attempts": 1, "mode": "standard"},
                        max_pool_connections=THREADS,
                    ),
                )
            assert self._made is not None
            return self._made

    def _explained(self, error: ClientError, what: str) -> RecoveryError:
        code = code_of(error)
        where = f"could not {what}: {self._service}"
        if code in _DENIED:
            # The text of a wrong signature repeats the whole request.
            said = "" if "Signature" in code else f" ({words_of(error)})"
            return Refused(f"{where} answered {code}{said}: check the credentials and what they are permitted to do")
        if code in THROTTLED:
            return Unreachable(f"{where} is throttling us ({code}) for {self._patience:g} s and more")
        if _status(error) >= _SERVERS_FAULT:
            return Unreachable(f"{where} failed ({code}): {words_of(error)}")
        return BadInput(f"{where} answered {code}: {words_of(error)}")

    def _unanswered(self, error: BotoCoreError, what: str) -> RecoveryError:
        if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
            return Refused(
                f"could not {what}: this machine has no credentials for {self._service}. Give it a role, or set "
                "access_key and secret_key in the configuration"
            )
        if isinstance(error, ParamValidationError):
            return BadInput(f"could not {what}: {error}")
        return Unreachable(f"could not {what}: {self._service} did not answer ({type(error).__name__}: {error})")


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown error"))


def words_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message") or "no reason was given").strip()


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
