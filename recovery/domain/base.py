"""The bases of all domain models. They are immutable; what each does with a field that it does not know is said here.

What people write into the configuration has a base of its own (``recovery.config.base``), which refuses it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Model(BaseModel):
    """Frozen value that travels between workers, guards and histories; never holds a secret.

    Unknown fields are ignored: while regions are upgraded one after the other the other side may be newer.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_timedelta="float")


class Asked(Model):
    """What a person may type, or what another process is told to do: unknown fields are errors, since whoever does not
    know one would do something else than was asked for.

    What has its default is not sent: so an earlier version takes everything that asks nothing new.
    """

    model_config = ConfigDict(extra="forbid")

    @model_serializer(mode="wrap")
    def _what_was_said(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        return {
            name: value
            for name, value in whole(self).items()
            if name not in defaults or getattr(self, name) != defaults[name]
        }


class Recorded(BaseModel):
    """Frozen value that is stored for years (manifests, reports): unknown fields of newer writers are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_timedelta="float")
