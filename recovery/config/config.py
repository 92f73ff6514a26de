"""The whole configuration: loading it, and what the rest of the system asks it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from recovery.config.base import Section
from recovery.config.completeness import incomplete
from recovery.config.group import Group
from recovery.config.installation import Guards, Keys, Region, Targets, Temporal, Tier
from recovery.config.later import set_for_later
from recovery.config.locations import Location, Reports, Witness
from recovery.config.mistakes import ConfigurationInvalid, KeyPath, Mistake, explain, suggestion
from recovery.config.names import Name
from recovery.config.operations import Monitoring, Notifications
from recovery.config.plain import plain
from recovery.config.policies import Inheritable
from recovery.config.references import check_references, mapping
from recovery.config.snapshot import snapshot_of
from recovery.config.warnings import CriticalPaths, warnings_of
from recovery.config.yaml_source import Document, read_document
from recovery.domain.group import GroupSnapshot
from recovery.errors import BadInput, NotFound

T = TypeVar("T")

LARGEST_FILE = 32 * 1024**2  # bytes


def _usual_tiers() -> dict[str, Tier]:
    return {
        "critical": Tier(rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        "standard": Tier(rto=timedelta(hours=1), rpo=timedelta(minutes=30)),
        "low": Tier(rto=timedelta(hours=4), rpo=timedelta(hours=4)),
    }


class Config(Section):
    """`recovery.yaml`: what is recovered, where it is kept, and what is promised."""

    version: Literal[1] = Field(description="Version of this file's form.", examples=[1])
    temporal: Temporal = Field(default_factory=Temporal, description="The Temporal cluster that runs the plans.")
    keys: Keys = Field(description="Public keys that recovery points are encrypted for, and signatures.")
    witness: Witness = Field(description="Where ownership records live, outside all data regions.")
    guards: Guards = Field(default_factory=Guards, description="Guards, which keep a group from having two primaries.")
    reports: Reports | None = Field(
        None, description="Where reports of runs are kept, outside all data regions; without it beside the witness."
    )
    tiers: dict[str, Tier] = Field(
        default_factory=_usual_tiers,
        min_length=1,
        description="Objectives, by tier.",
        examples=[{"critical": {"rto": "15min", "rpo": "5min"}}],
    )
    targets: Targets = Field(default_factory=Targets, description="What the whole installation promises.")
    locations: dict[Name, Location] = Field(min_length=1, description="Where recovery points are kept, by name.")
    regions: dict[Name, Region] = Field(min_length=1, description="Regions, by name.")
    defaults: Inheritable = Field(
        default_factory=Inheritable, description="What holds for every group that does not say otherwise."
    )
    groups: dict[Name, Group] = Field(min_length=1, description="Protection groups, by name.")
    monitoring: Monitoring = Field(default_factory=Monitoring, description="Metrics and alerts.")
    notifications: Notifications = Field(default_factory=Notifications, description="Who is told what.")

    @classmethod
    def load(cls, path: Path | str) -> Config:
        """Reads and checks a file (blocking).

        Raises:
            BadInput: it cannot be read; ``ConfigurationInvalid`` (a BadInput) with all its mistakes.
        """
        file = Path(path)
        try:
            with file.open("rb") as stream:
                raw = stream.read(LARGEST_FILE + 1)
            text = raw.decode("utf-8")
        except FileNotFoundError:
            raise BadInput(
                f"{file} does not exist: expected a configuration, for example a copy of recovery.example.yaml"
            ) from None
        except UnicodeDecodeError as error:
            raise BadInput(f"{file}: expected UTF-8 text, and byte {error.start} is none: save it as UTF-8") from None
        except OSError as error:
            raise BadInput(f"{file} cannot be read ({error.strerror}): expected a readable file") from None
        if len(raw) > LARGEST_FILE:
            raise BadInput(f"{file}: expected at most {LARGEST_FILE // 1024**2} MiB; use `defaults` for what repeats")
        return cls.parse(text, str(file))

    @classmethod
    def parse(cls, text: str, file: str = "recovery.yaml") -> Config:
        """As :meth:`load`, for text that was read already; ``file`` is how errors call it."""
        document = read_document(text)
        mistakes = list(document.mistakes)
        found: Config | None = None
        if not isinstance(document.data, dict):
            if not mistakes:
                mistakes.append(Mistake((), 1, "expected keys and values, for example version: 1"))
            raise ConfigurationInvalid(file, mistakes)
        data = with_defaults(document.data)
        try:
            found = cls.model_validate(data)
        except ValidationError as error:
            explained = [explain(cls, entry) for entry in error.errors(include_url=False)]
            mistakes += [_placed(document, path, text) for path, text in explained]
        mistakes += [_placed(document, *finding) for finding in check_references(data, list(_usual_tiers()))]
        if found is not None and not mistakes:
            mistakes += [_placed(document, *finding) for finding in incomplete(found)]
        # Raised here and not above, so that pydantic's own error, which knows the values, is not chained to it.
        if found is None or mistakes:
            raise ConfigurationInvalid(file, mistakes)
        return found

    @classmethod
    def schema_document(cls) -> dict[str, Any]:
        """JSON schema (2020-12) of the file, for editors."""
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **cls.model_json_schema(mode="validation")}

    def group(self, name: str) -> Group:
        """Raises NotFound with the known groups."""
        return self._known("group", name, self.groups)

    def location(self, name: str) -> Location:
        """Raises NotFound with the known locations."""
        return self._known("location", name, self.locations)

    def region(self, name: str) -> Region:
        """Raises NotFound with the known regions."""
        return self._known("region", name, self.regions)

    def region_queue(self, name: str) -> str:
        """Task queue of the region's workers. Raises NotFound with the known regions."""
        return self.region(name).task_queue or self.temporal.region_queue.replace("{region}", name)

    def restore_queue(self, name: str) -> str:
        """Task queue of the region's workers that hold the keys to open recovery points. Raises as ``region_queue``."""
        return f"{self.region_queue(name)}-restore"

    @property
    def validation_queue(self) -> str:
        """Task queue of the workers that hold the keys to open recovery points."""
        return f"{self.temporal.control_queue}-validation"

    def locations_of(self, group: str) -> dict[str, Location]:
        """The group's locations in their order: those it names, else all."""
        names = self.group(group).backup.locations or list(self.locations)
        return {name: self.locations[name] for name in names}

    def snapshot(self, group: str) -> GroupSnapshot:
        """The secret-free, immutable picture of a group. Raises NotFound with the known groups."""
        self.group(group)
        return snapshot_of(self, group)

    def warnings(self, critical_paths: CriticalPaths | None = None) -> list[str]:
        """What is allowed and yet unwise, a sentence each.

        ``critical_paths`` turns a group's budgets into the critical path of each recovery plan, which is held against
        the RTO; without it only the budgets that are configured are added up.
        """
        return warnings_of(self, critical_paths)

    def set_for_later(self) -> list[str]:
        """Keys that were set and that this version does not act on yet, as ``drctl config schema`` writes them."""
        return set_for_later(self)

    def public(self, group: str | None = None) -> dict[str, Any]:
        """What ``drctl config show`` prints: a configuration that loads again, secrets as references only.

        ``defaults`` are not in it, since every group has them filled in. Raises NotFound with the known groups.
        """
        shown: dict[str, Any] = plain(self, references=True)
        del shown["defaults"]
        if group is not None:
            self.group(group)
            shown["groups"] = {group: shown["groups"][group]}
        return shown

    @staticmethod
    def _known(what: str, name: str, entries: Mapping[str, T]) -> T:
        if name in entries:
            return entries[name]
        raise NotFound(
            f"no {what} {name!r} in the configuration{suggestion(name, entries)}; known: {', '.join(entries)}"
        )


def with_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """``data`` with ``defaults`` merged into each group: mappings key by key, everything else as a whole."""
    defaults, groups = mapping(data.get("defaults")), data.get("groups")
    if not defaults or not isinstance(groups, dict):
        return data
    inherited = {key: value for key, value in defaults.items() if key in Inheritable.model_fields}
    merged = {name: _merged(inherited, group) if isinstance(group, dict) else group for name, group in groups.items()}
    return {**data, "groups": merged}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    if "policy" in above or "automatic" in above:  # two ways to say the same: the group's counts
        result = {key: value for key, value in result.items() if key not in ("policy", "automatic")}
    for key, value in above.items():
        lower = result.get(key)
        result[key] = _merged(lower, value) if isinstance(lower, dict) and isinstance(value, dict) else value
    return result


def _placed(document: Document, path: KeyPath, text: str) -> Mistake:
    """A mistake with its line; one that a group inherited is shown where it stands, under ``defaults``."""
    if path[:1] == ("groups",) and len(path) > 2 and path not in document.lines:
        origin = ("defaults", *path[2:])
        if origin in document.lines or (origin[:-1] in document.lines and path[:-1] not in document.lines):
            path = origin
    return Mistake(path, document.line_of(path), text)
