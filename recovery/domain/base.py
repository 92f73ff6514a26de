"""The one base of all domain models: immutable, and unknown fields are errors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Frozen value that travels through histories, manifests and reports; never holds a secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_timedelta="float")


class Recorded(BaseModel):
    """Frozen value that is stored for years (manifests, reports): unknown fields of newer writers are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_timedelta="float")
