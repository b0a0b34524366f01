"""YAML that people write (packs, studies), read so that every complaint names file, line and column.

The text is composed into nodes that know where they stand, turned into plain data, and checked by a pydantic
model. Anchors are refused: a few nested ones can stand for gigabytes.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from patchlight.errors import Place
from patchlight.packs.problem import FileRefused, Language, Problem, form_message, nearest, refused

M = TypeVar("M", bound=BaseModel)
Where = tuple[str | int, ...]  # the way to a value in the data, e.g. ("facts", 3, "answers", 0)


@dataclass(frozen=True)
class Places:
    """Where each value and each key of one file stands."""

    file: Path
    values: Mapping[Where, Place]
    keys: Mapping[Where, Place]

    def value(self, *path: str | int) -> Place:
        """The place of a value; of the nearest value around it where it is absent."""
        return self._nearest(self.values, path)

    def key(self, *path: str | int) -> Place:
        """The place of a mapping's key; of the value where the path does not end in one."""
        return self.keys.get(path) or self.value(*path)

    def _nearest(self, table: Mapping[Where, Place], path: Where) -> Place:
        for end in range(len(path), -1, -1):
            if path[:end] in table:
                return table[path[:end]]
        return Place(self.file)


@dataclass(frozen=True)
class Source(Generic[M]):
    """What a YAML file says, and where it says it."""

    value: M
    places: Places


def load_yaml(path: str | Path, model_class: type[M], code: str) -> M:
    """The file as an instance of `model_class`.

    `code` is the prefix of the error codes, e.g. `study`: `study-not-found`, `study-not-text`, `study-yaml`,
    `study-unknown-key`, `study-missing-key`, `study-value`.

    Raises InputError with file:line:column and, for a misspelt key or word, a suggestion.
    """
    return read_source(path, model_class, code).value


def read_source(path: str | Path, model_class: type[M], code: str) -> Source[M]:
    """The file as an instance of `model_class`, with the places of its values; raises like `load_yaml`."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        where = Place(file, problem.object[: problem.start].count(b"\n") + 1)
        raise refused("not-text", where, prefix=code) from problem
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise refused("not-found", Place(file), reason=reason, prefix=code) from problem
    return parse_source(text, file, model_class, code)


def parse_source(text: str, file: Path, model_class: type[M], code: str) -> Source[M]:
    """The text of `file` as an instance of `model_class`, with places; raises like `load_yaml`."""
    data, places = parse_yaml(text, file, code)
    if not isinstance(data, dict):
        raise refused("value.not-mapping", places.value(), prefix=code)
    try:
        return Source(model_class.model_validate(data), places)
    except ValidationError as problem:
        errors = problem.errors(include_url=False)
        raise FileRefused([_complaint(error, model_class, places, code) for error in errors]) from problem


def parse_yaml(text: str, file: Path, code: str) -> tuple[Any, Places]:
    """Plain data (dict, list, str, int, float, bool, None, date) and the place of every value in it.

    Raises InputError `<code>-yaml` for malformed text, a key given twice, anchors, and foreign tags.
    """
    reader = _Reader(file, code)
    try:
        data = reader.read(text)
    except MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        where = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        detail = " ".join(str(part) for part in (problem.context, problem.problem) if part)
        raise refused("yaml.syntax", where, detail=detail, prefix=code) from problem
    except ReaderError as problem:
        where = _place_of_offset(text, file, problem.position)
        raise refused("yaml.character", where, character=problem.character, prefix=code) from problem
    except YAMLError as problem:
        raise refused("yaml.syntax", Place(file), detail=str(problem), prefix=code) from problem
    except RecursionError as problem:
        raise refused("yaml.deep", Place(file), prefix=code) from problem
    return data, Places(file, reader.values, reader.keys)


def _place_of_offset(text: str, file: Path, offset: int) -> Place:
    before = text[:offset]
    return Place(file, before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1)


class _Reader:
    """Turns YAML nodes into plain data and remembers where each one stood."""

    def __init__(self, file: Path, code: str) -> None:
        self.file, self.code = file, code
        self.values: dict[Where, Place] = {}
        self.keys: dict[Where, Place] = {}
        self._yaml = YAML(typ="safe", pure=True)

    def read(self, text: str) -> Any:
        node = self._yaml.compose(text)
        return None if node is None else self._value(node, ())

    def _value(self, node: Node, path: Where) -> Any:
        if node.anchor:
            raise self._refuse(node, "yaml.anchor")
        self.values[path] = self._place(node)
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: MappingNode, path: Where) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in data:
                raise self._refuse(key_node, "yaml.twice", name=key)
            self.keys[(*path, key)] = self._place(key_node)
            data[key] = self._value(value_node, (*path, key))
        return data

    def _key(self, node: Node) -> str:
        key = self._scalar(node) if isinstance(node, ScalarNode) else None
        if not isinstance(key, str):
            raise self._refuse(node, "yaml.key")
        return key

    def _scalar(self, node: Node) -> Any:
        try:
            return self._yaml.constructor.construct_object(node)
        except ValueError as problem:
            raise self._refuse(node, "yaml.scalar", detail=str(problem)) from problem

    def _place(self, node: Node) -> Place:
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _refuse(self, node: Node, key: str, **values: Any) -> FileRefused:
        return refused(key, self._place(node), **values, prefix=self.code)


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the nearest known word, or an empty text."""
    guess = nearest(word, known)
    return f"did you mean {guess!r}?" if guess else ""


def _complaint(error: Any, model_class: type[BaseModel], places: Places, code: str) -> Problem:
    path: Where = tuple(error["loc"])
    name = str(path[-1]) if path else ""
    if error["type"] == "extra_forbidden":
        known = _known_keys(model_class, path[:-1])
        values = {"name": name, "known": ", ".join(known), "guess": nearest(name, known)}
        return Problem("unknown-key", "error", places.key(*path), values, code)
    if error["type"] == "missing":
        return Problem("missing-key", "error", places.value(*path), {"name": name}, code)
    told: dict[str, Any] = {
        "path": _dotted(path),
        "message": _message(error),
        "shown": _shown(error),
        **_remedy(error),
    }
    return Problem("value.one", "error", places.value(*path), told, code)


def _message(error: Any) -> Mapping[Language, str]:
    english: str = error["msg"].removeprefix("Value error, ")
    return form_message(error["type"], english[:1].lower() + english[1:], error.get("ctx", {}))


def _shown(error: Any) -> Mapping[str, str]:
    given = error["input"]
    if not isinstance(given, str | int | float) or len(repr(given)) >= 80:
        return {"en": "", "ja": ""}
    return {"en": f" (given: {given!r})", "ja": f" (書かれた値: {given!r})"}


def _remedy(error: Any) -> dict[str, Any]:
    if error["type"] == "string_type" and not isinstance(error["input"], dict | list):
        return {"remedy": {"en": "write it in quotes, so that it is read as text", "ja": "引用符で囲んでください"}}
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        known = [word.strip("' ") for word in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        listed = ", ".join(known)
        remedy = {"en": f"allowed: {listed}", "ja": f"使えるもの: {listed}"}
        return {"remedy": remedy, "guess": nearest(error["input"], known)}
    return {"remedy": {"en": "correct this value", "ja": "この値を直してください"}}


def _dotted(path: Where) -> str:
    return ".".join(str(part) for part in path) or "the file"


def _known_keys(model_class: type[BaseModel], path: Where) -> list[str]:
    """The keys that the model at `path` takes; list indices and free keys of a mapping are stepped over."""
    models = [model_class]
    for part in path:
        fields = {(field.alias or name): field for model in models for name, field in model.model_fields.items()}
        if part in fields and (inner := list(_models_in(fields[str(part)].annotation))):
            models = inner
    return sorted({field.alias or name for model in models for name, field in model.model_fields.items()})


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models_in(inner)
