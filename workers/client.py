"""The connection to Temporal."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from temporalio.client import Client, Interceptor
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes
from temporalio.runtime import Runtime
from temporalio.service import RPCError, TLSConfig

from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.errors import Unreachable
from workers.codec import EncryptionCodec
from workers.embedded import embedded_address

CONNECT_SECONDS = 10.0
_ENDED = ("ConnectionReset", "BrokenPipe", "close_notify", "CertificateRequired", "UnknownCA", "DecryptError")
"""Signs in the SDK's text that the server hung up after the first words, as one does that TLS makes no sense to."""


def address_of(config: Config) -> str:
    """``temporal.address``, else where ``drctl up`` runs the embedded server."""
    return config.temporal.address or embedded_address(config)


async def connect(
    config: Config,
    secrets: Secrets,
    *,
    address: str | None = None,
    runtime: Runtime | None = None,
    interceptors: Sequence[Interceptor] = (),
) -> Client:
    """Connects and asks for the server's health. ``interceptors`` are those of the client's workers, too.

    Raises:
        Unreachable: nothing answers at the address, or it refuses.
    """
    temporal = config.temporal
    where = address or address_of(config)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await Client.connect(
                where,
                namespace=temporal.namespace,
                tls=await _tls(config, secrets),
                api_key=await secrets.resolve(temporal.api_key) if temporal.api_key else None,
                data_converter=await _converter(config, secrets),
                runtime=runtime,
                interceptors=interceptors,
            )
    except (RuntimeError, RPCError, TimeoutError) as error:
        raise Unreachable(
            f"no Temporal server answers at {where} ({_reason(error, config)}): start one with drctl up, or correct "
            f"temporal.address in the configuration"
        ) from error


def _reason(error: Exception, config: Config) -> str:
    """In a few words: the SDK's own text shows its inner types."""
    text = str(error)
    if any(sign in text for sign in _ENDED):
        return f"it ended the connection: {_suspicion(config)}"
    for sign, words in (
        ("ConnectionRefused", "connection refused"),
        ("dns error", "its name is not known"),
        ("HostUnreachable", "no route to it"),
        ("NetworkUnreachable", "no route to it"),
        ("InvalidCertificate", "its certificate is not trusted"),
        ("InvalidMessage", "it does not speak TLS, leave temporal.tls out, or it is another kind of server"),
    ):
        if sign in text:
            return words
    return text.splitlines()[0] if text else f"no answer within {CONNECT_SECONDS:.0f} s"


def _suspicion(config: Config) -> str:
    """What a server that says nothing and hangs up most likely misses in us."""
    tls = config.temporal.tls
    if (tls is None and config.temporal.api_key is None) or (tls is not None and not tls.enabled):
        return "perhaps it speaks TLS only, set temporal.tls"
    if tls is None or tls.certificate_file is None:
        return "perhaps it demands a certificate of ours, set temporal.tls.certificate_file"
    return f"perhaps it does not take our certificate, {tls.certificate_file}"


async def _tls(config: Config, secrets: Secrets) -> TLSConfig | bool:
    tls = config.temporal.tls
    if tls is None:
        return config.temporal.api_key is not None  # an API key never travels in plain text
    if not tls.enabled:
        return False
    return TLSConfig(
        server_root_ca_cert=await _read(tls.ca_file),
        client_cert=await _read(tls.certificate_file),
        client_private_key=(await secrets.resolve(tls.key)).encode() if tls.key else None,
        domain=tls.server_name,
    )


async def _read(path: str | Path | None) -> bytes | None:
    return None if path is None else await asyncio.to_thread(Path(path).read_bytes)


async def _converter(config: Config, secrets: Secrets) -> DataConverter:
    if config.temporal.payload_key is None:
        return pydantic_data_converter
    return dataclasses.replace(
        pydantic_data_converter,
        payload_codec=EncryptionCodec(await secrets.resolve(config.temporal.payload_key)),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,  # error texts too
    )
