"""A row of a table, or of JSON, as a document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patchlight.errors import InputError, Place
from patchlight.records import Document

HALF_PAIR = re.compile("[\ud800-\udfff]")
FIELDS = ("title", "source", "pmid", "id")  # taken where they are, beside the text


@dataclass(frozen=True)
class Reading:
    """How rows are read: the field that holds the text, whether a row may have none, whether it names its side."""

    text_field: str = "text"
    empty: bool = False
    part: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are read."""
        return (*FIELDS, self.text_field, *(["part"] if self.part else []))


def document(row: Mapping[str, Any], place: Place, reading: Reading) -> Document:
    """The document of a row; without an id it is called after its place, such as `notes.csv:3`.

    A list of texts (the sections of an abstract) becomes its lines. Raises InputError `corpus-no-text`,
    `corpus-not-unicode`.
    """
    text = row.get(reading.text_field)
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "\n".join(text)
    if text is None and reading.empty and reading.text_field in row:
        text = ""
    if not isinstance(text, str) or not (text.strip() or reading.empty):
        raise _no_text(row, place, reading)
    if not all(map(is_unicode, (text, *(str(row.get(field)) for field in FIELDS)))):
        raise not_unicode(place)
    return Document(
        id=str(row.get("pmid") or row.get("id") or f"{place.file.name}:{place.line}"),
        text=text,
        title=str(row.get("title") or ""),
        source=str(row.get("source") or place.file.name),
        part=str(row.get("part") or "") if reading.part else "",
    )


def is_unicode(text: str) -> bool:
    """Whether the text can be written to a file: JSON can spell half of a surrogate pair."""
    return text.isascii() or not HALF_PAIR.search(text)


def not_unicode(place: Place) -> InputError:
    """The error for bytes that are not UTF-8."""
    return InputError("corpus-not-unicode", "this is not Unicode text", where=place, fix="save the file as UTF-8")


def _no_text(row: Mapping[str, Any], place: Place, reading: Reading) -> InputError:
    if row.get(reading.text_field) is not None:
        what = f"the field '{reading.text_field}' is not text, or is empty"
        return InputError("corpus-no-text", what, where=place, fix="give every row a text, or remove the row")
    shown = ", ".join(repr(str(field)[:40]) for field in list(row)[:12])
    what = f"the row has no field '{reading.text_field}'; its fields: {shown or 'none'}"
    return InputError("corpus-no-text", what, where=place, fix="name the field that holds the text")
