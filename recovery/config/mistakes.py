"""Mistakes in a configuration: file, line, key, what was expected, an example, and what was found.

What was found is repeated only where it cannot be a secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recovery.domain.secret import SecretRef
from recovery.errors import BadInput

KeyPath = tuple[str | int, ...]

_LONGEST_ECHO = 60


@dataclass(frozen=True, order=True)
class Mistake:
    """One mistake. ``text`` is a sentence without its capital letter and full stop."""

    path: KeyPath
    line: int | None
    text: str

    @property
    def key(self) -> str:
        """``groups.shop.dns.records[0].name``."""
        return key_text(self.path)

    def sentence(self, file: str) -> str:
        """``recovery.yaml, line 12, groups.shop.postgres.port: expected ...``"""
        place = [file]
        if self.line is not None:
            place.append(f"line {self.line}")
        if self.path:
            place.append(self.key)
        return f"{', '.join(place)}: {self.text}"


class ConfigurationInvalid(BadInput):
    """All mistakes of a configuration at once; ``str()`` has one line for each."""

    def __init__(self, file: str, mistakes: Iterable[Mistake]) -> None:
        self.file = file
        self.mistakes = sorted(set(mistakes), key=lambda mistake: (mistake.line or 0, mistake.key, mistake.text))
        super().__init__("\n".join(mistake.sentence(file) for mistake in self.mistakes))

    @property
    def kind(self) -> str:
        return BadInput.__name__  # what retry policies know


def key_text(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def suggestion(found: object, known: Iterable[str]) -> str:
    """`` (did you mean 'port'?)`` or nothing."""
    close = get_close_matches(str(found), list(known), n=1, cutoff=0.6) if isinstance(found, str) else []
    return f" (did you mean {close[0]!r}?)" if close else ""


def explain(model: type[BaseModel], error: Any) -> tuple[KeyPath, str]:
    """Key path and sentence of one entry of a ``ValidationError``'s ``errors()``."""
    path: KeyPath = tuple(part for part in error["loc"] if part != "[key]")
    annotation, field = _field_at(model, path)
    kind, found = error["type"], error.get("input")
    if kind == "extra_forbidden":
        owner = unwrapped(_field_at(model, path[:-1])[0])
        known = sorted(owner.model_fields) if _is_model(owner) else []
        return path, f"unknown key{suggestion(path[-1], known)}: expected one of {', '.join(known)}"
    if kind == "missing":
        what = (field.description or "a value").rstrip(".") if field else "a value"
        return path, f"this key is missing: expected {_decapitalised(what)}{_example(field)}"
    if kind in ("secret_reference", "withheld", "expected"):
        said = error["msg"]
    else:
        said = _builtin(kind, error.get("ctx", {}), field) + _example(field)
        if kind in ("literal_error", "enum"):
            said += suggestion(found, _choices(annotation))
    if kind == "expected" and isinstance(found, (dict, BaseModel)):
        return path, said  # about several keys at once: there is nothing short to show
    if "[key]" in error["loc"]:
        return path, f"{said}; got {_shown(path[-1])}"
    if kind in ("secret_reference", "withheld") or holds_secret(annotation):
        return path, said if "not shown" in said else f"{said}; the value found is not shown"
    return path, f"{said}; got {_shown(found)}"


def _builtin(kind: str, ctx: dict[str, Any], field: FieldInfo | None) -> str:
    sentences = {
        "int_parsing": "a whole number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_parsing": "a number",
        "float_type": "a number",
        "string_type": "text (in quotes, where it looks like a number)",
        "model_type": "further keys below this one, each as key: value",
        "model_attributes_type": "further keys below this one, each as key: value",
        "dict_type": "names below this key, each with its own settings",
        "list_type": "a list",
        "too_short": "at least one entry",
        "string_too_short": "some text",
    }
    limits = {
        "greater_than_equal": ("a number of at least", "ge"),
        "greater_than": ("a number above", "gt"),
        "less_than_equal": ("a number of at most", "le"),
        "less_than": ("a number below", "lt"),
    }
    if kind in limits:
        words, key = limits[kind]
        return f"expected {words} {ctx[key]}"
    if kind in ("literal_error", "enum"):
        return f"expected {ctx['expected']}"
    if kind in sentences:
        return f"expected {sentences[kind]}"
    what = (field.description or "another value").rstrip(".") if field else "another value"
    return f"expected {_decapitalised(what)}"


def _decapitalised(text: str) -> str:
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _example(field: FieldInfo | None) -> str:
    if field is None or not field.examples:
        return ""
    return f", for example {_yaml(field.examples[0])}"


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_yaml(item)}' for key, item in value.items())}}}"
    return str(value)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (dict, BaseModel)):
        return "keys and values"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= _LONGEST_ECHO else f"{text[:_LONGEST_ECHO]}..."


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def unwrapped(annotation: Any) -> Any:
    """Without ``Annotated`` and ``| None``."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, UnionType):
            inner = [arm for arm in get_args(annotation) if arm is not type(None)]
            if len(inner) != 1:
                return annotation
            annotation = inner[0]
        else:
            return annotation


def _field_at(model: type[BaseModel], path: KeyPath) -> tuple[Any, FieldInfo | None]:
    """Type at the path (None when the path leaves the model) and the last field on the way to it."""
    annotation: Any = model
    field: FieldInfo | None = None
    for part in path:
        annotation = unwrapped(annotation)
        if _is_model(annotation):
            entry = annotation.model_fields.get(str(part))
            if entry is None:
                return None, None
            annotation, field = entry.annotation, entry
        elif get_origin(annotation) in (dict, list):
            annotation, field = get_args(annotation)[-1], None if get_origin(annotation) is dict else field
        else:
            return annotation, field
    return annotation, field


def _choices(annotation: Any) -> list[str]:
    annotation = unwrapped(annotation)
    if get_origin(annotation) is list:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(member.value) for member in annotation]
    return []


def holds_secret(annotation: Any) -> bool:
    """Whether a value of this type is a reference to a secret, or has one somewhere below it."""
    annotation = unwrapped(annotation)
    if annotation is SecretRef:
        return True
    if _is_model(annotation):
        return any(holds_secret(field.annotation) for field in annotation.model_fields.values())
    return any(holds_secret(arm) for arm in get_args(annotation) if arm is not Ellipsis)
