"""The words of the report in one language, read from `text/<language>.yaml`; no other file holds any."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ruamel.yaml import YAML

from patchlight.records import Site

LANGUAGES = ("en", "ja")
# A line folded within Japanese text leaves a space; none belongs after Japanese punctuation, whatever follows.
FOLD = re.compile(r"(?<=[^\x00-\x7f]) (?=[^\x00-\x7f])|(?<=[。、：；）」]) ")

Words = Mapping[str, str]
"""A text by language ("en", "ja"); where a language is missing, the report shows another and marks its language."""


@dataclass(frozen=True)
class Texts:
    """The texts of a language by dotted key. A missing key or number is a KeyError: a fault of ours, never shown."""

    language: str
    entries: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """The text under that key with its numbers filled in."""
        return self.entries[key].format_map(values)

    def word(self, section: str, name: str) -> str:
        """The wording of a name from an open set (a kind that a pack declares), or the name itself."""
        return self.entries.get(f"{section}.{name}", name)

    def pick(self, words: Words) -> str:
        """The text in this language, or in one that it has."""
        return words[self.language] if self.language in words else next(iter(words.values()))

    def listed(self, section: str) -> list[str]:
        """The names in a section, in the order of the file."""
        return [key.removeprefix(f"{section}.") for key in self.entries if key.startswith(f"{section}.")]


def site_words(site: Site, texts: Texts) -> str:
    """A site in words, e.g. "MLP output, layer 7, last word"; a head is named by its number."""
    names = {"component": texts.word("component", site.component), "role": texts.word("role", str(site.position))}
    return texts("page.site" if site.unit is None else "page.head", layer=site.layer, head=site.unit, **names)


@cache
def read_texts(language: str) -> Texts:
    """The texts of one of `LANGUAGES`."""
    source = files("patchlight.report").joinpath("text", f"{language}.yaml").read_text(encoding="utf-8")
    return Texts(language, dict(flat(YAML(typ="safe").load(source))))


def flat(entries: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Every text in nested sections with its dotted key."""
    found: list[tuple[str, str]] = []
    for key, value in entries.items():
        name = f"{prefix}{key}"
        found += flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, FOLD.sub("", value))]
    return found
