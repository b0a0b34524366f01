"""The data card of a prepared corpus: what went in, what was left out and why, what came out. No text is in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from patchlight.corpus.terms import RULE, TermCount

FORMAT = "patchlight-corpus/1"
EXAMPLES = 10  # documents named for each reason
REASONS = {
    "no-text": "no abstract or no text",
    "too-short": "shorter than the least length",
    "too-long": "longer than the greatest length",
    "language": "surely in another language",
    "same-text": "the same text as an earlier document",
    "near-duplicate": "nearly the same text as an earlier document",
}
PUBMED_LICENCE = (
    "Abstracts of PubMed: free to read; most remain under the copyright of their publishers. "
    "Pass on PMIDs, not texts (see the terms of the National Library of Medicine)."
)


@dataclass
class Dropped:
    """Documents left out for one reason, the first of them by their ids."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Counts one more."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(name)


@dataclass
class Source:
    """A file or folder that was read: its digest, its records, what else is known; where it stopped, if it did."""

    name: str
    sha256: str
    records: int = 0
    search: Mapping[str, Any] | None = None
    stopped: str = ""


@dataclass(frozen=True)
class Card:
    """All that is told of a prepared corpus."""

    sources: Sequence[Source]
    licences: Sequence[str]
    settings: Mapping[str, Any]
    read: int
    dropped: Mapping[str, Dropped]
    kept: int
    characters: int
    parts: Mapping[str, int]
    families: int
    largest_family: int
    origins: Mapping[str, int]
    languages: Mapping[str, int]
    replaced_characters: int
    terms: Sequence[TermCount]
    documents_sha256: str
    version: str
    format: str = FORMAT
    term_rule: str = RULE


def markdown(card: Card) -> str:
    """The card for people."""
    lines = [
        "# Data card",
        "",
        f"{card.read:,} records were read, {card.kept:,} documents kept ({card.characters:,} characters).",
        "Only `documents.parquet` holds texts. To pass the corpus on, give this card and `manifest.csv`.",
        *_section("Sources", ["source", "records", "SHA-256", "remarks"], map(_source, card.sources)),
        "",
        *(f"- {note}" for note in card.licences or ["Terms of use: not stated."]),
        *_section("Left out", ["reason", "documents", "first ones"], map(_dropped, card.dropped.items())),
        *_section("Split", ["part", "documents"], card.parts.items()),
        "",
        "Documents that share an id, much of their text or a long sentence are a family, which is on one side as a",
        f"whole: {card.families:,} families, the largest of {card.largest_family:,} documents.",
        *_section(
            "Terms", ["term", "documents", "mentions", "documents (text)", "mentions (text)"], map(_term, card.terms)
        ),
        "",
        card.term_rule,
        *_section("Where the documents come from", ["source field", "documents"], card.origins.items()),
        *_section("Languages found (und: not sure; kept)", ["language", "records"], card.languages.items()),
        "",
        f"Documents with a replacement character (text damaged before it came here): {card.replaced_characters:,}.",
        *_section("Settings", ["setting", "value"], card.settings.items()),
        "",
        f"Made by patchlight {card.version}; `documents.parquet` has the SHA-256 {card.documents_sha256}.",
    ]
    return "\n".join(lines) + "\n"


def _section(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    table = [head, ["---"] * len(head), *rows]
    return ["", f"## {title}", "", *("| " + " | ".join(_cell(value) for value in row) + " |" for row in table)]


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _source(source: Source) -> Sequence[object]:
    search = source.search
    told = f"PubMed: {search['query']}, {search['found']} found on {search['searched']}" if search else ""
    return source.name, source.records, source.sha256, "; ".join(filter(None, [told, source.stopped]))


def _dropped(entry: tuple[str, Dropped]) -> Sequence[object]:
    reason, dropped = entry
    return REASONS[reason], dropped.count, ", ".join(dropped.examples)


def _term(count: TermCount) -> Sequence[object]:
    return count.term, count.documents, count.mentions, count.documents_in_texts, count.mentions_in_texts
