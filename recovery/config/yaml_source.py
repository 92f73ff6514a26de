"""Reads YAML into plain values and remembers on which line each key stands. Duplicate keys are mistakes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from recovery.config.mistakes import KeyPath, Mistake

_TAG = "tag:yaml.org,2002:"
MOST_NODES = 500_000  # bounds what a file with nested aliases can grow to
DEEPEST = 40


@dataclass
class Document:
    """``data``: dicts with text keys, lists and scalars; ``lines``: key path -> line, counted from 1."""

    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def line_of(self, path: KeyPath) -> int | None:
        """Line of the key, or of the nearest key above it that is written down."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


def read_document(text: str) -> Document:
    """Never raises for what stands in the text: mistakes are collected, without repeating values."""
    document = Document()
    try:
        root = YAML(typ="rt").compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.mistakes.append(Mistake((), None if mark is None else mark.line + 1, _NO_YAML))
        return document
    except (YAMLError, RecursionError, ValueError):
        document.mistakes.append(Mistake((), None, _NO_YAML))
        return document
    _Reader(document).read(root)
    return document


# The parser's own words quote what it found, which may be a secret.
_NO_YAML = (
    "this is no valid YAML: expected `key: value` lines, indented with spaces, values that begin with a special "
    "character in quotes, one document in the file"
)


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = 0

    def read(self, root: Node | None) -> None:
        if root is None:
            self._document.data = {}
            return
        self._document.data = self._value(root, (), [])

    def _wrong(self, path: KeyPath, node: Node, text: str) -> None:
        self._document.mistakes.append(Mistake(path, node.start_mark.line + 1, text))

    def _value(self, node: Node, path: KeyPath, above: list[int]) -> Any:
        self._nodes += 1
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in above or len(path) > DEEPEST or self._nodes > MOST_NODES:
            self._wrong(path, node, "expected a plain tree of keys, and this is nested too deeply or refers to itself")
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path, [*above, id(node)])
        if isinstance(node, SequenceNode):
            return [self._value(item, (*path, index), [*above, id(node)]) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: KeyPath, above: list[int]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        first: dict[str, int] = {}
        merged: list[Node] = []
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._wrong(path, key, "expected text as key, and this is a list or a mapping")
            elif str(key.tag) == _TAG + "merge":
                merged += value.value if isinstance(value, SequenceNode) else [value]
            elif key.value in first:
                self._wrong(
                    (*path, key.value),
                    key,
                    f"this key stands here twice, first on line {first[key.value]}: keep one of them",
                )
            else:
                first[key.value] = key.start_mark.line + 1
                self._document.lines[(*path, key.value)] = first[key.value]
                found[key.value] = self._value(value, (*path, key.value), above)
        for extra in merged:
            more = self._value(extra, path, above)
            if isinstance(more, dict):
                found = more | found
            else:
                self._wrong(path, extra, "expected an alias of a mapping behind <<")
        return found

    def _scalar(self, node: Node, path: KeyPath) -> Any:
        text, kind = str(node.value), str(node.tag).removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind in ("str", "timestamp"):
            return text
        try:
            if kind == "int":
                return int(text.replace("_", ""), 0) if text[:2].lower() in ("0x", "0o", "0b") else int(text)
            if kind == "float":
                return float(text)
        except ValueError:
            return text
        self._wrong(path, node, "expected a plain value without a YAML tag (!...)")
        return None
