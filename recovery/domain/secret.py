"""A reference to a secret: the only form in which configuration, histories and logs ever know one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

FORMS = "env:NAME, file:/path or aws-secretsmanager:name#json-key"

_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE = re.compile(r"/[^\x00-\x1f]+")
_AWS = re.compile(r"(?P<name>[A-Za-z0-9/_+=.@:-]+)(?:#(?P<key>[^\s#]+))?")


class SecretScheme(StrEnum):
    ENV = "env"
    FILE = "file"
    AWS_SECRETS_MANAGER = "aws-secretsmanager"


@dataclass(frozen=True)
class SecretRef:
    """``env:NAME``, ``file:/path`` or ``aws-secretsmanager:name[#json-key]``. Safe to print: it holds no secret."""

    scheme: SecretScheme
    name: str
    json_key: str | None = None

    @classmethod
    def parse(cls, text: object) -> SecretRef:
        """Raises ValueError, which never repeats ``text``: it may be the secret itself."""
        scheme, colon, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
        if colon and scheme == SecretScheme.ENV and _ENV.fullmatch(rest):
            return cls(SecretScheme.ENV, rest)
        if colon and scheme == SecretScheme.FILE and _FILE.fullmatch(rest):
            return cls(SecretScheme.FILE, rest)
        if colon and scheme == SecretScheme.AWS_SECRETS_MANAGER and (found := _AWS.fullmatch(rest)):
            return cls(SecretScheme.AWS_SECRETS_MANAGER, found["name"], found["key"])
        raise ValueError(
            f"expected a reference to a secret ({FORMS}), for example env:POSTGRES_PASSWORD; "
            "the value found is none and is not shown, because it may be the secret itself"
        )

    def __str__(self) -> str:
        return f"{self.scheme}:{self.name}" + (f"#{self.json_key}" if self.json_key else "")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: object) -> SecretRef:
            if isinstance(value, cls):
                return value
            try:
                return cls.parse(value)
            except ValueError as error:
                raise PydanticCustomError("secret_reference", "{reason}", {"reason": str(error)}) from None

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "string",
            "pattern": r"^(env:|file:/|aws-secretsmanager:).+$",
            "description": f"Reference to a secret: {FORMS}. Never the secret itself.",
        }
