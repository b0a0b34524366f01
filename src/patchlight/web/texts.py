"""The words of the pages, by language, read from `text/AREA.LANGUAGE.yaml`; no other file holds any."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from string import Formatter

from ruamel.yaml import YAML

from patchlight.report.texts import LANGUAGES, Texts, flat

USED = re.compile(r"""\bt\(\s*["']([\w.-]+)["']\s*[,)]""")
SECTIONS = re.compile(r"""\bt\(\s*["']([\w.-]+\.)["']\s*~""")


@cache
def web_texts(language: str) -> Texts:
    """The texts of all areas in one of `LANGUAGES`. Raises ValueError where two areas have the same key."""
    found: dict[str, str] = {}
    for source in sorted(files("patchlight.web").joinpath("text").iterdir(), key=lambda each: each.name):
        if source.name.endswith(f".{language}.yaml"):
            entries = dict(flat(YAML(typ="safe").load(source.read_text(encoding="utf-8"))))
            if twice := found.keys() & entries.keys():
                raise ValueError(f"{source.name} repeats {sorted(twice)}")
            found |= entries
    return Texts(language, found)


def require_texts(templates: Mapping[str, str]) -> None:
    """Raises ValueError for a text that a template uses and a language lacks, or whose numbers differ by language."""
    every = {language: web_texts(language).entries for language in LANGUAGES}
    keys = set().union(*every.values())
    missing = {(language, key) for language, entries in every.items() for key in keys - entries.keys()}
    used = {key for template in templates.values() for key in USED.findall(template)}
    missing |= {("any language", key) for key in used - keys}
    sections = {section for template in templates.values() for section in SECTIONS.findall(template)}
    missing |= {("any language", each) for each in sections if not any(key.startswith(each) for key in keys)}
    if missing:
        raise ValueError(f"texts are missing: {sorted(missing)}")
    differing = [key for key in sorted(keys) if len({_names(entries[key]) for entries in every.values()}) > 1]
    if differing:
        raise ValueError(f"texts name other values in other languages: {differing}")


def _names(text: str) -> frozenset[str]:
    return frozenset(name for _, name, _, _ in Formatter().parse(text) if name)
